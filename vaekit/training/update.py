"""One optimizer step: forward, backward, clip, gate, step, average. The only file that touches the optimizer."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.losses.base import LossTerms
from vaekit.schedules import Epochs
from vaekit.training import optimizers
from vaekit.training.clipping import Clip
from vaekit.training.ema import Average
from vaekit.training.engine import Engine
from vaekit.training.guard import Guard
from vaekit.training.options import FitOptions
from vaekit.training.plan import Part, Step
from vaekit.training.rates import LearningRate
from vaekit.vae import VAE


class Update:
    """Takes a model one step further; nothing in it waits for the device, unless the optimizer makes it (see `Gate`).

    Args:
        vae: the model, on the engine's device.
        engine: the device and the precision.
        options: of the run: optimizer, learning rate, gradient clip, average.
        guard: which keeps a step that is not finite from leaving a trace.
        steps: of the run, where they are known; for a learning rate that depends on them.

    Attributes:
        engine, options: as given.
        optimizer: what updates the weights.
        average: of the weights; None where none was asked for.
    """

    def __init__(self, vae: VAE, engine: Engine, options: FitOptions, guard: Guard, steps: int | None) -> None:
        self._vae, self.engine, self.options, self._guard = vae, engine, options, guard
        self._rate = LearningRate(options.learning_rate, steps)
        build = partial(optimizers.build, options.optimizer, vae, self._rate(0), not self._rate.is_constant)
        self.optimizer = build()
        objective: Any = torch.compile(_Objective(vae)) if options.compile else _Objective(vae)
        self._model = engine.setup_model(objective, (vae.encoder, vae.decoder))
        if engine.shards.is_divided:  # the parameters are others now
            self.optimizer = build()
        self._clip = Clip(options.gradient_clip, optimizers.clipped_together(vae))
        self._optimizer = engine.setup_optimizer(self.optimizer)
        self.average = None if options.ema is None else Average(vae, options.ema)  # of the weights that all processes have now
        guard.attach(self.optimizer, self.average)

    def begin_epoch(self, history: Epochs) -> None:
        """Take what the epochs so far say of the learning rate.

        Raises:
            ValueError: a parameter has become trainable since the run began, and the optimizer does not have it.
        """
        optimizers.check_that_all_are_updated(self._vae, self.optimizer)
        self._rate.begin_epoch(history)

    def __call__(self, step: Step) -> list[LossTerms]:
        """Take the step; returns the terms that each of its parts saw, without gradients, on the device."""
        self._guard.begin()
        seen = self.add_gradients(step)
        scaler = self.engine.scaler
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        self._guard.observe_gradients(step.number)
        for size in self._clip():
            if scaler is None:
                self._guard.observe(size)
        self._rate.set(self.optimizer.param_groups, step.number)
        if self._guard.judge():
            self._guard.step(self._optimizer.step)
        elif scaler is not None:
            scaler.leave_out()
        self.release()
        if self.average is not None:
            self.average.update(step.number, self._guard.bad)
        self._guard.end()
        return seen

    def add_gradients(self, step: Step) -> list[LossTerms]:
        """Add the gradient of the mean over the step's examples to those of the parameters; returns as a call does."""
        return [self._add_gradients(step, part, is_last=part is step.parts[-1]) for part in step.parts]

    def release(self) -> None:
        """Let go of the gradients: of a run that was interrupted between backward and step, some are left."""
        for group in self.optimizer.param_groups:  # as zero_grad does, which tells a profiler of it for longer than it takes
            for parameter in group["params"]:
                parameter.grad = None

    def _add_gradients(self, step: Step, part: Part, *, is_last: bool) -> LossTerms:
        """Add a part's share in the gradient of the mean over the step's examples."""
        batch, ranks = part.batch.to(self.engine.device), self.engine.ranks
        is_divided = len(part.counts) > 1
        with ranks.holding(part.counts), self.engine.part_of_step(self._model, averages=is_last and is_divided):
            objective, terms = self._model(
                batch.x,
                batch.condition,
                key=step.key,
                step=step.number,
                index=batch.index,
                dataset_size=step.dataset_size,
                row_start=part.row_start,
            )
            if not objective.requires_grad:
                raise ValueError(
                    f"step {step.number}: the objective depends on no parameter that can be trained: all have been frozen, "
                    "or the objective is detached from them"
                )
            if is_divided or len(step.parts) > 1:
                averaged = ranks.world if is_divided else 1  # gradients, which this undoes
                objective = objective * (averaged * len(batch.x) / max(step.count, 1))
            self.engine.backward(objective)
        seen: LossTerms = terms
        self._guard.observe(objective.detach(), seen.total, seen.reconstruction, seen.kl, *seen.extras.values())
        return seen


class _Objective(nn.Module):
    """What backward is called on, and the terms without gradients: no other way leads to the parameters."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, *batch: Any, **where: Any) -> tuple[Tensor, LossTerms]:
        terms = self.vae(*batch, **where)
        return terms.objective, terms.detach()

"""One optimizer step: forward, backward, clip, gate, step. The only file that touches the optimizer."""

from __future__ import annotations

from typing import Any

import torch

from vaekit.losses.base import LossTerms
from vaekit.schedules import Constant, as_schedule
from vaekit.training import optimizers
from vaekit.training.engine import Engine
from vaekit.training.guard import Guard
from vaekit.training.options import FitOptions
from vaekit.training.plan import Step
from vaekit.vae import VAE


class Update:
    """Takes a model one step further; nothing in it waits for the device.

    Args:
        vae: the model, on the engine's device.
        engine: the device and the precision.
        options: of the run: optimizer, learning rate, gradient clip.
        guard: which keeps the optimizer from applying what is not finite.
        dataset_size: the number of training examples, where it is known; for objectives that depend on it.
    """

    def __init__(self, vae: VAE, engine: Engine, options: FitOptions, guard: Guard, dataset_size: int | None) -> None:
        self._engine, self._guard, self._clip, self._dataset_size = engine, guard, options.gradient_clip, dataset_size
        self._rate = as_schedule(options.learning_rate)
        raw = optimizers.build(options.optimizer, vae, self._rate(0))
        self._scheduled = [] if isinstance(self._rate, Constant) else _without_rate_of_their_own(raw, vae)
        guard.gate(raw)
        self._model, self._optimizer = engine.setup(vae, raw)
        self._groups = raw.param_groups

    def __call__(self, step: Step) -> LossTerms:
        """Take the step; returns the terms that it saw, without gradients, on the device."""
        batch = step.batch.to(self._engine.device)
        terms: LossTerms = self._model(
            batch.x,
            batch.condition,
            key=step.key,
            step=step.number,
            index=batch.index,
            dataset_size=self._dataset_size,
        )
        objective = terms.objective
        self._engine.backward(objective)
        self._guard.observe(objective)
        if self._clip is not None:
            for group in self._groups:  # an objective's own parameters are clipped by themselves
                self._guard.observe(torch.nn.utils.clip_grad_norm_(group["params"], self._clip))
        for group in self._scheduled:
            group["lr"] = self._rate(step.number)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return terms.detach()

    def release(self) -> None:
        """Let go of the gradients: of a run that was interrupted between backward and step, some are left."""
        self._optimizer.zero_grad(set_to_none=True)


def _without_rate_of_their_own(optimizer: torch.optim.Optimizer, vae: VAE) -> list[dict[str, Any]]:
    """The optimizer's groups, less those for which the objective has a learning rate of its own."""
    own: set[Any] = set()
    for group in vae.loss.parameter_groups():
        if "lr" in group:
            params = [group["params"]] if isinstance(group["params"], torch.Tensor) else group["params"]
            own |= {p[1] if isinstance(p, tuple) else p for p in params}
    return [group for group in optimizer.param_groups if not own & set(group["params"])]

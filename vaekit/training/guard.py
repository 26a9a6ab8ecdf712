"""What happens when a loss, a term or a weight is no longer finite: the last finite weights are kept, and the reason is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaekit.data import Stream, Whole
from vaekit.evaluation.terms import named_terms
from vaekit.inputs import check_values
from vaekit.losses.base import LossTerms
from vaekit.training.plan import Step
from vaekit.vae import VAE, evaluation_mode


class NonFiniteLossError(ArithmeticError):
    """A loss, a term of it or the weights became NaN or infinite; the model holds the last finite weights."""


@dataclass(frozen=True)
class Taken:
    """A step that was taken, and the terms that it saw, on the device, until somebody looks at them."""

    step: Step
    terms: LossTerms


class Guard:
    """Keeps the last finite weights, and explains what was not finite.

    A flag on the device is NaN from the first objective or gradient norm that is not finite on. An optimizer whose kernel takes
    `found_inf`, as PyTorch's fused ones do, then leaves the weights alone, so that they are those from before that step when the
    loss is read at last. Others step with gradients of 0, which moves the weights by their momentum at most.

    Args:
        vae: the model, on its device.
        batches: the training data, for the numbers of its rows.
    """

    def __init__(self, vae: VAE, batches: Whole | Stream) -> None:
        self._vae, self._batches = vae, batches
        self._kept: dict[str, Tensor] = {}
        self._flag = torch.zeros((), device=vae.device)
        self._holds_still = True

    def observe(self, value: Tensor) -> None:
        """Note a scalar, an objective or the norm of a gradient, that has to be finite."""
        value = value.detach()
        self._flag += value - value

    def gate(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the optimizer from applying what is not finite, in hooks around its step.

        The hooks join the flag with a `found_inf` that is there already, that of a `torch.amp.GradScaler`, and put it back.
        """
        if not getattr(optimizer, "_step_supports_amp_scaling", False):
            self._holds_still = False
            optimizer.register_step_pre_hook(self._mask)
            return
        before: list[Tensor | None] = []

        def close(optimizer: Any, *_: Any) -> None:
            before.append(getattr(optimizer, "found_inf", None))
            bad = self._flag.isnan().float()
            optimizer.found_inf = bad if before[-1] is None else torch.maximum(bad, before[-1])

        def put_back(optimizer: Any, *_: Any) -> None:
            if (found_inf := before.pop()) is None:
                del optimizer.found_inf
            else:
                optimizer.found_inf = found_inf

        optimizer.register_step_pre_hook(close)
        optimizer.register_step_post_hook(put_back)

    def _mask(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        bad = self._flag.isnan()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(bad, 0.0)

    def keep(self) -> None:
        """Remember weights and buffers as they are at the beginning of an epoch."""
        state = self._vae.state_dict()
        if not self._kept:
            self._kept = {name: tensor.clone() for name, tensor in state.items()}
        else:
            for name, tensor in state.items():
                self._kept[name].copy_(tensor)

    def check(self, taken: Sequence[Taken], means: Mapping[str, float], epoch: int, *, weights_too: bool) -> None:
        """Raise if what was seen in these steps is not what a run can go on from.

        Args:
            taken: the steps since the last look.
            means: their mean terms.
            epoch: the running one, for messages.
            weights_too: look at the weights as well: a gradient can ruin them where every loss was finite.

        Raises:
            NonFiniteLossError: with the last finite weights back in the model.
            ValueError, TypeError: a loader's batch holds what no model should see.
        """
        if not all(map(math.isfinite, means.values())) or bool(self._flag.isnan()):
            self._refuse(taken, epoch)
        if weights_too and not math.isfinite(sum(float(p.detach().sum(dtype=torch.float32)) for p in self._vae.parameters())):
            self._refuse(taken, epoch)
        for one in taken:
            self._check_values(one.step)

    def _check_values(self, step: Step) -> None:
        if not step.is_checked:
            check_values(self._vae, step.batch, f"train, the batch of step {step.number}")

    def _refuse(self, taken: Sequence[Taken], epoch: int) -> None:
        """Raise for the first step whose terms were not finite, with finite weights in the model."""
        held, because = self._restore()
        where = f"epoch {epoch + 1}"
        for one in taken:
            named = named_terms(one.terms)
            if one.terms.auxiliary is not None:
                named["auxiliary"] = one.terms.auxiliary
            bad = [name for name, value in named.items() if not value.isfinite().all()]
            if bad:
                self._check_values(one.step)
                name = next((n for n in bad if n != "loss"), "loss")  # blame the term, not the loss that sums it
                rows = self._rows(named[name], one.step.batch.index)
                if one.step.number == 0:
                    raise NonFiniteLossError(f"{where}, step 0: {name} is not finite{rows}. {self._why_at_once(one.step)}")
                raise NonFiniteLossError(
                    f"{where}, step {one.step.number}: {name} is not finite{rows}. {because}The model holds {held}. "
                    "A lower learning_rate, or gradient_clip=1.0, often helps"
                )
        first, last = taken[0].step.number, taken[-1].step.number
        raise NonFiniteLossError(
            f"{where}, steps {first} to {last}: the gradient is not finite, though every loss is. "
            f"The model holds {held}. A lower learning_rate often helps"
        )

    @torch.no_grad()
    def _why_at_once(self, step: Step) -> str:
        """What can be said of a loss that was not finite before anything was learned."""
        x = step.batch.x
        said = "No step has been made, so the learning rate is not the reason"
        observed = x[x.isfinite()]
        if len(observed):
            low, high = float(observed.min()), float(observed.max())
            said += f". The values of that batch range from {low:.6g} to {high:.6g}"
        with evaluation_mode(self._vae):
            batch = step.batch.to(self._vae.device)
            logvar = getattr(self._vae.encode(batch.x, batch.condition), "logvar", None)
        most = math.log(torch.finfo(self._vae.dtype).max)
        if logvar is not None and not (logvar.abs() < most).all():
            extreme = logvar.abs().max().item()
            said += (
                f". The encoder gives a log variance of {extreme:.6g} in size, whose exponential overflows {self._vae.dtype} "
                f'beyond {most:.0f}: bound it, posterior={{"name": "diagonal_gaussian", "logvar_bound": 10.0}} for example'
            )
        return f"{said}. Standardise the data, so that each column has mean 0 and variance 1, or scale it to the size of 1"

    def _restore(self) -> tuple[str, str]:
        """Put back what was kept, where what is there is not finite; says which weights the model holds, and why."""
        weights = {name for name, _ in self._vae.named_parameters()}
        state = self._vae.state_dict()
        ruined = {name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()}
        if not ruined:
            moved = [name for name in state if name not in weights and not torch.equal(state[name], self._kept[name])]
            names = ", ".join(moved[:3]) + (f" and {len(moved) - 3} more" if len(moved) > 3 else "")
            later = f", and the averages {names} as a few steps after it left them" if moved else ""
            before = "from before that step" if self._holds_still else "from before that step, moved on by momentum alone"
            return f"the weights {before}{later}", ""
        for name in state if ruined & weights else ruined:
            state[name].copy_(self._kept[name])
        if not ruined & weights:
            return f"the weights from before that step, and {', '.join(sorted(ruined))} from the beginning of the epoch", ""
        return "the weights from the beginning of the epoch", "The weights themselves had become non-finite in the step before. "

    def _rows(self, value: Tensor, index: Tensor | None) -> str:
        """Where a term [B] is not finite, in words: rows of the dataset, or of the batch where those are not known."""
        if value.ndim == 0:
            return ""
        numbers = (~value.isfinite()).nonzero().flatten().cpu()
        which = "batch"
        if index is not None and isinstance(self._batches, Whole):
            numbers, which = self._batches.numbers(index.cpu()[numbers]), "dataset"
        first = ", ".join(map(str, numbers[:10].tolist())) + (", ..." if len(numbers) > 10 else "")
        return f" in {len(numbers)} of {len(value)} rows, in the {which} these: {first}"

"""What happens when a loss, a term or a weight is no longer finite: the last finite weights are kept, and the reason is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaekit.data import Batch, Stream, Whole
from vaekit.evaluation.terms import named_terms
from vaekit.inputs import check_batch
from vaekit.losses.base import LossTerms
from vaekit.training.plan import Part
from vaekit.training.scaling import Scaler
from vaekit.vae import VAE, evaluation_mode


class NonFiniteLossError(ArithmeticError):
    """A loss, a term of it or the weights became NaN or infinite; the model holds the last finite weights."""


@dataclass(frozen=True)
class Taken:
    """A part of a step that was taken, and the terms that it saw, on the device, until somebody looks at them.

    Attributes:
        number: of the step.
        count: of the part's examples.
        terms: without gradients.
        index: of its examples, where the data has numbers.
        batch: the examples, where somebody may have to look at them: those of the first step, and those that nobody has checked.
        is_checked: whether the values of the batch have been checked already.
    """

    number: int
    count: int
    terms: LossTerms
    index: Tensor | None
    batch: Batch | None
    is_checked: bool

    @classmethod
    def of(cls, number: int, part: Part, terms: LossTerms) -> Taken:
        """What is kept of a part of step `number`."""
        batch = None if part.is_checked and number else part.batch
        return cls(number, len(part.batch.x), terms, part.batch.index, batch, part.is_checked)


class Guard:
    """Keeps the last finite weights, and explains what was not finite.

    A flag on the device is NaN from the first objective or gradient norm that is not finite on. The optimizer then leaves the
    weights alone, so that they are those from before that step when the loss is read at last: one whose kernel takes
    `found_inf`, as PyTorch's fused ones do, by itself; of others the weights are kept over each step and put back.

    Args:
        vae: the model, on its device.
        batches: the training data, for the numbers of its rows.
        scaler: of gradients in float16, which leaves steps out by itself.
    """

    def __init__(self, vae: VAE, batches: Whole | Stream, scaler: Scaler | None = None) -> None:
        self._vae, self._batches, self._scaler = vae, batches, scaler
        self._kept: dict[str, Tensor] = {}
        self._flag = torch.zeros((), device=vae.device)

    def observe(self, value: Tensor) -> None:
        """Note a scalar, an objective for example, that has to be finite."""
        value = value.detach()
        self._flag += value - value

    def observe_gradient(self, norm: Tensor) -> None:
        """Note the norm of a gradient, which has to be finite; in float16 its scale may have been too large."""
        if self._scaler is None:
            self.observe(norm)

    def gate(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the optimizer from applying what is not finite, in hooks around its step."""
        kind = _FoundInf if getattr(optimizer, "_step_supports_amp_scaling", False) else _PutBack
        kind(self._flag).attach(optimizer)

    def keep(self) -> None:
        """Remember weights and buffers as they are at the beginning of an epoch."""
        state = self._vae.state_dict()
        if not self._kept:
            self._kept = {name: tensor.clone() for name, tensor in state.items()}
        else:
            for name, tensor in state.items():
                self._kept[name].copy_(tensor)

    def check(self, taken: Sequence[Taken], means: Mapping[str, float], epoch: int) -> None:
        """Raise if what was seen in these steps is not what a run can go on from.

        Args:
            taken: the steps since the last look.
            means: their mean terms.
            epoch: the running one, for messages.

        Raises:
            NonFiniteLossError: with the last finite weights back in the model.
            ValueError, TypeError: a loader's batch holds what no model should see.
        """
        if not all(map(math.isfinite, means.values())) or bool(self._flag.isnan()):
            self._refuse(taken, epoch)
        if self._scaler is not None and (failure := self._scaler.failure()):
            raise NonFiniteLossError(
                f"epoch {epoch + 1}, up to step {taken[-1].number}: {failure}. The model holds the weights of the last step that "
                "had a finite one"
            )
        for one in taken:
            self._check_values(one)

    def check_weights(self, taken: Sequence[Taken], epoch: int) -> None:
        """Raise if a weight is not finite: a gradient can ruin them where every loss was finite.

        Args:
            taken: the steps that nobody has looked at yet.
            epoch: the running one, for messages.

        Raises:
            NonFiniteLossError: with the last finite weights back in the model.
        """
        if not math.isfinite(sum(float(p.detach().sum(dtype=torch.float32)) for p in self._vae.parameters())):
            self._refuse(taken, epoch)

    def restore(self) -> None:
        """Put the last finite weights back, where those in the model are not finite."""
        if self._kept:
            self._restore()

    def _check_values(self, taken: Taken) -> None:
        if not taken.is_checked:
            assert taken.batch is not None
            check_batch(self._vae, self._batches, taken.batch, f"train, the batch of step {taken.number}")

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
                self._check_values(one)
                name = next((n for n in bad if n != "loss"), "loss")  # blame the term, not the loss that sums it
                rows = self._rows(named[name], one.index)
                if one.number == 0:
                    raise NonFiniteLossError(f"{where}, step 0: {name} is not finite{rows}. {self._why_at_once(one)}")
                raise NonFiniteLossError(
                    f"{where}, step {one.number}: {name} is not finite{rows}. {because}The model holds {held}. "
                    "A lower learning_rate, or gradient_clip=1.0, often helps"
                )
        steps = f", steps {taken[0].number} to {taken[-1].number}" if taken else ""
        raise NonFiniteLossError(
            f"{where}{steps}: the gradient is not finite, though every loss is. "
            f"The model holds {held}. A lower learning_rate often helps"
        )

    @torch.no_grad()
    def _why_at_once(self, taken: Taken) -> str:
        """What can be said of a loss that was not finite before anything was learned."""
        assert taken.batch is not None
        x = taken.batch.x
        said = "No step has been made, so the learning rate is not the reason"
        observed = x[x.isfinite()]
        if len(observed):
            low, high = float(observed.min()), float(observed.max())
            said += f". The values of that batch range from {low:.6g} to {high:.6g}"
        with evaluation_mode(self._vae):
            batch = taken.batch.to(self._vae.device)
            logvar = getattr(self._vae.encode(batch.x, batch.condition), "logvar", None)
        most = math.log(torch.finfo(self._vae.dtype).max)
        if logvar is not None and (logvar.abs() >= most).any():
            extreme = logvar.abs().nan_to_num(0.0, posinf=math.inf).max().item()
            said += (
                f". The encoder gives a log variance of {extreme:.6g} in size, whose exponential overflows {self._vae.dtype} "
                f'beyond {most:.0f}: bound it, posterior={{"name": "diagonal_gaussian", "logvar_bound": 10.0}} for example'
            )
        return f"{said}. Standardise the data, so that each column has mean 0 and variance 1, or scale it to the size of 1"

    def _restore(self) -> tuple[str, str]:
        """Put back what was kept, where what is there is not finite; says which weights the model holds, and why."""
        weights = {name for name, _ in self._vae.named_parameters(remove_duplicate=False)}
        state = self._vae.state_dict()
        ruined = {name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()}
        if not ruined:
            moved = [name for name in state if name not in weights and not torch.equal(state[name], self._kept[name])]
            names = ", ".join(moved[:3]) + (f" and {len(moved) - 3} more" if len(moved) > 3 else "")
            later = f", and the averages {names} as a few steps after it left them" if moved else ""
            return f"the weights from before that step{later}", ""
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


class _FoundInf:
    """Hands the flag to a kernel that skips its step where `found_inf` is 1.

    A `found_inf` that is there already, that of a `torch.amp.GradScaler`, counts as well, and is put back.
    """

    def __init__(self, flag: Tensor) -> None:
        self._flag = flag
        self._before: Tensor | None = None

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.register_step_pre_hook(self._close)
        optimizer.register_step_post_hook(self._open)

    def _close(self, optimizer: Any, *_: Any) -> None:
        self._before = getattr(optimizer, "found_inf", None)
        bad = self._flag.isnan().float()
        optimizer.found_inf = bad if self._before is None else torch.maximum(bad, self._before)

    def _open(self, optimizer: Any, *_: Any) -> None:
        if self._before is None:
            del optimizer.found_inf
        else:
            optimizer.found_inf = self._before


class _PutBack:
    """Keeps the weights over a step, and puts them back if the flag is NaN."""

    def __init__(self, flag: Tensor) -> None:
        self._flag = flag
        self._kept: dict[Tensor, Tensor] = {}

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.register_step_pre_hook(self._keep)
        optimizer.register_step_post_hook(self._put_back)

    @torch.no_grad()
    def _keep(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight not in self._kept:
                    self._kept[weight] = torch.empty_like(weight)
                self._kept[weight].copy_(weight)

    @torch.no_grad()
    def _put_back(self, *_: Any) -> None:
        bad = self._flag.isnan()
        for weight, kept in self._kept.items():
            weight.copy_(torch.where(bad, kept, weight))

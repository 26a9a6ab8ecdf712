"""What happens when a loss, a term, a gradient or a weight is not finite: it leaves no trace, and the reason is given."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vaekit.data import Batch, Batches, Whole
from vaekit.gathering import Ranks, gathered, summed
from vaekit.inputs import check_batch
from vaekit.losses.base import LossTerms
from vaekit.training import explain
from vaekit.training.ema import Average
from vaekit.training.gate import Buffers, Gate
from vaekit.training.plan import Part, Step
from vaekit.training.scaling import Scaler
from vaekit.training.shards import Shards, local, norm
from vaekit.training.state import RunState
from vaekit.vae import VAE

MOST_SKIPPED_IN_A_ROW = 50  # bad steps from the same weights, with other examples and noise each: more will not help
_NORMS = 4  # of the gradient, that are remembered
_SMALL = 4096  # elements of a gradient that is read in every step


class NonFiniteLossError(ArithmeticError):
    """A loss, a term of it, a gradient or a weight became NaN or infinite; the model holds the last finite weights."""


@dataclass(frozen=True)
class Taken:
    """A part of a step that was taken, and the terms that it saw, on the device, until somebody looks at them.

    Attributes:
        number: of the step.
        key: of the step's noise.
        row_start: the number of the part's first example in the step.
        counts: how many examples of the part each process has.
        dataset_size: the number of examples in the dataset, where it is known.
        terms: without gradients.
        index: of its examples, where the data has numbers.
        batch: the examples, where they cannot be fetched again by `index`, or nobody has checked them; else None.
        is_checked: whether the values of the batch have been checked already.
        bad: bool scalar on the device: whether something in the step was not finite, so that it was left out.
    """

    number: int
    key: Tensor
    row_start: int
    counts: tuple[int, ...]
    dataset_size: int | None
    terms: LossTerms
    index: Tensor | None
    batch: Batch | None
    is_checked: bool
    bad: Tensor

    @classmethod
    def of(cls, step: Step, part: Part, terms: LossTerms, bad: Tensor) -> Taken:
        """What is kept of a part of a step."""
        batch = None if part.is_checked else part.batch
        where = (step.number, step.key, part.row_start, part.counts, step.dataset_size)
        return cls(*where, terms, part.batch.index, batch, part.is_checked, bad)

    @property
    def count(self) -> int:
        """The number of examples that this process has of the part."""
        return len(self.terms.reconstruction)

    def examples(self, batches: Batches) -> Batch:
        """The batch, fetched again if need be."""
        if self.batch is not None:
            return self.batch
        assert isinstance(batches, Whole)
        assert self.index is not None
        return batches.at(self.index)


@dataclass(frozen=True)
class Failure:
    """What a run ended at.

    Attributes:
        taken: the parts of the step that was not finite; empty where the weights alone became so, after a good step.
        epoch: 0, 1, ...
        last_good: the number of the last good step; None if there was none.
        norms: the numbers of some good steps before, and the norms of their gradients.
        weights_are_lost: whether the weights from before the step are not known any more, so that those from the beginning of
            the epoch are in the model.
        skipped: the number of steps in a row that were left out, where the run was to skip them.
        is_float16: whether networks computed in float16.
    """

    taken: Sequence[Taken]
    epoch: int
    last_good: int | None
    norms: Sequence[tuple[int, float]] = ()
    weights_are_lost: bool = False
    skipped: int = 0
    is_float16: bool = False

    def step(self, batches: Batches) -> Step:
        """The step again, with its examples."""
        parts = [Part(one.examples(batches), one.row_start, one.is_checked, one.counts) for one in self.taken]
        return Step(self.taken[0].number, self.taken[0].key, tuple(parts), self.taken[0].dataset_size)


@dataclass
class _Row:
    """The bad steps since the last good one that this process has taken: the number of the last, the parts of the first."""

    last: int = -1
    first: list[Taken] = field(default_factory=list)


class Guard:
    """Keeps what is not finite out of a run, and has it explained.

    All that a step sees is observed on the device: the objective, each of its terms, and gradients (`observe_gradients`). One
    that is not finite makes the step a bad one, which leaves weights, optimizer, averages and buffers as they were before it, bit
    for bit. The flags of the steps are read at the next look. With "stop" all steps after a bad one are bad as well, so that the
    model is then still the one of the bad step; with "skip" each is for itself.

    Args:
        vae: the model, on its device.
        batches: the training data.
        on_nonfinite: "stop" or "skip".
        scaler: of gradients in float16, which leaves steps out by itself.
        ranks: the processes of the run, for which a step is bad if it is for one; None for this one alone.
        shards: the model's weights; None where every process has all of them.

    Attributes:
        bad: bool scalar on the device, whether the present step is a bad one.
        explain: gives the message about a failure.
        explain_validation: gives the message about validation data on which the loss of an epoch, 0, 1, ..., is not finite.
    """

    def __init__(
        self,
        vae: VAE,
        batches: Batches,
        on_nonfinite: str = "stop",
        scaler: Scaler | None = None,
        ranks: Ranks | None = None,
        shards: Shards | None = None,
    ) -> None:
        self._vae, self._batches, self._skips = vae, batches, on_nonfinite == "skip"
        self._shards = shards or Shards()
        self._buffers, self._scaler, self._ranks = Buffers(vae), scaler, ranks or Ranks()
        self._parameters = list(vae.parameters())  # finding them in every step would take as long as a small layer
        self._gate: Gate | None = None
        self._average: Average | None = None
        self._kept: dict[str, Tensor] = {}
        self._seen: list[Tensor] = []
        self._norms: deque[tuple[int, Tensor]] = deque(maxlen=_NORMS)
        self._measures = True
        self._last_good: int | None = None
        self._row = _Row()
        self.bad = torch.zeros((), dtype=torch.bool, device=vae.device)
        self.explain: Callable[[Failure], str] = lambda failure: explain.message(failure, batches)
        self.explain_validation: Callable[[int], str] = lambda epoch: explain.message_of_validation(epoch, "not finite", None)

    def attach(self, optimizer: torch.optim.Optimizer, average: Average | None = None) -> None:
        """Take care of what evolves in a run besides the model."""
        self._gate, self._average = Gate(optimizer), average

    def begin(self) -> None:
        """Before the forward pass of a step."""
        self._seen = []
        self._buffers.keep()

    def observe(self, *values: Tensor) -> None:
        """Note values that have to be finite for the step to be a good one."""
        self._seen += values

    def observe_gradients(self, number: int) -> None:
        """Note the gradients of step `number`; in float16 the scaler sees to them.

        In the first step after a look the norm of all is measured, which those can have who ask for it later; on a GPU it is in
        every step. On the CPU reading every gradient takes a twentieth of a step, so that the others read the small ones alone:
        what makes the gradient of a layer's weights NaN makes that of its bias NaN too. Should a gradient escape that, the next
        step's terms are NaN, and the weights come back that the epoch began with.
        """
        if self._scaler is not None:
            return
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if self._measures or self.bad.device.type != "cpu":
            of_all = norm(gradients)
            self.observe(of_all)
            if self._measures:
                self._norms.append((number, of_all))
            self._measures = False
        else:
            own = (local(gradient) for gradient in gradients)
            self.observe(*(gradient for gradient in own if gradient.numel() <= _SMALL))

    @torch.no_grad()
    def judge(self) -> bool:
        """Whether the optimizer is to be called; from now on `bad` is the flag of this step."""
        flat = [value if value.ndim == 1 else value.reshape(-1) for value in self._seen]
        nothing = (torch.cat(flat) * 0).sum()  # 0 times infinity is NaN
        self._seen = []
        self._ranks.add_up(nothing)
        bad = nothing.isnan()
        self.bad = bad if self._skips else bad.logical_or_(self.bad)
        assert self._gate is not None
        return self._gate.lets_through(self.bad)

    def step(self, call: Callable[[], object]) -> None:
        """Have the optimizer take the step, by `call`, or to the same effect and faster."""
        assert self._gate is not None
        if self._scaler is not None or not self._gate.step():
            call()

    def end(self) -> None:
        """After a step: what its forward pass has moved goes back, if it was a bad one."""
        self._buffers.put_back(self.bad)

    def keep(self) -> None:
        """Remember weights, buffers and averages as they are at the beginning of an epoch."""
        self._parameters = list(self._vae.parameters())
        state = self._everything()  # of a model that is divided, what this process has
        if not self._kept:
            self._kept = {name: tensor.clone() for name, tensor in state.items()}
        else:
            for name, tensor in state.items():
                self._kept[name].copy_(tensor)

    def check(self, taken: Sequence[Taken], state: RunState) -> list[Taken]:
        """The good ones of these parts, all of whose steps are done; counts the bad steps in `state`, or raises.

        Raises:
            NonFiniteLossError: with finite weights in the model.
            ValueError, TypeError: a loader's batch holds what no model should see.
        """
        flags = torch.stack([one.bad for one in taken]).tolist() if taken else []
        good: list[Taken] = []
        bad: list[Taken] = []
        for one, is_bad in zip(taken, flags, strict=True):
            if bad and not self._skips and one.number > bad[0].number:  # bad for the reason alone that it came later
                break
            self._check_values(one)
            (bad if is_bad else good).append(one)
            if not is_bad:
                self._last_good, self._row, state.bad_in_a_row = one.number, _Row(), 0
            elif self._skips:
                self._skip(one, state)
        if bad and not self._skips:
            self._refuse(bad, state)
        if self._scaler is not None and (failure := self._scaler.failure()):
            raise NonFiniteLossError(
                f"epoch {state.epoch + 1}, up to step {state.step - 1}: {failure}. The model holds the weights of the last "
                "step that had a finite one"
            )
        if not self._weights_are_finite():
            self._refuse([], state)
        if state.bad_in_a_row >= MOST_SKIPPED_IN_A_ROW:
            self.give_up(state)
        self._measures = True
        return good

    def give_up(self, state: RunState) -> None:
        """Raise for the bad steps since the last good one, which was the reason why there are only those.

        Raises:
            NonFiniteLossError: with finite weights in the model, those from before the first of them.
        """
        if not self._row.first:  # they were taken before the run was resumed
            raise NonFiniteLossError(
                f"epoch {state.epoch + 1}: all {state.skipped:,} steps were left out, because something in them was not finite. "
                f"The first was {state.first_skip}. The model holds the weights from before that step"
            )
        self._refuse(self._row.first, state)

    def warn_of_skips(self, state: RunState, steps: int) -> None:
        """Say how many of an epoch's steps were left out."""
        if state.skipped:
            warnings.warn(
                f"epoch {state.epoch + 1}: {state.skipped:,} of {steps:,} steps were left out, because something in them was not "
                f"finite. The first was {state.first_skip}",
                UserWarning,
                stacklevel=5,
            )

    def check_validation(self, terms: Mapping[str, float], epoch: int) -> None:
        """Raise if a mean term on the validation data is not finite.

        Raises:
            NonFiniteLossError: it is not.
        """
        if not all(map(math.isfinite, terms.values())):
            raise NonFiniteLossError(self.explain_validation(epoch))

    def restore(self) -> bool:
        """Put back what was kept, where weights, averages or buffers are not finite any more; whether weights were not."""
        if not self._kept or self._shards.is_put_together:  # which was looked at before
            return False
        weights = {name for name, _ in self._vae.named_parameters(remove_duplicate=False)}
        now = self._everything()
        lost = {name for name in now if not _is_finite(now[name]) and _is_finite(self._kept[name])}
        if self._shards.is_divided:
            lost = {name for of_rank in self._ranks.gather(sorted(lost)) for name in of_rank}
        are_lost = any(name in weights for name in lost)
        for name in now if are_lost else lost:
            now[name].copy_(self._kept[name])
        return are_lost

    def _everything(self) -> dict[str, Tensor]:
        averages = {} if self._average is None else self._average.state_dict()
        named = {**self._vae.state_dict(), **{f"average of {name}": tensor for name, tensor in averages.items()}}
        return {name: local(tensor) for name, tensor in named.items()}

    def _weights_are_finite(self) -> bool:
        sums = torch.stack([local(p.detach()).sum(dtype=torch.float32) for p in self._vae.parameters()])
        nothing = (sums * 0).sum()
        if self._shards.is_divided:
            self._ranks.add_up(nothing)
        return bool(nothing.isfinite())

    def _check_values(self, taken: Taken) -> None:
        if not taken.is_checked:
            assert taken.batch is not None
            check_batch(self._vae, self._batches, taken.batch, f"train, the batch of step {taken.number}")

    def _skip(self, taken: Taken, state: RunState) -> None:
        """Count a part of a step that was left out."""
        if taken.number != self._row.last:
            self._row.last = taken.number
            state.skipped, state.bad_in_a_row = state.skipped + 1, state.bad_in_a_row + 1
        if not self._row.first or taken.number == self._row.first[0].number:
            self._row.first.append(taken)
        if not state.first_skip:
            state.first_skip = f"step {taken.number}: {explain.what([self._whole(taken)], self._batches)}"

    def _refuse(self, taken: Sequence[Taken], state: RunState) -> None:
        are_lost = self.restore()
        norms = [(number, float(norm)) for number, norm in self._norms if not taken or number < taken[0].number]
        norms = [(number, norm) for number, norm in norms if math.isfinite(norm)]
        is_float16, last_good = self._scaler is not None, self._last_good
        if last_good is None and taken:  # of a run that was resumed
            earlier = state.bad_in_a_row - (self._row.last - taken[0].number + 1) if self._skips else 0
            good = taken[0].number - earlier - 1
            last_good = None if good < 0 else good
        whole = [self._whole(one) for one in taken]
        failure = Failure(whole, state.epoch, last_good, norms, are_lost, state.bad_in_a_row, is_float16)
        raise NonFiniteLossError(self._ranks.gather(self.explain(failure))[0])

    def _whole(self, taken: Taken) -> Taken:
        """The part as one process would have had it, with the examples and the terms of all."""
        if self._ranks.world == 1:
            return taken
        before, counts = sum(taken.counts[: self._ranks.rank]), taken.counts
        share, terms = taken.count / max(sum(counts), 1), taken.terms
        batch = taken.examples(self._batches).to(self._vae.device)
        with torch.no_grad(), self._ranks.holding(counts):
            batch = batch.each(lambda value: gathered(value).cpu())
            extras = {name: gathered(v) if v.ndim else summed(v * share) for name, v in terms.extras.items()}
            auxiliary = None if terms.auxiliary is None else summed(terms.auxiliary * share)
            rows = (gathered(terms.reconstruction), gathered(terms.kl))
            terms = LossTerms(summed(terms.total * share), *rows, extras, auxiliary)
        return replace(
            taken, row_start=taken.row_start - before, counts=(sum(counts),), terms=terms, index=batch.index, batch=batch
        )


@torch.no_grad()
def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())

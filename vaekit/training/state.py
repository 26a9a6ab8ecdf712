"""Where a run is: everything that evolves in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vaekit.evaluation.terms import TermSums
from vaekit.training.ema import Average
from vaekit.training.history import History
from vaekit.training.shards import Shards
from vaekit.training.trackers import Tracker
from vaekit.vae import VAE

_PLAIN = (
    *("epoch", "step", "batch", "examples", "validation", "first_step", "first_example", "seconds"),
    *("skipped", "first_skip", "bad_in_a_row", "stop"),
)


@dataclass
class RunState:
    """Where a run is; what callbacks see of it.

    Attributes:
        vae: the model.
        optimizer: what updates its weights.
        average: of the weights; None where the run keeps none.
        history: the epochs so far.
        epoch: the running epoch, 0, 1, ...; at the end of an epoch the one that has ended.
        step: the number of optimizer steps done.
        batch: the number of batches done in the running epoch.
        examples: the number of examples seen in the whole run.
        sums: the terms of the running epoch, as far as they have been looked at.
        skipped: the number of steps of the running epoch that were left out because something in them was not finite.
        first_skip: which one was the first, and why, in words.
        bad_in_a_row: the number of steps that were left out since the last good one.
        window: the terms of the steps since the last record of the trackers, as far as they have been looked at.
        terms: the mean terms of the steps that were looked at last, in nats.
        validation: the terms of the last validation, in nats, without "val_".
        stop: set it to end the run after the present step or epoch; the epoch that is running counts, and the run is
            finished.
        interrupt: set it to what interrupts the run, "the time limit" for example, to end it after the present step as ^C does:
            with everything saved, and without the epoch that is running, so that it can be resumed there.
        rank: of this process, 0, 1, ...; only rank 0 writes and draws.
        first_step: the number of steps that had been done when the running epoch began.
        first_example: the number of examples that had been seen by then.
        seconds: that the running epoch has taken before a run went on with it.
        trackers: of the run, for pictures; none in another process than rank 0.
        shards: the weights, with strategy="fsdp" divided among the processes from the first step of an epoch to its last.
    """

    vae: VAE
    optimizer: torch.optim.Optimizer
    average: Average | None = None
    history: History = field(default_factory=History)
    epoch: int = 0
    step: int = 0
    batch: int = 0
    examples: int = 0
    sums: TermSums = field(default_factory=TermSums)
    skipped: int = 0
    first_skip: str = ""
    bad_in_a_row: int = 0
    window: TermSums = field(default_factory=TermSums)
    terms: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    first_step: int = 0
    first_example: int = 0
    seconds: float = 0.0
    stop: bool = False
    interrupt: str = ""
    rank: int = 0
    trackers: tuple[Tracker, ...] = ()
    shards: Shards = field(default_factory=Shards)
    _average_in_parts: Average | None = field(default=None, init=False, repr=False)

    @property
    def learning_rate(self) -> float:
        """The rate of the last step, of the parameters without a rate of their own."""
        groups = self.optimizer.param_groups
        return float(next((group["lr"] / group["lr_factor"] for group in groups if "lr_factor" in group), groups[0]["lr"]))

    def begin_epoch(self, number: int) -> None:
        """Nothing has been seen of epoch `number` yet."""
        self.skipped, self.first_skip = 0, ""
        self.epoch, self.batch, self.sums, self.seconds = number, 0, TermSums(), 0.0
        self.first_step, self.first_example = self.step, self.examples

    @property
    def is_within_epoch(self) -> bool:
        """Whether the running epoch has begun, and is not in the history yet."""
        return self.batch > 0 and self.epoch == self.history.epochs

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain data and the tensors themselves."""
        return {
            "model": dict(self.vae.state_dict()),
            "optimizer": self.shards.gathered(self.optimizer.state_dict()),
            "average": None if self.average is None else self.average.state_dict(),
            "history": self.history.state_dict(),
            "sums": self.sums.state_dict(),
            "window": self.window.state_dict(),
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; a run that was interrupted then is not any more."""
        self.vae.load_state_dict(state["model"])
        self.optimizer.load_state_dict(self.shards.divided(state["optimizer"], self.optimizer))
        _lay_out_as_weights(self.optimizer)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.history.load_state_dict(state["history"])
        self.sums.load_state_dict(state["sums"])
        self.window.load_state_dict(state["window"])
        for name in _PLAIN:
            setattr(self, name, state[name])
        self.history.interrupted, self.history.reason = False, ""

    def put_together(self) -> None:
        """Where the model is divided among processes: all of it, and of the averages, in each of them. All have to take part."""
        if self.shards.is_divided:
            self.shards.put_together()
            if self.average is not None:
                self._average_in_parts, self.average = self.average, self.average.put_together(self.vae)

    def take_apart(self) -> None:
        """Divided among the processes again, where it was."""
        if self.shards.is_put_together:
            self.shards.take_apart()
            if self.average is not None and self._average_in_parts is not None:
                self._average_in_parts.take_apart(self.average)
                self.average = self._average_in_parts

    @contextmanager
    def averaged(self) -> Iterator[VAE]:
        """The model with the averaged weights, where the run keeps an average, as it is validated and saved."""
        with nullcontext() if self.average is None else self.average.in_place():
            yield self.vae


def _lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer's tensors the strides of their weights, channels last for example.

    A file holds them row by row, and torch's fused kernels walk both through memory side by side.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)

"""Where a run is: everything that evolves in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

from vaekit.evaluation.terms import TermSums
from vaekit.training.ema import Average
from vaekit.training.history import History
from vaekit.vae import VAE


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
        sums: the terms of the running epoch, as far as they have been looked at.
        skipped: the number of steps of the running epoch that were left out because something in them was not finite.
        first_skip: which one was the first, and why, in words.
        terms: the mean terms of the steps that were looked at last, in nats.
        validation: the terms of the last validation, in nats, without "val_".
        stop: set it to end the run after the present step or epoch; the epoch that is running counts.
        interrupt: set it to what interrupts the run, "the time limit" for example, to end it after the present step as ^C does:
            with everything saved, and without the epoch that is running, so that it can be resumed there.
        rank: of this process, 0, 1, ...; only rank 0 writes and draws.
    """

    vae: VAE
    optimizer: torch.optim.Optimizer
    average: Average | None = None
    history: History = field(default_factory=History)
    epoch: int = 0
    step: int = 0
    batch: int = 0
    sums: TermSums = field(default_factory=TermSums)
    skipped: int = 0
    first_skip: str = ""
    terms: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    stop: bool = False
    interrupt: str = ""
    rank: int = 0

    @property
    def learning_rate(self) -> float:
        """The rate of the last step, of the parameters without a rate of their own."""
        groups = self.optimizer.param_groups
        return float(next((group["lr"] / group["lr_factor"] for group in groups if "lr_factor" in group), groups[0]["lr"]))

    def begin_epoch(self, number: int) -> None:
        """Nothing has been seen of epoch `number` yet."""
        self.epoch, self.batch, self.sums = number, 0, TermSums()
        self.skipped, self.first_skip = 0, ""

    @contextmanager
    def averaged(self) -> Iterator[VAE]:
        """The model with the averaged weights, where the run keeps an average, as it is validated and saved."""
        with nullcontext() if self.average is None else self.average.in_place():
            yield self.vae

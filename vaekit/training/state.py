"""Where a run is: everything that evolves in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from vaekit.evaluation.terms import TermSums
from vaekit.training.history import History
from vaekit.vae import VAE


@dataclass
class RunState:
    """Where a run is; what callbacks see of it.

    Attributes:
        vae: the model.
        history: the epochs so far.
        epoch: the running epoch, 0, 1, ...; at the end of an epoch the one that has ended.
        step: the number of optimizer steps done.
        batch: the number of batches done in the running epoch.
        sums: the terms of the running epoch, as far as they have been looked at.
        stop: set it to end the run after the present step or epoch.
    """

    vae: VAE
    history: History = field(default_factory=History)
    epoch: int = 0
    step: int = 0
    batch: int = 0
    sums: TermSums = field(default_factory=TermSums)
    stop: bool = False

    def begin_epoch(self, number: int) -> None:
        """Nothing has been seen of epoch `number` yet."""
        self.epoch, self.batch, self.sums = number, 0, TermSums()

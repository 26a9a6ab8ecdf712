"""What is left of a failure: the step is taken again and looked at, and a message says what was found."""

from __future__ import annotations

from vaekit import seeding
from vaekit.data import Stream, Whole
from vaekit.training import explain
from vaekit.training.examine import Findings, examine
from vaekit.training.guard import Failure
from vaekit.training.plan import Step, layers_seed
from vaekit.training.update import Update
from vaekit.vae import VAE


class Report:
    """Called with a failure, gives the message about it.

    Args:
        vae: the model, which has the weights from before the step.
        batches: the training data.
        update: of the run, which takes the step again as far as its gradients; all processes of the run do.
        rank: of this process.
    """

    def __init__(self, vae: VAE, batches: Whole | Stream, update: Update, rank: int = 0) -> None:
        self._vae, self._batches, self._update, self._rank = vae, batches, update, rank

    def __call__(self, failure: Failure) -> str:
        if not failure.taken or failure.weights_are_lost:
            return explain.message(failure, self._batches)
        step = failure.step(self._batches)
        try:
            findings = taken_again(self._vae, self._update, step, self._rank)
        except Exception as error:  # whatever it is, the failure itself is what has to be told
            again = f"the step could not be taken again for a closer look: {type(error).__name__}: {error}"
            return explain.message(failure, self._batches, None, [again])
        return explain.message(failure, self._batches, findings)


def taken_again(vae: VAE, update: Update, step: Step, rank: int = 0) -> Findings:
    """What is found in the forward and backward passes of a step, with the noise that they had; the optimizer is left alone."""
    update.release()
    seeding.reseed(vae.device, layers_seed(step.key, rank))
    try:
        return examine(vae, [part.batch.x for part in step.parts], lambda: update.add_gradients(step))
    finally:
        update.release()

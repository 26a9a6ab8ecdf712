"""What is left of a failure: the step is taken again and looked at, a message says what was found, and a folder keeps it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vaekit.data import Batches
from vaekit.evaluation.terms import named_terms, on_device
from vaekit.losses.base import LossTerms
from vaekit.modes import evaluation_mode
from vaekit.training import explain
from vaekit.training.examine import Findings, digests_of, examine
from vaekit.training.guard import Failure, Taken
from vaekit.training.plan import Part, Step
from vaekit.training.replay import Evidence, write
from vaekit.training.state import RunState
from vaekit.training.update import Update
from vaekit.vae import VAE


class Report:
    """Called with a failure, gives the message about it, and leaves a folder for `vaekit replay`.

    Args:
        vae: the model, which has the weights from before the step.
        batches: the training data.
        update: of the run, which takes the step again as far as its gradients; each process of several takes all
            of it.
        state: where the run is; a model that is divided among processes is put together.
        folder: of the run; None for one that leaves nothing, and in other processes than the first.
    """

    def __init__(self, vae: VAE, batches: Batches, update: Update, state: RunState, folder: Path | None) -> None:
        self._vae, self._batches, self._update, self._state, self._folder = vae, batches, update, state, folder

    def __call__(self, failure: Failure) -> str:
        self._state.put_together()
        optimizer = self._state.shards.gathered(self._update.optimizer.state_dict())
        if not failure.taken or failure.weights_are_lost:
            gone = "there is no folder for `vaekit replay`: the weights from before that step are lost"
            return explain.message(failure, self._batches, lines=[] if self._folder is None else [gone])
        step = failure.step(self._batches)
        self._update.release()
        try:
            findings = examine(self._vae, step, self._update.add_gradients)
        except Exception as error:  # whatever it is, the failure itself is what has to be told
            again = f"the step could not be taken again for a closer look: {type(error).__name__}: {error}"
            return explain.message(failure, self._batches, lines=[again])
        finally:
            self._update.release()
        lines = self._comparison(failure, findings)
        if self._folder is None:
            kept = "out= would have left a folder with that step, for `vaekit replay`"
            return explain.message(failure, self._batches, findings, [*lines, kept])
        told = explain.message(failure, self._batches, findings, lines)
        average = None if self._state.average is None else self._state.average.state_dict()
        world = self._update.engine.ranks.world
        evidence = Evidence(failure.epoch, step, findings, told, self._update, optimizer, average, world)
        try:
            kept = f"to take that step again: vaekit replay {write(self._folder, self._vae, evidence)}"
        except (OSError, ValueError, TypeError) as error:
            kept = f"no folder could be written for `vaekit replay`: {error}"
        return explain.message(failure, self._batches, findings, [*lines, kept])

    def _comparison(self, failure: Failure, findings: Findings) -> list[str]:
        """Whether the step gave the same terms again; what several processes have computed it gives to rounding alone."""
        if (world := self._update.engine.ranks.world) > 1:
            return [] if findings.fails else [explain.NEEDS_SEVERAL.format(world=world)]
        seen = digests_of([one.terms for one in failure.taken])
        others = [name for name, digest in seen.items() if findings.digests.get(name) != digest]
        return [f"taken again, the step gave other values: {explain.listed(others)}; something in it is random"] if others else []


@torch.no_grad()
def about_validation(vae: VAE, batches: Batches, key: Tensor, epoch: int) -> str:
    """What was not finite on the validation data, which are looked at once more with the same noise.

    Args:
        vae: the model, with the weights that were validated.
        batches: the data.
        key: of the noise.
        epoch: 0, 1, ...
    """
    key, seen, row_start = key.to(vae.device), list[Taken](), 0
    first: Part | None = None
    with evaluation_mode(vae):
        try:
            for batch in on_device(vae, batches):
                where = {"index": batch.index, "dataset_size": batches.size, "row_start": row_start}
                terms = vae(batch.x, batch.condition, key=key, **where)
                bad = torch.stack([value.isfinite().all() for value in named_terms(terms).values()]).all().logical_not()
                counts = (len(batch.x),)
                seen.append(Taken(0, key, row_start, counts, batches.size, terms.detach(), batch.index, None, True, bad))
                if first is None and bad:
                    first = Part(batch, row_start, True, counts)
                row_start += len(batch.x)
        except ValueError as error:  # a loader that gives its batches once
            return explain.message_of_validation(epoch, f"a closer look was not possible: {error}", None)
        if first is None:
            return explain.message_of_validation(epoch, "looked at once more, every term was finite", None)

        def take(step: Step) -> list[LossTerms]:
            (part,) = step.parts
            where = {"index": part.batch.index, "dataset_size": step.dataset_size, "row_start": part.row_start}
            return [vae(part.batch.x, part.batch.condition, key=step.key, **where)]

        findings = examine(vae, Step(0, key, (first,), batches.size), take)
    return explain.message_of_validation(epoch, explain.what(seen, batches, "validation"), findings)

"""Numbers of a model on held-out examples, each mean with its standard error over the examples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from vaekit import evaluation
from vaekit.data import Examples
from vaekit.evaluation.terms import evaluation_key, on_device
from vaekit.inputs import check_examples, checked_batches
from vaekit.modes import evaluation_mode
from vaekit.plots.catalogue import spread_rows
from vaekit.vae import VAE

MOST_EXAMPLES = 1000
DRAWS = 50
_AGREES = 1e-4  # of the loss: how far reconstruction + kl may be from it for its standard error to be theirs


@dataclass(frozen=True)
class Estimate:
    """A number of a model.

    Attributes:
        name: what it is, in words.
        kind: its name among metrics, "log_likelihood" for example.
        value: in nats for each example, a mean over `examples`; or in the data's units.
        standard_error: of that mean, from the finite number of examples; None where it is not known.
        examples: how many were held out for it.
    """

    name: str
    kind: str
    value: float
    standard_error: float | None
    examples: int


def estimates(vae: VAE, held_out: Examples) -> list[Estimate]:
    """The objective and its terms, log p(x) from below, and the error of reconstructions, over up to 1,000 examples.

    What a model has no such number for, a bound of log p(x) over codes for example, is left out.

    Raises:
        ValueError: data that does not fit the model, or no examples.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, seed=0)
        >>> [each.kind for each in estimates(vae, vaekit.data.as_examples(torch.rand(20, 4)))]
        ['loss', 'reconstruction', 'kl', 'log_likelihood', 'rmse', 'mae']
    """
    rows = spread_rows(held_out, min(len(held_out), MOST_EXAMPLES))
    check_examples(vae, held_out, "data", rows)
    some = held_out.take(rows)
    return [*_terms(vae, some), *_bound(vae, some), *_errors(vae, some)]


def _terms(vae: VAE, some: Examples) -> Iterator[Estimate]:
    loss = evaluation.evaluate(vae, some)["loss"]
    reconstruction, kl = _each(vae, some)
    both = reconstruction + kl
    is_their_sum = abs(float(both.mean()) - loss) <= _AGREES * abs(loss)
    yield Estimate("loss, the training objective, nats", "loss", loss, _error(both) if is_their_sum else None, len(some))
    for name, kind, values in (
        ("reconstruction, -log p(x | z), nats", "reconstruction", reconstruction),
        ("KL of q(z | x) from the prior, nats", "kl", kl),
    ):
        yield Estimate(name, kind, float(values.mean()), _error(values), len(some))


@torch.no_grad()
def _each(vae: VAE, some: Examples) -> tuple[Tensor, Tensor]:
    """Reconstruction and KL of each example, float64 [N] each, with the noise of `vaekit.evaluate`."""
    key, found, before = evaluation_key(0).to(vae.device), [], 0
    with evaluation_mode(vae):
        for batch in on_device(vae, checked_batches(vae, some, 500)):
            where = {"index": batch.index, "dataset_size": len(some), "row_start": before}
            terms = vae(batch.x, batch.condition, key=key, **where)
            found.append(torch.stack([terms.reconstruction, terms.kl]).double().cpu())
            before += len(batch.x)
    reconstruction, kl = torch.cat(found, 1)
    return reconstruction, kl


def _bound(vae: VAE, some: Examples) -> Iterator[Estimate]:
    with suppress(TypeError, ValueError, NotImplementedError):
        bound = evaluation.importance_weighted_bound(vae, some, num_samples=DRAWS)
        name = f"log p(x), at least, by {DRAWS} draws, nats"
        yield Estimate(name, "log_likelihood", bound.log_likelihood, _error(bound.per_example), len(some))


def _errors(vae: VAE, some: Examples) -> Iterator[Estimate]:
    with suppress(TypeError, ValueError, NotImplementedError):
        for name, value in evaluation.reconstruction_error(vae, some).items():
            yield Estimate(f"error of reconstructions, {name}", name.rpartition(" ")[2], value, None, len(some))


def _error(values: Tensor) -> float | None:
    """The standard error of the mean."""
    error = float(values.double().std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return error if math.isfinite(error) else None

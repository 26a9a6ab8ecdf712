"""Draws of z for each example: what they cost, decoding several at once, and their importance weights.

The weight of a draw is w = p(x | z) p(z) / q(z | x): Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders",
ICLR 2016, arXiv:1509.00519, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.losses.base import Batch, LatentVariableModel, StepContext
from vaekit.posteriors.base import Posterior
from vaekit.priors.base import Prior


class Drawn(NamedTuple):
    """One z for each example, or the mean over several, and the two terms of its ELBO.

    Attributes:
        posterior: q(z | x) of the batch.
        z: [B, *S], or [K, B, *S].
        reconstruction: [B], -log p(x | z), a mean over the draws.
        kl: [B], the divergence from the prior.
        levels: of a posterior of several levels the divergence of each, [B], as "kl_level_1", ...; their sum is kl.
    """

    posterior: Posterior
    z: Tensor
    reconstruction: Tensor
    kl: Tensor
    levels: dict[str, Tensor]


def drawn(model: LatentVariableModel, batch: Batch, context: StepContext, num_samples: int | None = None) -> Drawn:
    """z from the posterior of each example, decoded, with its divergence: where an objective begins."""
    posterior, prior = model.encode(batch.x, batch.condition), prior_of(model, batch)
    z, levels = posterior.rsample_kl_by_level(prior, key=context.key, num_samples=num_samples, row_start=context.row_start)
    if num_samples is None:
        reconstruction = model.likelihood.nll(model.natural_parameters(z, batch.condition), batch.x)
    else:
        reconstruction = nll_of_draws(model, batch, z).mean(0)
    levels = tuple(level.mean(0) if level.ndim == 2 else level for level in levels)
    return Drawn(posterior, z, reconstruction, sum(levels[1:], start=levels[0]), named_levels(levels))


def named_levels(levels: Sequence[Tensor]) -> dict[str, Tensor]:
    """The divergence of each of several levels by its name in an objective's extras, "kl_level_1", ...; {} for a single level."""
    return {f"kl_level_{number}": level for number, level in enumerate(levels, 1)} if len(levels) > 1 else {}


def prior_of(model: LatentVariableModel, batch: Batch) -> Prior:
    """The model's prior for the examples of a batch: told their conditions, where it is one that is told."""
    return model.prior_given(batch.condition, batch.x.shape[0])  # not len(), which would be a constant of an exported model


def nll_of_draws(model: LatentVariableModel, batch: Batch, z: Tensor) -> Tensor:
    """-log p(x | z) in nats of K draws for each of B examples: z [K, B, *S] -> [K, B]. All K B of them are decoded at once."""
    draws, examples = z.shape[:2]
    condition = None if batch.condition is None else repeated(batch.condition, draws)
    nll = model.likelihood.nll(model.natural_parameters(z.flatten(0, 1), condition), repeated(batch.x, draws))
    return nll.view(draws, examples)


def nll_and_log_ratio(model: LatentVariableModel, batch: Batch, context: StepContext, num_samples: int) -> tuple[Tensor, Tensor]:
    """-log p(x | z) and log q(z | x) - log p(z) of K draws for each example, [K, B] each; minus their sum is log w."""
    z, log_ratio = model.encode(batch.x, batch.condition).rsample_log_ratio(
        prior_of(model, batch), key=context.key, num_samples=num_samples, row_start=context.row_start
    )
    return nll_of_draws(model, batch, z), log_ratio


def log_mean_weight(log_weights: Tensor) -> Tensor:
    """log 1/K sum_k w_k: [K, ...] -> [...]."""
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(sum_k w_k)^2 / sum_k w_k^2, between 1 and K, without a gradient: [K, ...] -> [...].

    A. Kong, "A note on importance sampling using standardized weights", 1992.

    Example:
        >>> effective_sample_size(torch.tensor([[0.0], [0.0], [-100.0]]))
        tensor([2.])
    """
    effective = 1.0 / torch.softmax(log_weights.detach(), dim=0).square().sum(0)
    return effective.clamp(1.0, log_weights.shape[0])


def batch_mean(values: Tensor) -> Tensor:
    """The mean of [B], 0 for an empty batch."""
    return values.sum() / max(values.shape[0], 1)


def repeated(rows: Tensor, count: int) -> Tensor:
    """[B, ...] -> [count * B, ...], all rows and then all of them again."""
    return rows.expand(count, *rows.shape).flatten(0, 1)

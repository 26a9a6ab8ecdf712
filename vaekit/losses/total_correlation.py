"""The divergence in three parts, of which the total correlation is weighed: beta-TCVAE.

R. T. Q. Chen, X. Li, R. Grosse, D. Duvenaud, "Isolating Sources of Disentanglement in VAEs", 2018, arXiv:1802.04942.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vaekit.checks import checked_size, checked_word
from vaekit.gathering import first_row, gathered
from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.draws import batch_mean
from vaekit.ops.draw import Draw
from vaekit.ops.log_aggregate import log_aggregate as log_densities
from vaekit.posteriors.diagonal_gaussian import DiagonalGaussian
from vaekit.schedules import Schedule, checked_schedule

_LOG_2PI = math.log(2.0 * math.pi)
_SAMPLINGS = ("stratified", "weighted")


@registry.register("beta_tc")
class BetaTC(Loss):
    """Beta-TCVAE: the divergence as mutual information, total correlation and dimension-wise KL, each with its weight.

    The divergence, averaged over the N examples of the dataset, splits with the aggregate posterior q(z) = 1/N sum_n q(z | x_n).
    A weight on the total correlation alone asks for latents that are independent of each other, and unlike the beta of `elbo`
    does not take away what they know of x.

        total = mean of -log p(x | z)
              + alpha (log q(z | x) - log q(z))                       index-code mutual information
              + beta  (log q(z) - sum_d log q(z_d))                   total correlation
              + gamma (sum_d log q(z_d) - log p(z))                   dimension-wise KL

    with one draw of z for each x (equation 2). With all weights 1 it is the ELBO, its divergence estimated from the draw. q(z)
    and q(z_d) are sums over the M examples of the batch, with weights that say how many others each one stands for:

    - "stratified" (appendix C.2): 1/N for the example that z was drawn for, (N - 1) / (N (M - 1)) for each other. Over all
      batches with that example the mean is q(z), and a batch that is the dataset gives q(z). The paper gives one of the others,
      whichever, a weight of its own; here is the mean over which one: as unbiased, with a lower variance.
    - "weighted" (appendix C.1): 1/(N M) for all, which is too small on average, N times where the batch is the dataset. Mostly
      that is a constant in the logarithms: the gradient hardly sees it, the terms do, D - 1 times in the total correlation.

    The logarithm of an unbiased estimate still is too low on average, and only examples whose posteriors overlap tell of each
    other: take batches of hundreds. A term may come out negative. `vaekit.evaluate` with "stratified" and one batch of the whole
    data has the exact log q(z) and log q(z_d) of each draw.

    Use it for latents that each mean one thing; beta from 2 to 10. Not for the highest likelihood. It compares examples: its
    terms are those of a whole batch.
    Cost: B^2 D exponentials in forward and in backward, some rows at a time, which backward computes again: the memory grows
    with B D alone, but for second derivatives. A compiled kernel makes it 10 times faster than PyTorch on the CPU; where
    there is none, torch.compile unrolls the blocks of rows.

    Chen et al., "Isolating Sources of Disentanglement in VAEs", 2018, arXiv:1802.04942, equation 2.

    Args:
        alpha, beta, gamma: weights of at least 0: a number, a `vaekit.schedules.Schedule` of the step, or its spec.
        sampling: "stratified" or "weighted".
        dataset_size: N, where the data does not tell it: a stream. None: the size of the data, in `fit` and in `evaluate` each
            of its own, so that the terms of validation data are of that data's q(z).

    In the terms `kl` is the exact KL(q(z | x) || p(z)), for reference: it is not in the total. The extras `mutual_information`,
    `total_correlation` and `dimensionwise_kl` are the estimates, before their weights. Of a batch of one "stratified" takes
    the example for the whole dataset: the first two are 0.

    Raises:
        TypeError: invalid weights; in use, a posterior other than a diagonal Gaussian or a prior other than the standard
            normal, because the parts need the densities of single latents.
        ValueError: invalid options; in use, an unknown N, or a batch of more than N examples.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, loss={"name": "beta_tc", "beta": 4.0})
        >>> terms = vae(torch.rand(100, 4), dataset_size=5000)
        >>> sorted(terms.extras)
        ['dimensionwise_kl', 'mutual_information', 'total_correlation']
    """

    compares_examples = True

    def __init__(
        self,
        alpha: float | Schedule | Mapping[str, Any] = 1.0,
        beta: float | Schedule | Mapping[str, Any] = 6.0,
        gamma: float | Schedule | Mapping[str, Any] = 1.0,
        sampling: str = "stratified",
        dataset_size: int | None = None,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.gamma = (
            checked_schedule(name, weight) for name, weight in (("alpha", alpha), ("beta", beta), ("gamma", gamma))
        )
        self.sampling = checked_word("sampling", sampling, _SAMPLINGS)
        self.dataset_size = None if dataset_size is None else checked_size("dataset_size", dataset_size)

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        posterior = model.encode(batch.x, batch.condition)
        if not isinstance(posterior, DiagonalGaussian):
            raise TypeError(
                "beta_tc needs the density of each latent by itself, q(z_d | x), which a DiagonalGaussian has; the encoder gives "
                f"a {type(posterior).__name__}. Make the encoder with posterior='diagonal_gaussian', or take the loss factor"
            )
        if not model.prior.is_standard:
            raise TypeError(
                "beta_tc needs a prior whose latents are independent, standard_normal, because it weighs the divergence of each "
                f"latent by itself; the model has a {type(model.prior).__name__}"
            )
        z, kl = posterior.rsample_kl(model.prior, key=context.key, row_start=context.row_start)
        reconstruction = model.likelihood.nll(model.natural_parameters(z, batch.condition), batch.x)
        eps = Draw(context.key, row_start=context.row_start).noise(posterior.mu).flatten(1)
        mu, logvar = (t.flatten(1).to(eps.dtype) for t in (posterior.mu, posterior.logvar))
        # Each process compares its rows with those of all.
        all_mu, all_logvar = gathered(mu), gathered(logvar)
        own, other = log_weights(self.sampling, len(all_mu), self._dataset_size(context.dataset_size, len(all_mu)))
        log_joint, log_marginals = log_aggregate(all_mu, all_logvar, eps, own, other, first_row())
        log_posterior = -0.5 * (eps * eps + logvar + _LOG_2PI).sum(1)
        log_prior = -0.5 * ((mu + torch.exp(0.5 * logvar) * eps).square() + _LOG_2PI).sum(1)
        terms = {
            "mutual_information": log_posterior - log_joint,
            "total_correlation": log_joint - log_marginals,
            "dimensionwise_kl": log_marginals - log_prior,
        }
        extras = {name: batch_mean(term) for name, term in terms.items()}
        weights = (weight(context.step) for weight in (self.alpha, self.beta, self.gamma))
        divergence = sum(weight * term for weight, term in zip(weights, extras.values(), strict=True))
        return LossTerms(batch_mean(reconstruction) + divergence, reconstruction, kl, extras)

    def _dataset_size(self, size_of_data: int | None, count: int) -> int:
        size = size_of_data if self.dataset_size is None else self.dataset_size
        if size is None:
            raise ValueError(
                "beta_tc needs the number of examples in the dataset, and the data does not tell it; give it as "
                'vae(x, dataset_size=...), or in the loss: {"name": "beta_tc", "dataset_size": ...}'
            )
        if count > size:
            raise ValueError(f"a batch of {count} examples is no part of a dataset of {size}; check dataset_size")
        return size


def log_weights(sampling: str, count: int, dataset_size: int) -> tuple[float, float]:
    """Logarithms of the weights in q(z) = sum_j w_j q(z | x_j), for the example that z was drawn for and for each other one.

    Example:
        >>> own, other = log_weights("stratified", 3, dataset_size=5)
        >>> round(math.exp(own), 3), round(math.exp(other), 3)
        (0.2, 0.4)
    """
    if sampling == "weighted":
        both = -math.log(dataset_size * max(count, 1))
        return both, both
    if count < 2:
        return 0.0, 0.0
    return -math.log(dataset_size), math.log(dataset_size - 1) - math.log(dataset_size * (count - 1))


def log_aggregate(mu: Tensor, logvar: Tensor, eps: Tensor, own: float, other: float, first: int = 0) -> tuple[Tensor, Tensor]:
    """log sum_j w_ij q(z_i | x_j), and sum over d of the same for q(z_id | x_j), at z_i = mu_i + exp(logvar_i / 2) eps_i.

    Args:
        mu, logvar: [B, D], of one dtype, float32 or float64.
        eps: [I, D], the noise of rows i, which are examples `first`, `first` + 1, ...
        own, other: log w_ij of a row's own example, and of each other one.
        first: where the rows begin.

    Returns:
        [I] and [I], nats.
    """
    joint, marginals = log_densities(mu, logvar, eps, first, own - other)
    return joint + other, marginals.sum(1) + mu.shape[1] * other

"""The codes of a batch matched to draws from the prior by maximum mean discrepancy: InfoVAE and the Wasserstein autoencoder.

S. Zhao, J. Song, S. Ermon, "InfoVAE: Information Maximizing Variational Autoencoders", 2017, arXiv:1706.02262;
I. Tolstikhin, O. Bousquet, S. Gelly, B. Schoelkopf, "Wasserstein Auto-Encoders", 2017, arXiv:1711.01558; the statistics:
A. Gretton et al., "A Kernel Two-Sample Test", 2012, JMLR 13, equations 3 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vaekit.checks import checked_number, checked_word
from vaekit.gathering import gathered, rows_of_all, shares, summed
from vaekit.latents import LatentKind
from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.draws import Drawn, batch_mean, drawn, prior_of
from vaekit.ops import philox, reference, streams
from vaekit.ops.kernel_sum import kernel_sum
from vaekit.schedules import Schedule, checked_schedule

_KERNELS, _STATISTICS = ("imq", "rbf"), ("u", "v")
_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def squared_mmd(x: Tensor, y: Tensor, kernel: str = "imq", scales: Sequence[float] = _SCALES, statistic: str = "u") -> Tensor:
    """The squared maximum mean discrepancy of two samples of B points each in D dimensions.

        mean of k(x_i, x_j) + mean of k(y_i, y_j) - 2 mean of k(x_i, y_j)

    The kernel is a sum over scales s, with C = 2 D s: "imq" (inverse multiquadratic) has C / (C + |x - y|^2), "rbf" has
    exp(-|x - y|^2 / C). 2 D is the mean squared distance of two draws from a standard normal prior.

    The first two means of the V-statistic ("v") are over all i and j: it is at least 0, and too large by the order of 1/B.
    Those of the U-statistic ("u") leave out i = j: it is unbiased, and may be negative. One point of each says nothing to it: 0.

    Computed some rows at a time, and again in backward: B x B x D is never held, nor B x B of a large batch. Kernels are added up
    in float64.

    Args:
        x, y: [B, D], of one dtype, float32 or float64.
        kernel: "imq" or "rbf".
        scales: positive numbers.
        statistic: "u" or "v".

    Returns:
        a scalar of that dtype.

    Raises:
        ValueError: samples of different shapes, or without rows of points; another kernel or statistic; scales that are not
            positive numbers.
        TypeError: samples of other dtypes.

    Example:
        >>> x = torch.randn(100, 2)
        >>> bool(squared_mmd(x, x, statistic="v").abs() < 1e-6), bool(squared_mmd(x, x + 3.0) > 1.0)
        (True, True)
    """
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"x and y have to be as many points each, [B, D], got {tuple(x.shape)} and {tuple(y.shape)}")
    if x.dtype != y.dtype or x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x and y have to be both float32 or both float64, got {x.dtype} and {y.dtype}; x.float() for example")
    _check_options(kernel, scales, statistic)
    kernels = [2.0 * x.shape[1] * scale for scale in scales], kernel == "rbf"
    totals = kernel_sum(x, None, *kernels), kernel_sum(y, None, *kernels), kernel_sum(x, y, *kernels)
    return _of_totals(*totals, len(x), len(scales), statistic).to(x.dtype)


def _of_totals(of_x: Tensor, of_y: Tensor, across: Tensor, count: int, scales: int, statistic: str) -> Tensor:
    """The squared discrepancy, from the sums of the kernel over all pairs of the points."""
    within, across = (of_x, of_y), across / max(count * count, 1)
    if statistic == "v":
        squared = sum(within) / max(count * count, 1) - 2.0 * across
    elif count == 1:
        squared = 0.0 * across
    else:
        itself = count * float(scales)  # k(x, x) is 1 at each scale
        squared = sum(total - itself for total in within) / max(count * (count - 1), 1) - 2.0 * across
    return squared


def _divided_squared_mmd(x: Tensor, y: Tensor, kernel: str, scales: Sequence[float], statistic: str) -> Tensor:
    """`squared_mmd` of the points of all processes, of which each has some rows: those it compares with all."""
    kernels = [2.0 * x.shape[1] * scale for scale in scales], kernel == "rbf"
    all_x, all_y = gathered(x.detach()), gathered(y.detach())

    def within(own: Tensor, every: Tensor) -> Tensor:
        # Every pair is there twice, once with either point as the constant.
        total = kernel_sum(own, every, *kernels)
        return 2.0 * total - total.detach()

    across = kernel_sum(x, all_y, *kernels)
    if y.requires_grad:  # a prior that learns
        from_y = kernel_sum(y, all_x, *kernels)
        across = across + (from_y - from_y.detach())
    of_x, of_y, across = summed(torch.stack([within(x, all_x), within(y, all_y), across]))
    return _of_totals(of_x, of_y, across, rows_of_all(len(x)), len(scales), statistic).to(x.dtype)


def _check_options(kernel: str, scales: Sequence[float], statistic: str) -> None:
    checked_word("kernel", kernel, _KERNELS)
    checked_word("statistic", statistic, _STATISTICS)
    if isinstance(scales, str) or not isinstance(scales, Sequence) or not scales:
        raise ValueError(f"scales has to be a sequence of positive numbers, (0.5, 1.0, 2.0) for example, got {scales!r}")
    for scale in scales:
        checked_number("every entry of scales", scale, above=0.0)


class _MatchesPrior(Loss):
    """What both objectives share: the discrepancy of the codes from draws of the prior."""

    compares_examples = True

    def __init__(self, kernel: str, scales: Sequence[float], statistic: str) -> None:
        super().__init__()
        _check_options(kernel, scales, statistic)
        self.kernel, self.scales, self.statistic = kernel, tuple(map(float, scales)), statistic

    def _terms(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> tuple[Drawn, dict[str, Tensor]]:
        """The draw, and the extras with the squared discrepancy as "mmd"."""
        terms = drawn(model, batch, context)
        z = terms.z
        key = philox.fold_in(context.key, streams.Step.OBJECTIVE)
        of_prior = prior_of(model, batch).sample(z.shape, key=key, dtype=z.dtype, row_start=context.row_start)
        codes, of_prior = (t.flatten(1).to(reference.compute_dtype(t.dtype)) for t in (z, of_prior))
        discrepancy = squared_mmd if shares() is None else _divided_squared_mmd
        squared = discrepancy(codes, of_prior, self.kernel, self.scales, self.statistic)
        return terms, {**terms.levels, "mmd": squared}


@registry.register("info_vae")
class InfoVAE(_MatchesPrior):
    """InfoVAE: less weight on the divergence of each posterior, and the codes of all examples matched to the prior.

    The divergence of the ELBO takes information on x out of each code. A maximum mean discrepancy asks only that the codes of
    the dataset together look like draws from the prior, so that the decoder may be given all of it.

        total = mean of -log p(x | z) + (1 - alpha) KL(q(z | x) || p(z))  +  (alpha + lambda - 1) MMD^2(q(z), p(z))

    with the maximum mean discrepancy as its divergence (`vaekit.losses.squared_mmd`). alpha = 0, lambda = 1 is the ELBO; alpha =
    1 leaves the discrepancy alone ("MMD-VAE").

    Use it for decoders so strong that they ignore the code, or posteriors that collapse. The discrepancy is small, below
    2 for each scale, next to a reconstruction in nats: take a lambda that makes the two matter alike, 10 to 1000.
    Cost: 3 B^2 kernels of each scale, in memory that does not grow with B^2. torch.compile traces it in one graph. It compares
    examples: the discrepancy is that of a whole batch.

    Zhao, Song, Ermon, "InfoVAE", 2017, arXiv:1706.02262, equation 6.

    Args:
        alpha: at most 1: a number, a `vaekit.schedules.Schedule` of the step, or its spec.
        lambda_: at least 1 - alpha; the same.
        kernel: "imq" or "rbf", see `vaekit.losses.squared_mmd`.
        scales: of the kernel.
        statistic: "u", unbiased; or "v", which the authors' code has.

    The terms `reconstruction` and `kl` are the ELBO's; the extra `mmd` is the estimate of the squared discrepancy from the
    batch's codes, one for each x, and as many draws from the prior, which are noise of a second key.
    The weights of a gaussian_mixture prior learn from the divergence alone: draws have no gradient for them.

    Raises:
        TypeError, ValueError: invalid options; in use, scheduled weights that have become negative.

    Example:
        >>> import vaekit
        >>> loss = {"name": "info_vae", "alpha": 1.0, "lambda_": 100.0}
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, loss=loss)
        >>> terms = vae(torch.rand(100, 4))
        >>> torch.allclose(terms.total, terms.reconstruction.mean() + 100.0 * terms.extras["mmd"])
        True
    """

    latents = LatentKind.VECTORS | LatentKind.DIRECTIONS | LatentKind.BALL

    def __init__(
        self,
        alpha: float | Schedule | Mapping[str, Any] = 0.0,
        lambda_: float | Schedule | Mapping[str, Any] = 100.0,
        kernel: str = "imq",
        scales: Sequence[float] = _SCALES,
        statistic: str = "u",
    ) -> None:
        super().__init__(kernel, scales, statistic)
        self.alpha = checked_schedule("alpha", alpha, lowest=-math.inf)
        self.lambda_ = checked_schedule("lambda_", lambda_, lowest=-math.inf)
        for step in (0, None):
            self._weights(step)

    def _weights(self, step: int | None) -> tuple[float, float]:
        """Those of the divergence and of the discrepancy."""
        alpha, lambda_ = self.alpha(step), self.lambda_(step)
        if alpha > 1.0 or alpha + lambda_ < 1.0:
            raise ValueError(
                "alpha has to be at most 1 and lambda_ at least 1 - alpha, because the weights of the terms are "
                f"1 - alpha and alpha + lambda_ - 1; got alpha {alpha} and lambda_ {lambda_}"
                + ("" if step is None else f" at step {step}")
            )
        return 1.0 - alpha, alpha + lambda_ - 1.0

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        terms, extras = self._terms(model, batch, context)
        of_kl, of_squared = self._weights(context.step)
        total = batch_mean(terms.reconstruction + of_kl * terms.kl) + of_squared * extras["mmd"]
        return LossTerms(total, terms.reconstruction, terms.kl, extras)


@registry.register("wae")
class WAE(_MatchesPrior):
    """WAE-MMD, the Wasserstein autoencoder: reconstruction, and the codes of all examples matched to the prior.

    The distance of the data from what the model generates, in optimal transport, is the least cost of reconstruction under codes
    that are distributed as the prior. That constraint becomes a penalty, the maximum mean discrepancy, and no code is pulled to
    the prior by itself.

        total = mean of -log p(x | z) + lambda MMD^2(q(z), p(z))

    The cost is the likelihood's: "gaussian" has the squared distance of the paper, divided by
    2 sigma^2. The encoder draws z, as the paper allows; nothing keeps its variance from vanishing. With the posterior "point" it
    is deterministic, and `kl` no divergence but -log p(z).

    Use it for sharper reconstructions than the ELBO's and a latent space that fills the prior. It bounds no likelihood.
    Cost: 3 B^2 kernels of each scale, in memory that does not grow with B^2. torch.compile traces it in one graph. It compares
    examples: the discrepancy is that of a whole batch.

    Tolstikhin et al., "Wasserstein Auto-Encoders", 2017, arXiv:1711.01558, equation 4 and algorithm 2.

    Args:
        lambda_: at least 0: a number, a `vaekit.schedules.Schedule` of the step, or its spec.
        kernel: "imq", the paper's, or "rbf", see `vaekit.losses.squared_mmd`.
        scales: of the kernel; those of the authors' code.
        statistic: "u", the paper's, unbiased; or "v".

    The term `kl` is the divergence, for reference: it is not in the total. The extra `mmd` is the estimate of the squared
    discrepancy from the batch's codes, one for each x, and as many draws from the prior, which are noise of a second key.
    The weights of a gaussian_mixture prior learn from the divergence alone: draws have no gradient for them.

    Raises:
        TypeError, ValueError: invalid options.

    Example:
        >>> import vaekit
        >>> loss = {"name": "wae", "kernel": "rbf", "scales": (1.0,)}
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, likelihood="gaussian", loss=loss)
        >>> terms = vae(torch.rand(100, 4))
        >>> torch.allclose(terms.total, terms.reconstruction.mean() + 10.0 * terms.extras["mmd"])
        True
    """

    latents = LatentKind.VECTORS | LatentKind.POINTS | LatentKind.DIRECTIONS | LatentKind.BALL

    def __init__(
        self,
        lambda_: float | Schedule | Mapping[str, Any] = 10.0,
        kernel: str = "imq",
        scales: Sequence[float] = _SCALES,
        statistic: str = "u",
    ) -> None:
        super().__init__(kernel, scales, statistic)
        self.lambda_ = checked_schedule("lambda_", lambda_)

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        terms, extras = self._terms(model, batch, context)
        total = batch_mean(terms.reconstruction) + self.lambda_(context.step) * extras["mmd"]
        return LossTerms(total, terms.reconstruction, terms.kl, extras)

"""The Student t likelihood, for data with outliers.

K. L. Lange, R. J. A. Little, J. M. G. Taylor, "Robust Statistical Modeling Using the t Distribution", 1989; as a likelihood
of variational autoencoders: H. Takahashi et al., "Student-t Variational Autoencoder for Robust Density Estimation", IJCAI 2018.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.likelihoods import draws
from vaekit.likelihoods.base import MissingSpec, registry
from vaekit.likelihoods.positive import DispersedLikelihood, Positive
from vaekit.likelihoods.special import bounded_log, half_step, size_log1p, softplus, times_exp
from vaekit.ops import streams
from vaekit.ops.draw import Draw

_FAR = 2.0 * math.log(1e4)  # of a ratio beside which 1 is nothing, and whose square float32 holds


@registry.register("student_t")
class StudentT(DispersedLikelihood):
    """A Student t for each element, for real-valued data with outliers: far out, the nll grows like a logarithm.

    p(x) = gamma((n + 1) / 2) / (gamma(n / 2) sqrt(n pi) s) (1 + ((x - m) / s)^2 / n)^(-(n + 1) / 2), with n degrees of freedom;
    it tends to a normal as n grows. The parameters of an element are its location m and then, where they are "element", log s and
    log n: P = 1 to 3. `mean` is the location, which is the mean where n > 1 and the median always.

    Args:
        scale: "fixed" at `sigma`; "shared", one learned number for all elements, which starts there; "feature", one for each
            element of an example; "element", from the decoder for each element.
        sigma: the scale s, in the data's units; 1 by default. The standard deviation is s sqrt(n / (n - 2)) where n > 2.
        freedom: where the degrees of freedom come from: "fixed", "shared", "feature" or "element", as for `scale`.
        df: the degrees of freedom n that "fixed" keeps and what is learned starts from; 4 by default.
        missing: "refuse" or "ignore" NaN in the data, or ignore with options, as of `Likelihood`.

    Raises:
        TypeError: a sigma or df that is not a number.
        ValueError: another word for `scale` or `freedom`; a sigma or df that is not positive and finite, or that "element" would
            ignore.

    Example:
        >>> nll = StudentT(df=1.0).nll(torch.zeros(1, 1, 1), torch.tensor([[1e6]]))
        >>> round(float(nll), 4)  # a Cauchy density, log(pi) + 2 log(1e6)
        28.7758
    """

    def __init__(
        self,
        scale: str = "fixed",
        sigma: float | None = None,
        freedom: str = "fixed",
        df: float | None = None,
        missing: MissingSpec = "refuse",
    ) -> None:
        super().__init__(
            missing,
            log_scale=Positive("scale", scale, "sigma", sigma, 1.0),
            log_df=Positive("freedom", freedom, "df", df, 4.0),
        )
        self.scale, self.freedom = scale, freedom

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        (location,), (log_scale, log_df) = self._split(parameters)
        log_scale, log_df = log_scale.expand_as(x), log_df.expand_as(x)
        difference, df = x - location, bounded_log(log_df).exp()
        # (n + 1) log(1 + square / n), from the square's logarithm where float32 does not hold it, or 1 is nothing beside it
        far = 2.0 * (difference.detach().abs().log() - log_scale.detach()) - log_df.detach() > _FAR
        far = far | ((log_df.detach() < -40.0) & (difference != 0.0))  # 1 / n nears the end of float32's range
        square = times_exp(torch.where(far, 0.0, difference), -log_scale).square()
        near = size_log1p(log_df, square) + torch.log1p(times_exp(square.masked_fill(square.isinf(), 0.0), -log_df))
        log_square = 2.0 * (torch.where(far, difference, 1.0).abs().log() - log_scale)
        beyond = (df + 1.0) * softplus(torch.where(far, log_square - log_df, 0.0))
        constant = 0.5 * math.log(2.0 * math.pi) - half_step(0.5 * df, log_df - math.log(2.0))
        return 0.5 * torch.where(far, beyond, near) + log_scale + constant

    def mean(self, parameters: Tensor) -> Tensor:
        self._check_shapes(parameters)
        return parameters[:, 0]

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        return self._before_zeros(mean[0])

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        """As every likelihood's; synchronises."""
        self._check_shapes(parameters)
        wide, noise = draws.wide(parameters, Draw(key, row_start=row_start))
        (location,), (log_scale, log_df) = self._split(wide)
        log_half = (log_df - math.log(2.0)).expand_as(location)
        # A normal over the root of gamma(n / 2) / (n / 2).
        log_precision = draws.log_gamma(noise.folded(streams.StudentT.PRECISION), log_half) - log_half
        normal = draws.normal(noise.folded(streams.StudentT.NORMAL), location.shape)
        return draws.narrow(location + torch.exp(log_scale - 0.5 * log_precision) * normal, parameters)

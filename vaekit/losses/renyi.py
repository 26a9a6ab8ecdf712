"""The variational Renyi bound.

Y. Li, R. E. Turner, "Renyi Divergence Variational Inference", NIPS 2016, arXiv:1602.02311, section 4.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.checks import checked_size, is_number
from vaekit.latents import LatentKind
from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.draws import batch_mean, nll_and_log_ratio


@registry.register("renyi")
class Renyi(Loss):
    """The bound of log p(x) by Renyi's alpha-divergence, which has the ELBO and the importance-weighted bound as special cases.

    alpha says how an encoder is wrong where it cannot be right: large ones keep q(z | x) inside the true posterior, with a
    small variance, small ones let it cover all of it.

        total = mean of -1/(1 - alpha) log 1/K sum_k w_k^(1 - alpha),   w_k = p(x | z_k) p(z_k) / q(z_k | x)

    With alpha = 1 this is the ELBO, the mean of log w_k; with 0 `iwae`; with -inf the largest log w_k alone (the paper's
    VR-max), with inf the smallest. On the same draws it falls as alpha rises. Use it to move between these. It costs K passes
    through the decoder, all at once.

    Everything is an estimate from the draws. With K draws it is biased towards the ELBO, which one draw gives with any alpha.
    `reconstruction` and `kl` are means over the draws, as of `iwae`.

    Li and Turner, "Renyi Divergence Variational Inference", 2016, arXiv:1602.02311, section 4.1.

    Args:
        alpha: any number, or -inf or inf, also written "-inf" and "inf".
        num_samples: K.

    Raises:
        ValueError: num_samples below 1, an alpha that is NaN.
        TypeError: an alpha that is not a number.

    Example:
        >>> import torch, vaekit
        >>> loss = {"name": "renyi", "alpha": 0.5, "num_samples": 10}
        >>> terms = vaekit.create_vae(input_shape=(4,), latent_dim=2, loss=loss)(torch.rand(8, 4))
        >>> bool(terms.total <= (terms.reconstruction + terms.kl).mean())
        True
    """

    latents = LatentKind.VECTORS | LatentKind.DIRECTIONS | LatentKind.BALL

    def __init__(self, alpha: float | str = 0.5, num_samples: int = 5) -> None:
        super().__init__()
        alpha = {"inf": math.inf, "-inf": -math.inf}.get(alpha, alpha) if isinstance(alpha, str) else alpha
        if isinstance(alpha, str) or not is_number(alpha):
            raise TypeError(f"alpha has to be a number, got {alpha!r}")
        if math.isnan(alpha):
            raise ValueError("alpha has to be a number, -inf or inf, got NaN")
        self.alpha, self.num_samples = float(alpha), checked_size("num_samples", num_samples)

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        nll, log_ratio = nll_and_log_ratio(model, batch, context, self.num_samples)
        return LossTerms(batch_mean(-renyi_bound(-(nll + log_ratio), self.alpha)), nll.mean(0), log_ratio.mean(0), {})


def renyi_bound(log_weights: Tensor, alpha: float) -> Tensor:
    """1/(1 - alpha) log 1/K sum_k w_k^(1 - alpha): [K, ...] -> [...], right to rounding for alpha close to 1 as well.

    Example:
        >>> renyi_bound(torch.tensor([0.0, 1.0]), alpha=1.0)
        tensor(0.5000)
    """
    power = 1.0 - alpha
    if power == 0.0:
        return log_weights.mean(0)
    largest = log_weights.amax(0) if power > 0.0 else log_weights.amin(0)
    if math.isinf(power):
        return largest
    # Relative to the largest term every exponent is at most 0. The bound does not depend on what that is, and so its
    # gradient does not either.
    largest = largest.detach()
    return largest + torch.log1p(torch.expm1(power * (log_weights - largest)).mean(0)) / power

"""The evidence lower bound, with a weight on its divergence.

D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, equation 10; the weight beta:
I. Higgins et al., "beta-VAE", ICLR 2017, equation 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vaekit.checks import checked_size
from vaekit.latents import LatentKind
from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.draws import batch_mean, drawn
from vaekit.schedules import Schedule, checked_schedule


@registry.register("elbo")
class Elbo(Loss):
    """The negative evidence lower bound, with a weight beta on the divergence.

    The reconstruction is what x costs given its code, the divergence what the code costs given the prior; together they are at
    least what x costs under the model.

        total = mean of -log p(x | z) + beta KL(q(z | x) || p(z))

    Use it first. It costs one pass through the encoder and one through the decoder for each draw. `kl` is exact where the
    posterior knows it, as `DiagonalGaussian` does for a standard normal prior, and otherwise the mean of log q(z | x) - log
    p(z) over the draws; `reconstruction` is the mean over the draws.

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, equation 10; beta: Higgins et al., "beta-VAE",
    2017, equation 4.

    Args:
        beta: the weight of the divergence: a number, a `vaekit.schedules.Schedule` of the step, or its spec, for example
            {"name": "linear", "steps": 1000}. Outside training a schedule's final weight counts.
        num_samples: K, how many z are drawn for each x; decoded all at once, with the memory for K times the batch.

    Raises:
        TypeError: a beta that is not a weight.
        ValueError: a negative one; num_samples below 1.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, loss={"name": "elbo", "beta": 4.0})
        >>> terms = vae(torch.rand(8, 4))
        >>> torch.allclose(terms.total, (terms.reconstruction + 4.0 * terms.kl).mean())
        True
    """

    latents = LatentKind.VECTORS | LatentKind.DIRECTIONS | LatentKind.BALL | LatentKind.RELAXED_CODES

    def __init__(self, beta: float | Schedule | Mapping[str, Any] = 1.0, num_samples: int = 1) -> None:
        super().__init__()
        self.beta, self.num_samples = checked_schedule("beta", beta), checked_size("num_samples", num_samples)

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        draws = None if self.num_samples == 1 else self.num_samples  # of one draw the same numbers, in fewer operations
        _, _, reconstruction, kl, levels = drawn(model, batch, context, draws)
        return LossTerms(batch_mean(reconstruction + self.beta(context.step) * kl), reconstruction, kl, levels)

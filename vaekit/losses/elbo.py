"""The evidence lower bound, with a weight on its divergence.

D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, equation 10; the weight beta:
I. Higgins et al., "beta-VAE", ICLR 2017, equation 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.schedules import Schedule, as_schedule


@registry.register("elbo")
class Elbo(Loss):
    """The negative evidence lower bound, with a weight beta on the divergence.

    total = mean of -log p(x | z) + beta KL(q(z | x) || p(z)), with one draw of z for each x.

    Args:
        beta: the weight of the divergence: a number, a `vaekit.schedules.Schedule` of the step, or its spec, for example
            {"name": "linear", "steps": 1000}. Outside training a schedule's final weight counts.

    Raises:
        TypeError: a beta that is no weight.
        ValueError: a negative one.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, loss={"name": "elbo", "beta": 4.0})
        >>> terms = vae(torch.rand(8, 4))
        >>> torch.allclose(terms.total, (terms.reconstruction + 4.0 * terms.kl).mean())
        True
    """

    def __init__(self, beta: float | Schedule | Mapping[str, Any] = 1.0) -> None:
        super().__init__()
        self.beta = as_schedule(beta)
        if min(self.beta(0), self.beta(None)) < 0.0:
            raise ValueError(f"beta has to be at least 0, got {beta!r}: a negative one rewards distance from the prior")

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        z, kl = model.encode(batch.x, batch.condition).rsample_kl(model.prior, key=context.key, row_start=context.row_start)
        reconstruction = model.likelihood.nll(model.natural_parameters(z, batch.condition), batch.x)
        total = (reconstruction + self.beta(context.step) * kl).sum() / max(len(batch.x), 1)
        return LossTerms(total, reconstruction, kl, {})

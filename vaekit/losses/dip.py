"""The covariance of the codes matched to the prior's: DIP-VAE.

A. Kumar, P. Sattigeri, A. Balakrishnan, "Variational Inference of Disentangled Latent Concepts from Unlabeled Observations",
2018, arXiv:1711.00848.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vaekit.checks import checked_word
from vaekit.gathering import gathered
from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.draws import batch_mean, drawn
from vaekit.ops import reference
from vaekit.posteriors.base import Posterior
from vaekit.schedules import Schedule, checked_schedule

_KINDS = ("i", "ii")


@registry.register("dip_vae")
class DipVAE(Loss):
    """DIP-VAE: the ELBO and a penalty that holds the covariance of the codes at the prior's, the identity.

    Latents that are independent under the prior should be so over the dataset too; the penalty asks it of their second moments,
    which a batch shows directly, without pairs of examples or a discriminator.

        total = mean of -log p(x | z) + KL(q(z | x) || p(z))
              + lambda_offdiagonal sum_{i != j} C_ij^2 + lambda_diagonal sum_i (C_ii - 1)^2

    - kind "i" (equation 6): C = Cov[mu(x)], the covariance of the posteriors' `mean`, which for a "flow" is its base's mean
      carried along.
    - kind "ii" (equation 7): C = Cov[mu(x)] + E[Sigma(x)], the covariance of z under the aggregate posterior. Without it a latent
      may reach variance 1 in its means alone, and "i" leaves the posterior variances to the divergence.

    Covariance and mean are those of the batch of B examples, divided by B as in the authors' code: an estimate, off by the
    order of 1/B, and squares of its noise add to the penalty.

    Use it for latents without correlation at little cost; in the paper "i" has lambda_diagonal = 10 lambda_offdiagonal,
    "ii" has both equal. It does not see dependence that is not correlation; `beta_tc` does.
    Cost: B D^2. torch.compile traces it in one graph. It compares examples: the covariance is that of a whole batch.

    Kumar et al., "Variational Inference of Disentangled Latent Concepts from Unlabeled Observations", 2018, arXiv:1711.00848.

    Args:
        kind: "i" or "ii".
        lambda_offdiagonal, lambda_diagonal: weights of at least 0: a number, a `vaekit.schedules.Schedule` of the step, or
            its spec.

    The terms `reconstruction` and `kl` are the ELBO's; the extras `covariance_offdiagonal` and `covariance_diagonal` are the two
    sums of squares, before their weights. The means of a single example have no covariance, C = 0 or Sigma(x).

    Raises:
        TypeError: invalid weights; in use, a prior other than the standard normal, whose covariance is another; with
            kind "ii" a posterior other than a diagonal Gaussian, whose Sigma(x) is not known.
        ValueError: another kind, or negative weights.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, loss={"name": "dip_vae", "kind": "i"})
        >>> sorted(vae(torch.rand(100, 4)).extras)
        ['covariance_diagonal', 'covariance_offdiagonal']
    """

    compares_examples = True

    def __init__(
        self,
        kind: str = "ii",
        lambda_offdiagonal: float | Schedule | Mapping[str, Any] = 10.0,
        lambda_diagonal: float | Schedule | Mapping[str, Any] = 10.0,
    ) -> None:
        super().__init__()
        self.kind = checked_word("kind", kind, _KINDS)
        self.lambda_offdiagonal = checked_schedule("lambda_offdiagonal", lambda_offdiagonal)
        self.lambda_diagonal = checked_schedule("lambda_diagonal", lambda_diagonal)

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        if not model.prior.is_standard:
            raise TypeError(
                "dip_vae holds the covariance of the codes at the identity, that of the prior standard_normal; the model has "
                f"a {type(model.prior).__name__}"
            )
        posterior, _, reconstruction, kl, levels = drawn(model, batch, context)
        count = len(batch.x)
        covariance = self._covariance(posterior)
        variances = covariance.diagonal()
        extras = {
            **levels,
            "covariance_offdiagonal": (covariance - variances.diag()).square().sum() * min(count, 1),
            "covariance_diagonal": (variances - 1.0).square().sum() * min(count, 1),
        }
        penalty = self.lambda_offdiagonal(context.step) * extras["covariance_offdiagonal"]
        penalty = penalty + self.lambda_diagonal(context.step) * extras["covariance_diagonal"]
        return LossTerms(batch_mean(reconstruction + kl) + penalty, reconstruction, kl, extras)

    def _covariance(self, posterior: Posterior) -> Tensor:
        """C [D, D] of the batch."""
        mean = gathered(posterior.mean.flatten(1))
        mean = mean.to(reference.compute_dtype(mean.dtype))
        count = max(len(mean), 1)
        centred = mean - mean.sum(0) / count
        with torch.autocast(mean.device.type, enabled=False):
            covariance = centred.T @ centred / count
        if self.kind == "i":
            return covariance
        variances = posterior.variances
        if variances is None:
            raise TypeError(
                'dip_vae of kind "ii" needs the variances of latents that are independent, given x, which a DiagonalGaussian '
                f'has; the encoder gives a {type(posterior).__name__}. Kind "i" needs the means alone'
            )
        return covariance + gathered(variances.flatten(1)).to(mean.dtype).sum(0).div(count).diag()

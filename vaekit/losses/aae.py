"""Codes that are distributed as the prior, by a discriminator: the adversarial autoencoder.

A. Makhzani, J. Shlens, N. Jaitly, I. Goodfellow, B. Frey, "Adversarial Autoencoders", 2015, arXiv:1511.05644.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn.functional import softplus

from vaekit.discriminators import Discriminator
from vaekit.latents import LatentKind
from vaekit.losses.adversarial import AdversarialLoss, logistic, mean_of_places
from vaekit.losses.base import Batch, LatentVariableModel, LossTerms, StepContext, registry
from vaekit.losses.draws import batch_mean, drawn, prior_of
from vaekit.ops import philox, streams
from vaekit.schedules import Schedule, checked_schedule


@registry.register("aae")
class AdversarialAutoencoder(AdversarialLoss):
    """AAE, the adversarial autoencoder: reconstruction, and codes that a discriminator cannot tell from draws of the prior.

    The divergence of the ELBO pulls each example's posterior to the prior. Here the codes of all examples together are matched
    to it, by a discriminator that learns to tell them from draws of the prior, and an encoder that learns to deceive it.

        total = mean of -log p(x | z)  +  lambda g,    g = mean of -log D(z)
        auxiliary = mean of -log D(z') - log(1 - D(z))

    with one draw z for each x, or what the posterior "point" gives, as in the paper, and one z' of the prior; D(z) is the
    probability that z is one of the prior's (equation 1). The paper's phases, reconstruction, discriminator, encoder, are one
    step here.

    Use it where the prior can only be drawn from, or the codes should fill it without each being pulled there. It bounds no
    likelihood. `wae` matches the codes without a discriminator, which is more stable and for many latents weaker. The prior is
    not trained: draws of it are what the discriminator is shown.
    Cost: three passes of the codes through the discriminator. torch.compile traces it in one graph.

    Makhzani et al., 2015, arXiv:1511.05644.

    Args:
        latent_shape: the shape [*S] of one example's latents; `vaekit.create_vae` fills it in.
        lambda_: at least 0: a number, a `vaekit.schedules.Schedule` of the step, or its spec. g is near 0.7 nats beside a
            reconstruction of tens or hundreds: 10 lets it matter.
        discriminator: a name, spec or object of `vaekit.discriminators`.
        learning_rate, betas: Adam's for the discriminator; by default the run's learning rate.

    The term `kl` is the divergence, for reference: it is not in the total. The extras are `adversarial`, g, and `discriminator`,
    the value of auxiliary: 2 log 2 for a discriminator that cannot tell.

    Raises:
        TypeError, ValueError, UnknownNameError: options or a discriminator that do not exist or do not fit.

    Example:
        >>> import torch, vaekit
        >>> loss = {"name": "aae", "discriminator": {"name": "mlp", "hidden": (32, 32)}}
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, likelihood="gaussian", loss=loss)
        >>> terms = vae(torch.rand(100, 4))
        >>> torch.allclose(terms.total, terms.reconstruction.mean() + 10.0 * terms.extras["adversarial"])
        True
    """

    latents = LatentKind.VECTORS | LatentKind.POINTS

    def __init__(
        self,
        latent_shape: Sequence[int],
        lambda_: float | Schedule | Mapping[str, Any] = 10.0,
        discriminator: str | Mapping[str, Any] | Discriminator = "mlp",
        learning_rate: float | None = None,
        betas: Sequence[float] = (0.5, 0.9),
    ) -> None:
        super().__init__(discriminator, latent_shape, learning_rate, betas)
        self.latent_shape = tuple(latent_shape)
        self.lambda_ = checked_schedule("lambda_", lambda_)

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        _, z, reconstruction, kl, levels = drawn(model, batch, context)
        key = philox.fold_in(context.key, streams.Step.OBJECTIVE)
        of_prior = prior_of(model, batch).sample(z.shape, key=key, dtype=z.dtype, row_start=context.row_start)
        adversarial = batch_mean(mean_of_places(softplus(-self.as_opponent(z)[-1])))
        auxiliary = logistic(self.as_judge(of_prior), self.as_judge(z))
        total = batch_mean(reconstruction) + self.lambda_(context.step) * adversarial
        extras = {**levels, "adversarial": adversarial, "discriminator": auxiliary.detach()}
        return LossTerms(total, reconstruction, kl, extras, auxiliary)

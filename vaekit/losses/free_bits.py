"""The ELBO with a minimum of nats that latent dimensions hold for free.

D. P. Kingma, T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling, "Improving Variational Inference with Inverse
Autoregressive Flow", NIPS 2016, arXiv:1606.04934, equation 15.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vaekit import divergences
from vaekit.checks import checked_word
from vaekit.gathering import gathered
from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.draws import batch_mean, named_levels, prior_of
from vaekit.schedules import Schedule, checked_schedule


@registry.register("free_bits")
class FreeBits(Loss):
    """The ELBO in which a group of latent dimensions costs at least lambda nats, so that up to lambda it holds for free.

    Below lambda the divergence has no gradient, so that nothing pulls a dimension on to the prior while the decoder does not
    use it yet: a remedy for collapsed posteriors.

        total = mean of -log p(x | z) + sum_j max(lambda, mean over the batch of KL(q(z_j | x) || p(z_j)))

    Use it where the latent space collapses early in training: with powerful decoders, and many latent dimensions. The paper
    gained with any lambda from 0.125 to 2 nats. It costs what `elbo` costs.

    `kl` is the exact divergence without the maximum, `reconstruction` an estimate from one draw. It compares examples: total is a
    function of the whole batch, with other batches another number. Extras: paid_kl, the sum of the maxima; of a posterior with
    several levels of latents "kl_level_1", ... as well. An empty batch has a total of 0.

    Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", 2016, arXiv:1606.04934, equation 15.

    Args:
        free_nats: lambda, for each group: a number, a `vaekit.schedules.Schedule`, or its spec.
        per: what a group is: "dimension"; "channel", all positions of an entry of the latents' first axis, for latents that are
            kept in space (otherwise the same as "dimension"), in each level where there are several; "level", one group for each
            level of latents; or "example", one group of all. Below the first level a divergence is the one given the draw of the
            levels above.

    Raises:
        TypeError: a free_nats that is not a weight; in use, a posterior and a prior whose divergence does not come apart into
            that of each dimension, as that of a `DiagonalGaussian` from standard_normal and diagonal_gaussian does.
        ValueError: a negative free_nats, another group.

    Example:
        >>> import torch, vaekit
        >>> loss = {"name": "free_bits", "free_nats": 0.25}
        >>> terms = vaekit.create_vae(input_shape=(4,), latent_dim=6, loss=loss)(torch.rand(8, 4))
        >>> bool(terms.extras["paid_kl"] >= 6 * 0.25)
        True
    """

    compares_examples = True

    def __init__(self, free_nats: float | Schedule | Mapping[str, Any] = 0.5, per: str = "dimension") -> None:
        super().__init__()
        checked_word("per, the group that has free_nats,", per, ("dimension", "channel", "level", "example"))
        self.free_nats, self.per = checked_schedule("free_nats", free_nats), per

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        posterior = model.encode(batch.x, batch.condition)
        if not divergences.known_by_dimension(posterior, model.prior):
            raise TypeError(
                "free bits need the divergence of each latent dimension, which is not known of a "
                f"{type(posterior).__name__} from a {type(model.prior).__name__}; make the encoder with "
                "posterior='diagonal_gaussian' and take the prior 'standard_normal' or 'diagonal_gaussian', or take the loss "
                "'elbo' with a scheduled beta"
            )
        z, elements = posterior.rsample_kl_per_dimension(prior_of(model, batch), key=context.key, row_start=context.row_start)
        reconstruction = model.likelihood.nll(model.natural_parameters(z, batch.condition), batch.x)
        levels = posterior.split_levels(elements)
        by_level = torch.stack([level.flatten(1).sum(1) for level in levels], 1)
        kl = by_level.sum(1)
        channels = [level.unsqueeze(-1).flatten(2).sum(2) for level in levels]  # vector latents have a single position
        groups = gathered(
            {"dimension": elements.flatten(1), "channel": torch.cat(channels, 1), "level": by_level, "example": kl[:, None]}[
                self.per
            ]
        )
        free = self.free_nats(context.step) if batch.x.shape[0] else 0.0
        paid = (groups.sum(0) / max(len(groups), 1)).clamp(min=free).sum()
        named = named_levels(by_level.unbind(1))
        return LossTerms(batch_mean(reconstruction) + paid, reconstruction, kl, {"paid_kl": paid, **named})

"""The objective of a product of experts, which also learns from some modalities without the others.

M. Wu, N. Goodman, "Multimodal Generative Models for Scalable Weakly-Supervised Learning", NeurIPS 2018, arXiv:1802.05335,
equation 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vaekit.checks import checked_size
from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.draws import batch_mean, drawn
from vaekit.ops import philox, streams
from vaekit.schedules import Schedule, checked_schedule


@registry.register("mvae")
class Mvae(Loss):
    """MVAE: the ELBO of all modalities, plus that of each alone, plus those of some sets of them at random.

        total = mean of ELBO(x) + sum over m of ELBO(x_m) + sum over k of ELBO(x_S_k),    ELBO as the costs that "elbo" has

    where S_k holds each modality with a probability of one half, drawn for every example. Use it with the fusion
    "product_of_experts", which without it never sees one modality alone. A model of M modalities is encoded and decoded
    1 + M + subsets times in a step, which is what it costs.

    Wu and Goodman, "Multimodal Generative Models for Scalable Weakly-Supervised Learning", 2018, arXiv:1802.05335, equation 4.

    Args:
        subsets: how many sets are drawn for each example.
        beta: the weight of the divergence: a number, a `vaekit.schedules.Schedule` of the step, or its spec.

    In the terms `reconstruction` and `kl` are those of all modalities together; the extra `parts`, [B], is what the others cost.

    Raises:
        TypeError: a beta that is not a weight.
        ValueError: a negative one, subsets below 0; when composed, a model without modalities.

    Example:
        >>> import vaekit
        >>> parts = {"a": {"shape": (3,)}, "b": {"shape": (2,)}}
        >>> vae = vaekit.create_vae(modalities=parts, latent_dim=2, loss="mvae")
        >>> sorted(vae({"a": torch.rand(5, 3), "b": torch.rand(5, 2)}).extras)
        ['parts']
    """

    hides_modalities = True

    def __init__(self, subsets: int = 1, beta: float | Schedule | Mapping[str, Any] = 1.0) -> None:
        super().__init__()
        self.subsets, self.beta = checked_size("subsets", subsets, least=0), checked_schedule("beta", beta)

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        beta, modalities = self.beta(context.step), len(model.likelihood.modalities)
        _, _, reconstruction, kl, levels = drawn(model, batch, context)
        parts = torch.zeros_like(kl)
        for number, kept in enumerate(self._sets(batch.x, modalities, context)):
            # Other noise than that of the whole, and of the other sets.
            key = philox.fold_in(philox.fold_in(context.key, streams.Step.OBJECTIVE), number)
            hidden = replace(batch, x=model.likelihood.without(batch.x, kept))
            _, _, of_set, kl_of_set, _ = drawn(model, hidden, context._replace(key=key))
            parts = parts + of_set + beta * kl_of_set
        return LossTerms(batch_mean(reconstruction + beta * kl + parts), reconstruction, kl, {**levels, "parts": parts})

    def _sets(self, x: Tensor, modalities: int, context: StepContext) -> list[Tensor]:
        """Each modality alone, and sets at random: bool [B, M] each."""
        alone = torch.eye(modalities, dtype=torch.bool, device=x.device)
        chosen = []
        for number in range(self.subsets):
            key = philox.fold_in(philox.fold_in(context.key, streams.Step.SETS), number)
            u = philox.uniform(key, (x.shape[0], modalities), torch.float32, context.row_start * modalities)
            chosen.append(u > 0.5)
        return [*(row.expand(x.shape[0], -1) for row in alone), *chosen]

"""The divergence held at a capacity that grows with the step.

C. P. Burgess et al., "Understanding disentangling in beta-VAE", 2018, arXiv:1804.03599, equation 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vaekit.checks import checked_word
from vaekit.gathering import gathered
from vaekit.latents import LatentKind
from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.draws import batch_mean, drawn
from vaekit.schedules import Linear, Schedule, checked_schedule


@registry.register("capacity")
class Capacity(Loss):
    """The ELBO whose divergence is held at a capacity C, in nats, that grows during training.

    As the capacity rises from 0, the latent space takes up one factor of variation after the other, the one that improves the
    reconstruction most first, each in dimensions of its own.

        total = mean of -log p(x | z) + gamma |KL(q(z | x) || p(z)) - C(step)|

    Use it to learn disentangled factors with better reconstructions than a large constant beta leaves. It costs what `elbo`
    costs.

    `kl` is the divergence itself, exact where the posterior knows it (otherwise an estimate from the draw), `reconstruction` an
    estimate from one draw; extras: capacity, C in nats.

    Burgess et al., "Understanding disentangling in beta-VAE", 2018, arXiv:1804.03599, equation 8.

    Args:
        capacity: C: a number of nats, a `vaekit.schedules.Schedule`, or its spec, {"name": "linear", "steps": 10000, "end":
            10.0} for example; None is the paper's, a line from 0 to 25 nats over 100,000 steps. Outside training its final
            value counts.
        gamma: the weight, as a number, a schedule or its spec; 1000 is the paper's for binary images.
        per: whose divergence is held at C: "example", each one's, as the equation has it; or "batch", the mean over the batch,
            as many implementations have it, which lets some examples hold more than others. It then compares
            examples: total is a function of the whole batch, with other batches another number.

    Raises:
        TypeError: a capacity or gamma that is not a weight.
        ValueError: a negative one, or another per.

    Example:
        >>> import torch, vaekit
        >>> loss = {"name": "capacity", "capacity": {"name": "linear", "steps": 1000, "end": 10.0}, "gamma": 100.0}
        >>> terms = vaekit.create_vae(input_shape=(4,), latent_dim=2, loss=loss)(torch.rand(8, 4), step=500)
        >>> terms.extras["capacity"]
        tensor(5.)
        >>> torch.allclose(terms.total, (terms.reconstruction + 100.0 * (terms.kl - 5.0).abs()).mean())
        True
    """

    latents = LatentKind.VECTORS | LatentKind.DIRECTIONS | LatentKind.BALL

    def __init__(
        self,
        capacity: float | Schedule | Mapping[str, Any] | None = None,
        gamma: float | Schedule | Mapping[str, Any] = 1000.0,
        per: str = "example",
    ) -> None:
        super().__init__()
        checked_word("per, whose divergence is held at the capacity,", per, ("example", "batch"))
        self.capacity = checked_schedule("capacity", Linear(100_000, end=25.0) if capacity is None else capacity)
        self.gamma, self.per = checked_schedule("gamma", gamma), per
        self.compares_examples = per == "batch"

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        _, _, reconstruction, kl, levels = drawn(model, batch, context)
        capacity = self.capacity(context.step)
        held = batch_mean(gathered(kl)) if self.per == "batch" else kl
        distance = (held - capacity).abs()
        if self.per == "example":
            distance = batch_mean(distance)
        elif not batch.x.shape[0]:
            distance = 0.0 * distance
        total = batch_mean(reconstruction) + self.gamma(context.step) * distance
        return LossTerms(total, reconstruction, kl, {**levels, "capacity": kl.new_full((), capacity)})

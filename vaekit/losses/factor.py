"""The total correlation of the codes, estimated by a discriminator: FactorVAE.

H. Kim, A. Mnih, "Disentangling by Factorising", ICML 2018, arXiv:1802.05983.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from vaekit.checks import checked_number, checked_sizes
from vaekit.dense import Linear
from vaekit.gathering import gathered
from vaekit.layers import glorot
from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.draws import batch_mean, drawn
from vaekit.ops import philox, reference, streams
from vaekit.schedules import Schedule, checked_schedule


@registry.register("factor")
class FactorVAE(Loss):
    """FactorVAE: the ELBO and a penalty on the total correlation, which a discriminator estimates that is trained beside it.

    The total correlation TC = KL(q(z) || prod_d q(z_d)) is how far the latents of the whole dataset are from independent. A
    discriminator that tells draws of q(z) from draws of prod_d q(z_d) knows the ratio of their densities, and so the divergence.

        total = mean of -log p(x | z) + KL(q(z | x) || p(z))  +  gamma TC,    TC = mean of log D(z) - log(1 - D(z))
        auxiliary = -1/2 mean of log D(z) - 1/2 mean of log(1 - D(z'))

    with one draw z for each x (equations 2 and 3, algorithm 2). D(z) is the probability that z is one of q(z); z' are the draws
    z, each dimension permuted over the batch by itself. They are of the same batch, as in `disentanglement_lib` (F. Locatello
    et al., 2019, arXiv:1811.12359), which takes one pass through the encoder; the paper permutes those of a second batch.

    The discriminator learns from `auxiliary` alone, by Adam with the options here, whatever the learning rate of the rest;
    `total` takes its weights for constants.

    When to use it: for latents that each mean one thing, as `beta_tc`, but with any posterior and any prior, and at a cost that
    grows with B, not B^2. The estimate is as good as the discriminator, which has to follow a q(z) that changes: losses of two
    epochs are by two discriminators. It compares examples: the discriminator learns from permutations of a whole batch.
    Cost: three passes of the batch through the discriminator, 5 million weights by default. torch.compile traces it in a graph.

    Args:
        latent_shape: the shape [*S] of one example's latents, which the discriminator sees as one vector; `vaekit.create_vae`
            fills it in.
        gamma: a weight of at least 0: a number, a `vaekit.schedules.Schedule` of the step, or its spec. 35 is the paper's for
            dSprites; `disentanglement_lib` tries 10 to 100.
        hidden: the sizes of the discriminator's hidden layers, each followed by a leaky ReLU of slope 0.2. The default is the
            paper's, six of 1000 (as `disentanglement_lib` reads it; others have five).
        learning_rate, betas: Adam's for the discriminator; the defaults are the paper's.

    In the terms `kl` is as of `elbo`; the extras are `total_correlation`, the estimate of TC in nats, and `discriminator`, the
    value of auxiliary: log 2 for a discriminator that cannot tell.

    Raises:
        TypeError: a gamma that is not a weight.
        ValueError: a negative one; sizes below 1; a learning rate or betas that Adam does not take; when composed, an encoder
            whose latents have another shape.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, loss={"name": "factor", "gamma": 10.0, "hidden": (64, 64)})
        >>> history = vaekit.fit(vae, torch.rand(100, 4), epochs=2, progress=False)
        >>> len(history["total_correlation"]), len(history["discriminator"])
        (2, 2)
        >>> vae(torch.rand(100, 4)).objective.backward()  # in a loop of one's own: total + auxiliary
    """

    compares_examples = True

    def __init__(
        self,
        latent_shape: Sequence[int],
        gamma: float | Schedule | Mapping[str, Any] = 35.0,
        hidden: Sequence[int] = (1000,) * 6,
        learning_rate: float = 1e-4,
        betas: Sequence[float] = (0.5, 0.9),
    ) -> None:
        super().__init__()
        self.latent_shape = checked_sizes("latent_shape", latent_shape)
        self.gamma = checked_schedule("gamma", gamma)
        self.learning_rate = checked_number("learning_rate", learning_rate, above=0.0)
        if not isinstance(betas, Sequence) or len(betas) != 2:
            raise ValueError(f"betas has to be two numbers from 0 to below 1, (0.5, 0.9) for example, got {betas!r}")
        first, second = (checked_number("every entry of betas", beta, least=0.0, below=1.0) for beta in betas)
        self.betas = (first, second)
        sizes = (math.prod(self.latent_shape), *checked_sizes("hidden", hidden))
        layers: list[nn.Module] = []
        for size_in, size_out in itertools.pairwise(sizes):
            layers += [glorot(Linear(size_in, size_out)), nn.LeakyReLU(0.2)]
        self.discriminator = nn.Sequential(*layers, glorot(Linear(sizes[-1], 1)))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The discriminator's."""
        return [{"params": list(self.discriminator.parameters()), "lr": self.learning_rate, "betas": self.betas}]

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        _, z, reconstruction, kl, levels = drawn(model, batch, context)
        codes = z.flatten(1)
        weights = dict(self.discriminator.named_parameters())
        total_correlation = batch_mean(self._logit(codes, {name: weight.detach() for name, weight in weights.items()}))
        codes = codes.detach()
        permuted = permuted_dimensions(codes, philox.fold_in(context.key, streams.Step.OBJECTIVE), context.row_start)
        auxiliary = 0.5 * (
            batch_mean(softplus(-self._logit(codes, weights))) + batch_mean(softplus(self._logit(permuted, weights)))
        )
        total = batch_mean(reconstruction + kl) + self.gamma(context.step) * total_correlation
        extras = {**levels, "total_correlation": total_correlation, "discriminator": auxiliary.detach()}
        return LossTerms(total, reconstruction, kl, extras, auxiliary)

    def _logit(self, codes: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """log D(z) - log(1 - D(z)): [B, D] -> [B]."""
        logit: Tensor = functional_call(self.discriminator, dict(weights), (codes,)).squeeze(1)
        return logit.to(reference.compute_dtype(logit.dtype))


def permuted_dimensions(z: Tensor, key: Tensor, row_start: int = 0) -> Tensor:
    """Each column of z [B, D] in an order of its own, all orders as likely, fixed by `key`; z's first row is number row_start.

    Example:
        >>> import torch
        >>> from vaekit import make_key
        >>> permuted_dimensions(torch.arange(4.0).unsqueeze(1).expand(4, 2), make_key(0)).sort(0).values[:, 1]
        tensor([0., 1., 2., 3.])
    """
    noise = philox.uniform(key, z.shape, reference.compute_dtype(z.dtype), row_start * z.shape[1])
    return gathered(z).gather(0, gathered(noise).argsort(dim=0, stable=True))

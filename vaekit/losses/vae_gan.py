"""A similarity that a discriminator learns: VAE-GAN.

A. B. L. Larsen, S. K. Sønderby, H. Larochelle, O. Winther, "Autoencoding beyond Pixels Using a Learned Similarity Metric", 2016,
arXiv:1512.09300.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from vaekit.discriminators import Discriminator
from vaekit.losses.adversarial import AdversarialLoss, logistic, mean_of_places
from vaekit.losses.base import Batch, LatentVariableModel, LossTerms, StepContext, registry
from vaekit.losses.draws import batch_mean, drawn, prior_of
from vaekit.ops import philox, streams
from vaekit.schedules import Schedule, checked_schedule


@registry.register("vae_gan")
class VAEGAN(AdversarialLoss):
    """VAE-GAN: examples and reconstructions are compared by what a discriminator sees in them.

    A discriminator that learns to tell data from reconstructions and samples finds features in which they differ; the squared
    error of those takes the place of the likelihood, and the decoder has to deceive it as well.

        total = mean of S(x, x') + beta KL(q(z | x) || p(z))  -  w c,    c = mean of -log(1 - D(x')) - log(1 - D(x_p))
        auxiliary = mean of -log D(x)  +  c

    where S is half the squared distance of a layer's features of x and of its reconstruction x', the negative logarithm of a
    normal density with variance 1 but for a constant, x_p are decoded draws of the prior, and D is the probability that x is
    one of the data (equations 6 to 8, algorithm 1). -w c reaches the decoder alone: the encoder learns from S and the
    divergence. The paper's gamma, the weight of S beside the other term in the decoder's gradient, is 1 / w here.

    Use it for samples and reconstructions with detail, where no trained network is at hand for the objective `perceptual`, and
    time to tune it is. The likelihood is not in the total: only its mean is used. It bounds no likelihood. The authors' code
    leaves out steps of whoever is ahead; this does not, and `learning_rate` is what slows the discriminator down.
    Cost: three passes of the batch through the decoder and seven through the discriminator. torch.compile traces it in one graph.

    Larsen et al., 2016, arXiv:1512.09300.

    Args:
        input_shape: the shape of one example; `vaekit.create_vae` fills it in.
        beta: the weight of the divergence: a number, a `vaekit.schedules.Schedule` of the step, or its spec.
        adversarial_weight: w, at least 0, the same way.
        layer: which of the discriminator's hidden layers has the features of S, from 0 on; -1 is the last.
        discriminator: a name, spec or object of `vaekit.discriminators`: "patch" for pictures.
        learning_rate, betas: Adam's for the discriminator; by default the run's learning rate.

    The term `reconstruction`, the likelihood's nll, is for reference. The extras are `similarity`, S, [B], `adversarial`, -c,
    and `discriminator`, the value of auxiliary: 3 log 2 for a discriminator that cannot tell.

    Raises:
        TypeError, ValueError, UnknownNameError: options or a discriminator that do not exist or do not fit.

    Example:
        >>> import torch, vaekit
        >>> loss = {"name": "vae_gan", "discriminator": {"name": "patch", "channels": 8, "layers": 2}}
        >>> vae = vaekit.create_vae("conv-mnist", loss=loss)
        >>> terms = vae(torch.rand(10, 1, 28, 28))
        >>> sorted(terms.extras)
        ['adversarial', 'discriminator', 'similarity']
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        beta: float | Schedule | Mapping[str, Any] = 1.0,
        adversarial_weight: float | Schedule | Mapping[str, Any] = 1.0,
        layer: int = -1,
        discriminator: str | Mapping[str, Any] | Discriminator = "mlp",
        learning_rate: float | None = None,
        betas: Sequence[float] = (0.5, 0.9),
    ) -> None:
        super().__init__(discriminator, input_shape, learning_rate, betas)
        self.beta = checked_schedule("beta", beta)
        self.adversarial_weight = checked_schedule("adversarial_weight", adversarial_weight)
        try:
            self.layer = operator.index(layer)
        except TypeError as error:
            raise TypeError(f"layer has to be the number of a hidden layer, got {layer!r}") from error

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        _, z, reconstruction, kl, levels = drawn(model, batch, context)
        made = model.likelihood.mean(model.natural_parameters(z, batch.condition))
        x = torch.where(batch.x.isnan(), made.detach(), batch.x) if model.likelihood.missing == "ignore" else batch.x
        similarity = 0.5 * (self._features(made) - self._features(x).detach()).flatten(1).square().sum(1)
        key = philox.fold_in(context.key, streams.Step.OBJECTIVE)
        of_prior = prior_of(model, batch).sample(z.shape, key=key, dtype=z.dtype, row_start=context.row_start)
        fakes = [model.likelihood.mean(model.natural_parameters(latents.detach(), batch.condition)) for latents in (z, of_prior)]
        adversarial = -sum(
            (batch_mean(mean_of_places(softplus(self.as_opponent(fake)[-1]))) for fake in fakes), start=z.new_zeros(())
        )
        auxiliary = logistic(self.as_judge(x), *(self.as_judge(fake) for fake in fakes))
        total = batch_mean(similarity + self.beta(context.step) * kl)
        total = total + self.adversarial_weight(context.step) * adversarial
        extras = {**levels, "similarity": similarity, "adversarial": adversarial, "discriminator": auxiliary.detach()}
        return LossTerms(total, reconstruction, kl, extras, auxiliary)

    def _features(self, x: Tensor) -> Tensor:
        *hidden, _ = self.as_opponent(x)
        if not -len(hidden) <= self.layer < len(hidden):
            raise ValueError(f"the discriminator has {len(hidden)} hidden layers, got layer={self.layer}")
        return hidden[self.layer]

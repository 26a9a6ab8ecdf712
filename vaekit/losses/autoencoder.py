"""Plain and regularised autoencoders.

P. Ghosh, M. S. M. Sajjadi, A. Vergari, M. Black, B. Scholkopf, "From Variational to Deterministic Autoencoders", ICLR 2020,
arXiv:1903.12436.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vaekit.checks import checked_size
from vaekit.latents import LatentKind
from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.draws import batch_mean, prior_of
from vaekit.ops import reference, streams
from vaekit.ops.draw import Draw
from vaekit.schedules import Schedule, checked_schedule

Weight = float | Schedule | Mapping[str, Any]


@registry.register("autoencoder")
class Autoencoder(Loss):
    """Reconstruction from one code for each example, with the paper's penalties on codes and decoder where they are wanted.

    Noise in the code keeps the decoder of a VAE smooth. Without it the decoder is regularised instead, the codes are kept from
    growing, and the density of the codes is fitted afterwards.

        total = mean of -log p(x | z) - beta log p(z) + l2 ||theta||^2 + gradient ||J||^2,   z = f(x)

    - beta = 0, nothing else: the plain autoencoder (AE).
    - beta: with the prior "standard_normal" -log p(z) is ||z||^2 / 2 and a constant (RAE without a regulariser of the decoder).
    - l2: of theta, all of the decoder's weights (RAE-L2).
    - gradient: of J, the derivatives of the decoder's output, the likelihood's natural parameters, by the code (RAE-GP); all
      squares are summed. It is estimated from `projections` random combinations of the outputs a step, J^T v with v from
      N(0, I): unbiased, and by far cheaper than J.

    Use it with the posterior "point": where sharp reconstructions, codes or anomalies are wanted and no likelihood of x. Then
    `vae.prior = vaekit.fit_prior(vae, train, "gaussian_mixture")`, the paper's sampler, or "flow". Do not let a prior learn from
    this objective: with beta above 0 it would shrink to where the codes are, and they to it.
    Cost: one pass through encoder and decoder, with `gradient` another backward pass through the decoder for each projection,
    which is differentiated once more; torch.compile cannot trace that.

    With the likelihood "gaussian" of variance 1 -log p(x | z) is half the squared error of the paper's equation, so that its
    weights are halved here as well; with {"name": "gaussian", "sigma": 0.7071}, variance 1/2, they are the same.

    Ghosh et al., "From Variational to Deterministic Autoencoders", 2020, arXiv:1903.12436, equations 5 to 9.

    Args:
        beta, l2, gradient: weights of at least 0: a number, a `vaekit.schedules.Schedule` of the step, or its spec. None leaves
            the penalty on the decoder out.
        projections: how many of the random combinations.

    `kl` is -log p(z), which is no divergence. Extras where they are asked for: "decoder_l2", ||theta||^2; "decoder_gradient",
    the estimate of ||J||^2, [B].

    Raises:
        TypeError: what is no weight.
        ValueError: negative ones, projections below 1, or without a gradient to estimate.

    Example:
        >>> import vaekit
        >>> loss = {"name": "autoencoder", "beta": 1e-2, "gradient": 1e-3}
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, likelihood="gaussian", posterior="point", loss=loss)
        >>> terms = vae(torch.rand(8, 4))
        >>> per_example = terms.reconstruction + 1e-2 * terms.kl + 1e-3 * terms.extras["decoder_gradient"]
        >>> torch.allclose(terms.total, per_example.mean())
        True
    """

    latents = LatentKind.POINTS

    def __init__(
        self, beta: Weight = 0.0, l2: Weight | None = None, gradient: Weight | None = None, projections: int | None = None
    ) -> None:
        super().__init__()
        self.beta = checked_schedule("beta", beta)
        self.l2 = None if l2 is None else checked_schedule("l2", l2)
        self.gradient = None if gradient is None else checked_schedule("gradient", gradient)
        if projections is not None and gradient is None:
            raise ValueError(
                f"projections={projections!r} are of the gradient; give its weight as well, gradient=1e-3 for example"
            )
        self.projections = 1 if projections is None else checked_size("projections", projections)

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        z, kl = model.encode(batch.x, batch.condition).rsample_kl(
            prior_of(model, batch), key=context.key, row_start=context.row_start
        )
        extras: dict[str, Tensor] = {}
        if self.gradient is None:
            parameters = model.natural_parameters(z, batch.condition)
        else:
            parameters, extras["decoder_gradient"] = self._with_gradient(model, batch, context, z)
        reconstruction = model.likelihood.nll(parameters, batch.x)
        total = reconstruction + self.beta(context.step) * kl
        if self.gradient is not None:
            total = total + self.gradient(context.step) * extras["decoder_gradient"]
        total = batch_mean(total)
        if self.l2 is not None:
            extras["decoder_l2"] = sum_of_squares(model.decoder)
            total = total + self.l2(context.step) * extras["decoder_l2"] * min(len(batch.x), 1)
        return LossTerms(total, reconstruction, kl, extras)

    def _with_gradient(self, model: LatentVariableModel, batch: Batch, context: StepContext, z: Tensor) -> tuple[Tensor, Tensor]:
        """The natural parameters, and of each example the mean of ||J^T v||^2 over the projections, [B]."""
        is_training = torch.is_grad_enabled()
        with torch.enable_grad():
            at = z if is_training and z.requires_grad else z.detach().requires_grad_()
            parameters = model.natural_parameters(at, batch.condition)
            noise = Draw(context.key, self.projections, context.row_start).folded(streams.Step.OBJECTIVE).noise(parameters)
            squares = []
            for v in noise.to(parameters.dtype):
                (projected,) = torch.autograd.grad(parameters, at, v, create_graph=is_training, retain_graph=True)
                squares.append(projected.to(reference.compute_dtype(z.dtype)).square().flatten(1).sum(1))
        squared = torch.stack(squares).mean(0)
        return (parameters, squared) if is_training else (parameters.detach(), squared.detach())


def sum_of_squares(module: torch.nn.Module) -> Tensor:
    """Of all weights of a module, in float32 or wider."""
    return torch.stack([w.to(reference.compute_dtype(w.dtype)).square().sum() for w in module.parameters()]).sum()

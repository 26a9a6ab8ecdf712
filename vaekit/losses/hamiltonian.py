"""The bound of a draw that has moved by Hamilton's equations.

A. L. Caterini, A. Doucet, D. Sejdinovic, "Hamiltonian Variational Auto-Encoder", NeurIPS 2018, arXiv:1805.11328.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vaekit.checks import checked_flag, checked_number, checked_size, checked_sizes
from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.draws import batch_mean, prior_of
from vaekit.ops import streams
from vaekit.ops.draw import Draw
from vaekit.priors.base import Prior


@registry.register("hamiltonian")
class Hamiltonian(Loss):
    """HVAE: the draw of z is moved towards where the model has put it, by a few leapfrog steps, before it is decoded.

    The encoder's draw need only be near the true posterior; the gradient of the model's own density, which Hamiltonian dynamics
    follow, does the rest. A step keeps volumes and can be run back, so that the density of what comes out is known.

        z_0 ~ q(z | x),  rho_0 = gamma / sqrt(beta_0),  gamma ~ N(0, I);    U(z) = -log p(x, z)
        step k of K:  rho' = rho - eps/2 dU(z),  z <- z + eps rho',  rho'' = rho' - eps/2 dU(z),
                      rho <- sqrt(beta_{k-1} / beta_k) rho'',
        beta_k^(-1/2) = (1 - beta_0^(-1/2)) k^2 / K^2 + beta_0^(-1/2)
        total = mean of -log p(x, z_K) + |rho_K|^2 / 2 - |gamma|^2 / 2 + log q(z_0 | x)

    (algorithm 1, equations 10 to 12). With beta_0 below 1 the momentum begins large and is cooled. The bound is one of log p(x):
    exp(-total) of an example has p(x) as its mean.

    Use it where the encoder is too simple for the posterior, which the decoder knows better; "flow" or `iwae` mostly give as much
    for less. Cost: K + 1 passes through the decoder and back, and all of that once more for the gradient, which needs second
    derivatives of decoder and likelihood: take smooth activations (softplus, tanh, silu), as of relu's a step sees no curvature.
    torch.compile cannot trace it. A step_size that is too large throws z away: `loss` and `kl` then rise at once.

    `reconstruction` is -log p(x | z_K), `kl` the rest, an estimate. The encoder's own draws, of which `encode`, `reconstruct` and
    `vae.score` know, are those before the steps.

    Caterini, Doucet, Sejdinovic, "Hamiltonian Variational Auto-Encoder", 2018, arXiv:1805.11328.

    Args:
        latent_shape: the shape [*S] of one example's latents; `vaekit.create_vae` fills it in.
        steps: K; 0 leaves the ELBO with an estimated divergence.
        step_size: eps, above 0, of each latent at first.
        initial_temperature: beta_0 at first, above 0 and below 1.
        learned: whether eps, one for each latent, and beta_0 are trained with the model, as in the paper; otherwise they stay.

    The extras "step_size" and "initial_temperature" are what they have become, the first a mean over the latents. What is learned
    is trained on `auxiliary`, whose value is 0 and whose gradient is total's: another pass back through all steps.

    Raises:
        TypeError: sizes that are not numbers.
        ValueError: steps below 0, a step_size or a beta_0 outside its range.

    Example:
        >>> import torch, vaekit
        >>> loss = {"name": "hamiltonian", "steps": 3, "step_size": 0.05}
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, decoder={"activation": "tanh"}, loss=loss)
        >>> terms = vae(torch.rand(8, 4))
        >>> torch.allclose(terms.total, (terms.reconstruction + terms.kl).mean())
        True
    """

    log_step_size: Tensor
    temperature_logit: Tensor

    def __init__(
        self,
        latent_shape: Sequence[int],
        steps: int = 3,
        step_size: float = 0.05,
        initial_temperature: float = 0.5,
        learned: bool = True,
    ) -> None:
        super().__init__()
        self.latent_shape = checked_sizes("latent_shape", latent_shape)
        self.steps, self.learned = checked_size("steps", steps, least=0), checked_flag("learned", learned)
        size = checked_number("step_size", step_size, above=0.0)
        temperature = checked_number("initial_temperature", initial_temperature, above=0.0, below=1.0)
        is_trained = learned and self.steps > 0
        start = {
            "log_step_size": torch.full(self.latent_shape, math.log(size)),
            "temperature_logit": torch.tensor(math.log(temperature / (1.0 - temperature))),
        }
        for name, value in start.items():
            if is_trained:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        is_training = torch.is_grad_enabled()
        own = [self.log_step_size.detach(), self.temperature_logit.detach()]
        is_trained = is_training and self.log_step_size.requires_grad
        if is_trained:
            own = [value.requires_grad_() for value in own]
        z, log_posterior = model.encode(batch.x, batch.condition).rsample_log_prob(key=context.key, row_start=context.row_start)
        gamma = Draw(context.key, None, context.row_start).folded(streams.Step.OBJECTIVE).noise(z).to(z.dtype)
        nll, log_prior, rho = self._moved(model, batch, z, gamma, *own)
        kl = log_posterior - log_prior + 0.5 * (rho.square() - gamma.square()).flatten(1).sum(1)
        if not is_training:
            nll, kl = nll.detach(), kl.detach()
        total = batch_mean(nll + kl)
        extras = {"step_size": own[0].detach().exp().mean(), "initial_temperature": own[1].detach().sigmoid()}
        auxiliary = None
        if self.learned and self.steps:
            auxiliary = total.new_zeros(())
        if is_trained:
            slopes = torch.autograd.grad(total, own, retain_graph=True)
            weights = (self.log_step_size, self.temperature_logit)
            auxiliary = torch.stack([((w - w.detach()) * slope).sum() for w, slope in zip(weights, slopes, strict=True)]).sum()
        return LossTerms(total, nll, kl, extras, auxiliary)

    def _moved(
        self, model: LatentVariableModel, batch: Batch, z: Tensor, gamma: Tensor, log_step_size: Tensor, logit: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-log p(x | z_K), log p(z_K) and rho_K."""
        prior = prior_of(model, batch)
        eps, hot = log_step_size.exp(), logit.sigmoid().rsqrt()  # 1 / sqrt(beta_0)
        place = _Place.at(model, batch, prior, z, self.steps > 0)
        if not self.steps:
            return place.nll, place.log_prior, gamma
        rho, before = hot * gamma, hot
        for k in range(1, self.steps + 1):
            rho = rho - 0.5 * eps * place.slope
            z = z + eps * rho
            place = _Place.at(model, batch, prior, z, True)
            after = (1.0 - hot) * (k / self.steps) ** 2 + hot
            rho, before = (after / before) * (rho - 0.5 * eps * place.slope), after
        return place.nll, place.log_prior, rho


class _Place(NamedTuple):
    """What there is at a z: -log p(x | z), log p(z), [B], and the slope of the potential, [B, *S]."""

    nll: Tensor
    log_prior: Tensor
    slope: Tensor

    @classmethod
    def at(cls, model: LatentVariableModel, batch: Batch, prior: Prior, z: Tensor, is_sloping: bool) -> _Place:
        is_training = torch.is_grad_enabled()
        with torch.enable_grad():
            z = z if is_training and z.requires_grad else z.detach().requires_grad_()
            nll = model.likelihood.nll(model.natural_parameters(z, batch.condition), batch.x)
            log_prior = prior.log_prob(z)
            if not is_sloping:
                return cls(nll, log_prior, torch.zeros_like(z))
            (slope,) = torch.autograd.grad((nll - log_prior).sum(), z, create_graph=is_training)
        return cls(nll, log_prior, slope)

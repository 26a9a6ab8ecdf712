"""The Concrete, or Gumbel-softmax, relaxation of a categorical posterior.

C. J. Maddison, A. Mnih, Y. W. Teh, "The Concrete Distribution", ICLR 2017, arXiv:1611.00712; E. Jang, S. Gu, B. Poole,
"Categorical Reparameterization with Gumbel-Softmax", ICLR 2017, arXiv:1611.01144.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaekit import divergences
from vaekit.checks import checked_flag, checked_size
from vaekit.latents import LatentKind
from vaekit.ops import reference
from vaekit.ops.draw import Draw
from vaekit.posteriors.codes import CodeFamily, CodePosterior
from vaekit.posteriors.family import registry
from vaekit.posteriors.vector_quantized import equal_rows
from vaekit.priors.base import Prior
from vaekit.priors.codes import CodePrior, Codes
from vaekit.schedules import Schedule, checked_schedule

_COLDEST = 1e-3


@registry.register("gumbel_softmax")
class GumbelSoftmaxFamily(CodeFamily):
    """A categorical q(z | x) over K codes in each position, drawn in training as a soft mixture of them, with a gradient.

    y = softmax((logits + Gumbel noise) / temperature), and z = sum_k y_k e_k with e_k the learned vectors; near temperature 0 y
    is one code, with the probabilities of the logits. In evaluation mode z is one code. Use it with the prior "codes" and the
    loss "elbo": codes are chosen by chance, and how much they say is weighed against its cost, which no rounding quantiser does.
    It costs K numbers at each position, and a matrix product with K codes.

    The divergence is that of the categorical distributions, sum_k q_k (log q_k - log p_k), as Jang et al. have it (that of the
    relaxed ones, which Maddison et al. take, is no bound for the model that is evaluated). At a high temperature the gradient has
    little noise and the decoder sees mixtures that it will not see later; let it fall by a schedule of the step, as both papers
    do.

    Maddison, Mnih, Teh, 2017, arXiv:1611.00712; Jang, Gu, Poole, 2017, arXiv:1611.01144, section 2.

    Args:
        latent_shape: (D, *positions) of one example's latents; the encoder fills it in.
        codes: K.
        temperature: a number, a `vaekit.schedules.Schedule` of the step, or its spec: {"name": "linear", "steps": 2000, "start":
            1.0, "end": 0.5} for example.
        straight_through: let the decoder see one code in training too, with the mixture's gradient (Jang et al., section 2.2).

    Attributes:
        codebook: [K, D], the vectors that stand for the codes; weights.

    Raises:
        TypeError, ValueError: a temperature that is no schedule of numbers of at least 0.001; codes below 1.

    Example:
        >>> import vaekit
        >>> posterior = {"name": "gumbel_softmax", "codes": 8}
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=3, posterior=posterior, prior="codes")
        >>> q = vae.encode(torch.rand(5, 4))
        >>> q.logits.shape, q.rsample().shape, q.indices.shape
        (torch.Size([5, 8]), torch.Size([5, 3]), torch.Size([5]))
    """

    latents = LatentKind.RELAXED_CODES

    def __init__(
        self,
        latent_shape: Sequence[int],
        codes: int = 64,
        temperature: float | Schedule | Mapping[str, Any] = 1.0,
        straight_through: bool = False,
    ) -> None:
        super().__init__(latent_shape)
        self.codes = self.outputs = checked_size("codes", codes)
        self.temperature = checked_schedule("temperature", temperature, lowest=_COLDEST)
        self.straight_through = checked_flag("straight_through", straight_through)
        self.codebook = nn.Parameter(torch.randn(codes, self.latent_shape[0]))
        self._step: int | None = None

    def see(self, step: int | None) -> None:
        self._step = step

    def forward(self, numbers: Tensor) -> GumbelSoftmax:
        return GumbelSoftmax(numbers, self, self.temperature(self._step) if self.training else None)

    def embedded(self, indices: Tensor) -> Tensor:
        codes: Tensor = self.codebook[indices]
        return codes.movedim(-1, 1)

    def indices_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        indices, is_code = equal_rows(z.movedim(1, -1).reshape(-1, z.shape[1]), self.codebook.detach())
        return indices.view(z.shape[0], *z.shape[2:]), is_code.view(z.shape[0], *z.shape[2:])


class GumbelSoftmax(CodePosterior):
    """q(z | x) that is categorical in each position, and relaxed where there is a temperature.

    Args:
        logits: [B, K, *positions], whose softmax over K are the probabilities.
        family: whose codes they are.
        temperature: of the relaxation; None for draws of one code.

    Attributes:
        indices: int64 [B, *positions], the most probable codes.
        mean: [B, D, *positions], those codes' vectors.
    """

    family: GumbelSoftmaxFamily

    def __init__(self, logits: Tensor, family: GumbelSoftmaxFamily, temperature: float | None) -> None:
        self.logits, self.family, self.temperature = logits, family, temperature
        self.indices = logits.argmax(1)
        of_nothing = 0.0 * logits.sum(1, keepdim=True)  # NaN where the encoder gave it
        self.mean = family.embedded(self.indices) + of_nothing.detach()

    def log_probabilities(self) -> Tensor:
        """log q of each code: [B, *positions, K]."""
        return self.logits.movedim(1, -1).to(reference.compute_dtype(self.logits.dtype)).log_softmax(-1)

    def log_prob_of(self, indices: Tensor) -> Tensor:
        """log q of codes by their numbers, in nats: int64 [..., B, *positions] -> [..., B]."""
        log_q = self.log_probabilities()
        each = log_q.expand(*indices.shape, self.family.codes).gather(-1, indices.unsqueeze(-1)).squeeze(-1)
        summed: Tensor = each.reshape(*indices.shape[: indices.ndim - log_q.ndim + 2], -1).sum(-1)
        return summed

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) of vectors that stand for codes, -inf of others: z [..., B, D, *positions] -> [..., B].

        Raises:
            NotImplementedError: a relaxed posterior, whose draws are mixtures of codes.
        """
        self._check_not_relaxed("log probability")
        leading = z.shape[: z.ndim - self.mean.ndim + 1]
        indices, is_code = (
            of_z.reshape(*leading, *of_z.shape[1:]) for of_z in self.family.indices_of(z.reshape(-1, *self.mean.shape[1:]))
        )
        log_prob = torch.where(is_code.reshape(*leading, -1).all(-1), self.log_prob_of(indices), -math.inf)
        return torch.where(z.isnan().reshape(*leading, -1).any(-1), math.nan, log_prob)

    def _rsample(self, draw: Draw) -> Tensor:
        axis = len(draw.shape) + 1  # of the codes
        perturbed = self._perturbed(draw)
        if self.temperature is None:
            return self._embedded(perturbed.argmax(axis))
        mixture = (perturbed / self.temperature).softmax(axis).movedim(axis, -1)
        if self.family.straight_through:
            one = F.one_hot(mixture.argmax(-1), self.family.codes).to(mixture.dtype)
            mixture = one + mixture - mixture.detach()
        z: Tensor = (mixture.to(self.family.codebook.dtype) @ self.family.codebook).movedim(-1, axis)
        return z

    def _rsample_log_prob(self, draw: Draw, stop_parameters: bool = False) -> tuple[Tensor, Tensor]:
        self._check_not_relaxed("log probability")
        indices = self._perturbed(draw).argmax(len(draw.shape) + 1)
        return self._embedded(indices), self.log_prob_of(indices)

    def _rsample_log_ratio(self, prior: Prior, draw: Draw) -> tuple[Tensor, Tensor]:
        """By the codes' numbers."""
        self._check_not_relaxed(f"estimate of its divergence from a {type(prior).__name__}")
        if not isinstance(prior, CodePrior):
            raise TypeError(f"a GumbelSoftmax posterior goes with a prior over codes, got {type(prior).__name__}")
        indices = self._perturbed(draw).argmax(len(draw.shape) + 1)
        log_q, leading = self.log_prob_of(indices), indices.shape[: len(draw.shape) + 1]
        log_p = prior.log_prob_of(indices.reshape(-1, *self.family.code_shape), log_q.dtype).reshape(leading)
        return self._embedded(indices), log_q - log_p

    def _perturbed(self, draw: Draw) -> Tensor:
        """Logits and Gumbel noise, whose largest is a draw: [*draw.shape, B, K, *positions].

        Noise is -log(-log u), with u the probability of what is below a normal draw, whose logarithm is exact on both sides.
        """
        log_u: Tensor = torch.special.log_ndtr(draw.noise(self.logits))
        return self.logits - (-log_u).log()

    def _embedded(self, indices: Tensor) -> Tensor:
        """[*draw.shape, B, *positions] -> [*draw.shape, B, D, *positions]; NaN where the encoder gave it."""
        places = len(self.family.code_shape)
        leading = indices.shape[: indices.ndim - places]
        z: Tensor = self.family.embedded(indices.reshape(-1, *self.family.code_shape)).reshape(*leading, *self.mean.shape[1:])
        whole: Tensor = z + 0.0 * self.mean.detach()
        return whole

    def _check_not_relaxed(self, what: str) -> None:
        if self.temperature is not None:
            raise NotImplementedError(
                f"a relaxed draw is a mixture of codes, for which there is no {what}; take "
                "the model in evaluation mode, or train with the prior 'codes' and the loss 'elbo' and fit another prior "
                "afterwards, vaekit.fit_prior"
            )


@divergences.exact(GumbelSoftmax, Codes)
def _(posterior: GumbelSoftmax, prior: Codes, draw: Draw, reduce: str) -> tuple[Tensor, Tensor]:
    """sum_k q_k (log q_k - log p_k) in each position."""
    log_q = posterior.log_probabilities()
    q = log_q.exp()
    negative_entropy = (q * log_q.clamp(min=torch.finfo(log_q.dtype).min)).flatten(1).sum(1)
    return posterior._rsample(draw), negative_entropy - prior.expected_log_prob(q)

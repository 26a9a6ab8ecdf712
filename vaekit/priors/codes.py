"""A prior over the codes of a codebook: uniform, or with the frequencies that a trained model's codes have.

A. van den Oord, O. Vinyals, K. Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from vaekit.checks import checked_sizes
from vaekit.latents import LatentKind
from vaekit.ops import philox, reference
from vaekit.priors.base import Prior, registry

_COMPARISONS_PER_CHUNK = 1 << 22  # of vectors with codes, to bound the memory


class Codebook(Protocol):
    """What the prior asks of the encoder's family."""

    codebook: Tensor

    def embedded(self, indices: Tensor) -> Tensor: ...


@registry.register("codes")
class Codes(Prior):
    """Each position has one of K codes, independently: all equally probable, as while the model is trained (section 3.2).

    log p(z) = sum over positions of log p_position(k), -log K each at first; -inf for a z that holds anything but codes. The
    divergence of a vector-quantised posterior from it is then the constant positions * log K. After training,
    `vaekit.evaluation.fitted_codes` gives one with the frequencies that codes have at each position, for draws that look more
    like the data; what codes at two positions have to do with each other it leaves out, which a model of the codes would learn.

    Use it with the posterior "vector_quantized", as the only one. It costs next to nothing: a look-up for each code.

    Van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937, section 3.2.

    Args:
        latent_shape: (D, *positions) of one example's latents; `vaekit.create_vae` fills it in.

    Attributes:
        logits: [*positions, K], whose softmax are the probabilities; there once the prior is part of a model.

    Raises:
        ValueError: when composed, an encoder without a codebook.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(
        ...     input_shape=(4,), latent_dim=2, posterior={"name": "vector_quantized", "codes": 8}, prior="codes",
        ...     loss="vector_quantized",
        ... )
        >>> z = vae.prior.sample((5, 2), key=vaekit.make_key(0), dtype=torch.float32)
        >>> vae.prior.log_prob(z)  # -log 8
        tensor([-2.0794, -2.0794, -2.0794, -2.0794, -2.0794])
    """

    latents = LatentKind.CODES
    logits: Tensor

    def __init__(self, latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.latent_shape: tuple[int, ...] = checked_sizes("latent_shape", latent_shape)
        self._family: list[Codebook] = []  # in a list: the codebook is the encoder's, not the prior's

    def attach(self, encoder: nn.Module) -> None:
        family = getattr(encoder, "family", None)
        if not isinstance(getattr(family, "codebook", None), Tensor):
            raise ValueError(
                f"a codes prior is one over the codes of the encoder's codebook, but its {type(family).__name__} has none; "
                "make the encoder with posterior='vector_quantized'"
            )
        if self._family and self._family[0] is not family:
            raise ValueError("this codes prior belongs to another model, over whose codebook it is; make a new one")
        if not self._family:
            self._family = [cast(Codebook, family)]
            codebook = self._family[0].codebook
            shape = (*self.latent_shape[1:], len(codebook))
            self.register_buffer("logits", torch.zeros(shape, dtype=codebook.dtype, device=codebook.device))

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats, z [B, D, *positions] -> [B]; float64 for float64, otherwise float32; NaN for NaN."""
        codebook = self._codebook().codebook.detach()
        rows = z.movedim(1, -1).reshape(-1, codebook.shape[1])
        # Equal, not nearest: codes may lie closer together than a distance can tell.
        found = [_equal(part, codebook) for part in rows.split(max(_COMPARISONS_PER_CHUNK // len(codebook), 1))]
        indices, is_code = (torch.cat(parts).view(z.shape[0], *z.shape[2:]) for parts in zip(*found, strict=True))
        log_prob = self._log_probability_of(indices, reference.compute_dtype(z.dtype))
        log_prob = torch.where(is_code, log_prob, -math.inf)
        return torch.where(z.isnan().any(1), math.nan, log_prob).reshape(z.shape[0], math.prod(log_prob.shape[1:])).sum(-1)

    def log_prob_of(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """log p of codes by their numbers, in nats: int64 [B, *positions] -> `dtype` [B]."""
        return self._log_probability_of(indices, dtype).reshape(len(indices), math.prod(indices.shape[1:])).sum(-1)

    def sample(self, shape: Sequence[int], *, key: Tensor, dtype: torch.dtype, row_start: int = 0) -> Tensor:
        family, count, positions = self._codebook(), shape[0], tuple(shape[2:])
        wide = reference.compute_dtype(dtype)
        below = self._log_probabilities(wide).exp().view(math.prod(positions), -1).cumsum(-1)
        u = philox.uniform(key, (count, len(below)), wide, row_start * len(below))
        u = u.T * below[:, -1:]  # the last cumulative sum can round to just below 1
        indices = torch.searchsorted(below, u.contiguous(), right=True).clamp(max=below.shape[-1] - 1)
        return family.embedded(indices.T.reshape(count, *positions)).detach().to(dtype)

    def _log_probability_of(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """log p of each code in its position: int64 [B, *positions] -> [B, *positions]."""
        probabilities = self._log_probabilities(dtype)
        return probabilities.expand(len(indices), *probabilities.shape).gather(-1, indices.unsqueeze(-1)).squeeze(-1)

    def _log_probabilities(self, dtype: torch.dtype) -> Tensor:
        return self.logits.to(dtype).log_softmax(-1)

    def _codebook(self) -> Codebook:
        if not self._family:
            raise RuntimeError("a codes prior is one over a model's codebook: compose a vaekit.VAE with it first")
        return self._family[0]


def _equal(rows: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """The first code that each of [N, D] is equal to, int64 [N], and whether there is one, bool [N]."""
    equal = torch.ones(len(rows), len(codebook), dtype=torch.bool, device=rows.device)
    for of_rows, of_codes in zip(rows.unbind(1), codebook.unbind(1), strict=True):
        equal = equal & (of_rows[:, None] == of_codes)
    return equal.int().argmax(1), equal.any(1)

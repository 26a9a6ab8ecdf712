"""Priors over codes: what they offer, and the one whose places are independent.

A. van den Oord, O. Vinyals, K. Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937, section 3.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from vaekit.checks import checked_sizes
from vaekit.latents import LatentKind
from vaekit.ops import philox, reference
from vaekit.priors.base import Prior, registry

_MOST_LOGITS = 1 << 28  # a gigabyte in float32


class FamilyOfCodes(Protocol):
    """What a prior asks of the encoder's family; see `vaekit.posteriors.CodeFamily`."""

    codes: int

    @property
    def code_shape(self) -> tuple[int, ...]: ...

    def embedded(self, indices: Tensor) -> Tensor: ...

    def indices_of(self, z: Tensor) -> tuple[Tensor, Tensor]: ...


class CodePrior(Prior):
    """p(codes), over the codes of the encoder's family: as many as it has places, each with so many values.

    A prior of one's own makes in `build` what it needs for them, and gives `log_prob_of` and `sample_indices`; it is told its
    family when it becomes part of a model.

    Args:
        latent_shape: (D, *positions) of one example's latents; `vaekit.create_vae` fills it in.

    Raises:
        ValueError: when composed, an encoder whose latents are not codes.
    """

    latents = LatentKind.CODES | LatentKind.RELAXED_CODES

    def __init__(self, latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.latent_shape: tuple[int, ...] = checked_sizes("latent_shape", latent_shape)
        self._family: list[FamilyOfCodes] = []  # in a list: the codes are the encoder's, not the prior's

    def attach(self, encoder: nn.Module) -> None:
        family = getattr(encoder, "family", None)
        if getattr(family, "codes", None) is None:
            raise ValueError(
                f"{type(self).__name__} is a prior over the codes of the encoder, but its {type(family).__name__} has none; "
                "make the encoder with posterior='vector_quantized' for example"
            )
        if self._family and self._family[0] is not family:
            raise ValueError(f"this {type(self).__name__} belongs to another model, over whose codes it is; make a new one")
        if not self._family:
            self._family = [cast(FamilyOfCodes, family)]
            self.build(self.family.code_shape, self.family.codes, next(encoder.parameters(), torch.zeros(())))

    @property
    def family(self) -> FamilyOfCodes:
        """Whose codes they are.

        Raises:
            RuntimeError: the prior is not part of a model.
        """
        if not self._family:
            raise RuntimeError(f"a {type(self).__name__} is a prior over a model's codes: compose a vaekit.VAE with it first")
        return self._family[0]

    @abstractmethod
    def build(self, code_shape: tuple[int, ...], codes: int, weight: Tensor) -> None:
        """Make what it needs for codes in these places, with so many values each, on the device of `weight` and in its dtype."""

    @abstractmethod
    def log_prob_of(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """log p of codes by their numbers, in nats: int64 [B, *code_shape] -> `dtype` [B]."""

    @abstractmethod
    def sample_indices(self, count: int, *, key: Tensor, dtype: torch.dtype = torch.float32, row_start: int = 0) -> Tensor:
        """Draws by their numbers: int64 [count, *code_shape]; `dtype` is that of the probabilities."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats, z [B, *latent_shape] -> [B]; -inf for a z that holds anything but codes, NaN for NaN.

        float64 for float64, otherwise float32.

        Raises:
            NotImplementedError: vectors that do not say which codes they stand for.
        """
        indices, is_code = self.family.indices_of(z)
        log_prob = self.log_prob_of(indices, reference.compute_dtype(z.dtype))
        log_prob = torch.where(is_code.reshape(len(z), -1).all(1), log_prob, -math.inf)
        return torch.where(z.isnan().reshape(len(z), -1).any(1), math.nan, log_prob)

    def sample(self, shape: Sequence[int], *, key: Tensor, dtype: torch.dtype, row_start: int = 0) -> Tensor:
        indices = self.sample_indices(shape[0], key=key, dtype=reference.compute_dtype(dtype), row_start=row_start)
        return self.family.embedded(indices).detach().to(dtype)


@registry.register("codes")
class Codes(CodePrior):
    """Each place has one of K codes, independently: all equally probable, as while the model is trained (section 3.2).

    log p(z) = sum over places of log p_place(k), -log K each at first; -inf for a z that holds anything but codes. The
    divergence of a vector-quantised posterior from it is then the constant places * log K. After training,
    `vaekit.evaluation.fitted_codes` gives one with the frequencies that codes have in each place, for draws that look more
    like the data; what codes in two places have to do with each other it leaves out, which "autoregressive_codes" learns.

    Use it with a posterior over codes, "vector_quantized" for example. It costs next to nothing: a look-up for each code.

    Van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937, section 3.2.

    Args:
        latent_shape: (D, *positions) of one example's latents; `vaekit.create_vae` fills it in.

    Attributes:
        logits: [*code_shape, K], whose softmax are the probabilities; there once the prior is part of a model.

    Raises:
        ValueError: when composed, an encoder whose latents are not codes, or one with so many that there is no room for logits.

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

    logits: Tensor

    def build(self, code_shape: tuple[int, ...], codes: int, weight: Tensor) -> None:
        if math.prod(code_shape) * codes > _MOST_LOGITS:
            raise ValueError(f"there is no room for the probabilities of {codes} codes in {math.prod(code_shape)} places")
        self.register_buffer("logits", weight.new_zeros((*code_shape, codes)).detach())

    def log_prob_of(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        probabilities = self._log_probabilities(dtype)
        each = probabilities.expand(len(indices), *probabilities.shape).gather(-1, indices.unsqueeze(-1)).squeeze(-1)
        summed: Tensor = each.reshape(len(indices), math.prod(indices.shape[1:])).sum(-1)
        return summed

    def expected_log_prob(self, probabilities: Tensor) -> Tensor:
        """The mean of log p where codes have these probabilities, in nats: [B, *code_shape, K] -> [B]."""
        each = probabilities * self._log_probabilities(probabilities.dtype)
        return each.flatten(1).sum(1)

    def sample_indices(self, count: int, *, key: Tensor, dtype: torch.dtype = torch.float32, row_start: int = 0) -> Tensor:
        below = self._log_probabilities(dtype).exp().view(math.prod(self.family.code_shape), -1).cumsum(-1)
        u = philox.uniform(key, (count, len(below)), dtype, row_start * len(below))
        u = u.T * below[:, -1:]  # the last cumulative sum can round to just below 1
        indices = torch.searchsorted(below, u.contiguous(), right=True).clamp(max=below.shape[-1] - 1)
        return indices.T.reshape(count, *self.family.code_shape)

    def _log_probabilities(self, dtype: torch.dtype) -> Tensor:
        return self.logits.to(dtype).log_softmax(-1)

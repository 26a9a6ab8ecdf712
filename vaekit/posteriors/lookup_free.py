"""Lookup-free quantisation: the code is the signs of what the encoder gives.

L. Yu, J. Lezama, N. B. Gundavarapu et al., "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation", ICLR 2024,
arXiv:2310.05737, section 3.1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.checks import checked_number
from vaekit.gathering import gathered
from vaekit.ops import reference
from vaekit.posteriors.codes import CertainCodes, CodeFamily, squared_norm
from vaekit.posteriors.family import registry

_MOST_BITS = 10  # whose codes are enumerated together


@registry.register("lookup_free")
class LookupFreeFamily(CodeFamily):
    """Each of the D latents at a position becomes -1 or 1: together one of 2^D codes, with no codebook to search.

    The gradient passes the signs as if they were not there. Two terms make the encoder decided about each example and the codes
    used evenly, equation 5 of the paper: the mean entropy of a soft choice of the code, p(c | z_e) = softmax(-||z_e - c||^2 /
    temperature), less the entropy of its mean over the batch, in nats and summed over the positions of an example: the extra
    "entropy". Use it for large numbers of codes, with the prior "codes" and the loss "vector_quantized", whose commitment holds
    z_e near its signs. A step costs [B, positions, 2^min(D, 10)] numbers.

    The entropy of the mean is over all codes together up to D = 10. Beyond, it is the sum of those of at most 10 bits each, which
    is never below it. It is one of a whole batch: small batches blur it.

    Yu, Lezama, Gundavarapu et al., "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation", 2024,
    arXiv:2310.05737, section 3.1.

    Args:
        latent_shape: (D, *positions) of one example's latents, D at most 62; the encoder fills it in.
        entropy_weight: of the "entropy" term; 0 leaves it out.
        diversity: the weight of the entropy of the mean, within it.
        temperature: of the soft choice; the lower, the nearer to 0 a latent has to be to count as undecided.

    Attributes:
        codes: K = 2^D; the first latent is the lowest bit, 1 where it is positive.

    Raises:
        ValueError: a negative weight, a temperature that is not positive, more than 62 latents.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(
        ...     input_shape=(4,), latent_dim=6, posterior="lookup_free", prior="codes", loss="vector_quantized", seed=0
        ... )
        >>> q = vae.encode(torch.rand(5, 4))
        >>> q.mean.detach().abs().unique(), q.indices.shape, vae.encoder.family.codes
        (tensor([1.]), torch.Size([5]), 64)
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        entropy_weight: float = 0.1,
        diversity: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(latent_shape)
        size = self.latent_shape[0]
        if size > 62:
            raise ValueError(f"lookup_free has a bit for each latent at a position, at most 62; got {size}")
        self.codes = 2**size
        self.entropy_weight = checked_number("entropy_weight", entropy_weight, least=0.0)
        self.diversity = checked_number("diversity", diversity, least=0.0)
        self.temperature = checked_number("temperature", temperature, above=0.0)
        column = (-1, *(1 for _ in self.latent_shape[1:]))
        self.register_buffer("_place", (2 ** torch.arange(size)).view(column), persistent=False)
        self.register_buffer("_one", torch.ones(()), persistent=False)  # in the model's dtype
        self._place: Tensor
        self._one: Tensor

    def forward(self, numbers: Tensor) -> LookupFree:
        return LookupFree(numbers, ((numbers > 0) * self._place).sum(1), self)

    def embedded(self, indices: Tensor) -> Tensor:
        return (2 * (indices.unsqueeze(1) // self._place % 2) - 1).to(self._one.dtype)

    def indices_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return ((z > 0) * self._place).sum(1), (z.abs() == 1).all(1)


class LookupFree(CertainCodes):
    """q(z | x) that is 1 for the signs of what was encoded."""

    family: LookupFreeFamily

    def commitment(self) -> Tensor:
        """||z_e - sg(z)||^2, a sum over all latents: [B]."""
        return squared_norm(self._wide - self._codes.detach())

    def penalties(self) -> dict[str, Tensor]:
        """ "entropy", [B], by the weights of the family."""
        family = self.family
        if not family.entropy_weight:
            return {}
        undecided, spread = self.entropies()
        positions = math.prod(family.code_shape)
        return {"entropy": family.entropy_weight * (undecided - family.diversity * positions * spread)}

    def entropies(self) -> tuple[Tensor, Tensor]:
        """Of the soft choice of codes, in nats: of each example's, summed over positions, [B]; of the batch's mean, a scalar.

        Bits are independent given z_e, -||z_e - c||^2 being a sum over them: the first is a sum over bits.
        """
        wide = self._wide.to(reference.compute_dtype(self._wide.dtype))
        logits = wide.movedim(1, -1) * (4.0 / self.family.temperature)  # of a bit: ((z + 1)^2 - (z - 1)^2) / temperature
        on, off = F.logsigmoid(logits), F.logsigmoid(-logits)
        undecided = -(on.exp() * on + off.exp() * off).flatten(1).sum(1)
        both = gathered(torch.stack((off, on), -1)).flatten(0, -3)  # log p of each bit's two values, [N, D, 2]
        spread = undecided.new_zeros(())
        for bits in both.split(_MOST_BITS, dim=1):
            mean = _joint(bits).exp().sum(0) / max(len(bits), 1)
            spread = spread + torch.special.entr(mean.clamp(min=torch.finfo(mean.dtype).tiny)).sum()  # at 0 its slope is infinite
        return undecided, spread


def _joint(bits: Tensor) -> Tensor:
    """log p of all values of independent bits: [N, D, 2] -> [N, 2^D]."""
    joint = bits[:, 0]
    for bit in itertools.islice(bits.unbind(1), 1, None):
        joint = (joint.unsqueeze(2) + bit.unsqueeze(1)).flatten(1)
    return joint

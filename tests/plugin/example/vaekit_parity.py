"""A posterior over codes, several at each position, with no table, and a prior over them that is told a label."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit import make_key
from vaekit.conditions import Labels
from vaekit.ops import philox
from vaekit.posteriors import CertainCodes, CodeFamily
from vaekit.priors import CodePrior


class ParityFamily(CodeFamily):
    """Each of the D latents is rounded to one of three digits, -1, 0 or 1: D codes a position, of three levels each."""

    codes = 3

    @property
    def code_shape(self) -> tuple[int, ...]:
        return self.latent_shape

    def forward(self, numbers: Tensor) -> CertainCodes:
        return CertainCodes(numbers, numbers.detach().round().clamp(-1, 1).long() + 1, self)

    def embedded(self, indices: Tensor) -> Tensor:
        return (indices - 1).to(torch.get_default_dtype())

    def indices_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        digits = z.round().clamp(-1, 1)
        return digits.long() + 1, digits == z


class ByLabel(CodePrior):
    """Digits that are independent, with probabilities of their own in each place for each label."""

    def __init__(self, latent_shape: Sequence[int], classes: int) -> None:
        super().__init__(latent_shape)
        self.condition = Labels(classes)
        self.classes = classes

    def build(self, code_shape: tuple[int, ...], codes: int, weight: Tensor) -> None:
        self.logits = nn.Parameter(torch.zeros(self.classes, *code_shape, codes))

    def log_prob_of(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        each = self._of_each(len(indices)).log_softmax(-1).gather(-1, indices.unsqueeze(-1))
        return each.flatten(1).sum(1).to(dtype)

    def sample_indices(
        self, count: int, *, key: Tensor | None = None, dtype: torch.dtype = torch.float32, row_start: int = 0
    ) -> Tensor:
        below = self._of_each(count).softmax(-1).cumsum(-1)
        key = make_key(0) if key is None else key
        u = philox.uniform(key, below.shape[:-1], torch.float32, row_start * below[0, ..., 0].numel())
        return (u.unsqueeze(-1) > below[..., :-1]).sum(-1)

    def _of_each(self, count: int) -> Tensor:
        told = self.told_for(count)
        assert told is not None
        return torch.einsum("bl,l...->b...", told, self.logits)

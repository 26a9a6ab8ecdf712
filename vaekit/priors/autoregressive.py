"""Priors that learn which codes go together: each code given those before it.

A. van den Oord, O. Vinyals, K. Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937, section 3.3; a
transformer in place of their PixelCNN: P. Esser, R. Rombach, B. Ommer, "Taming Transformers for High-Resolution Image Synthesis",
2021, arXiv:2012.09841.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaekit import conditions
from vaekit.checks import checked_number, checked_size
from vaekit.conditions import Condition
from vaekit.modes import evaluation_mode
from vaekit.ops import philox
from vaekit.priors.base import registry
from vaekit.priors.codes import CodePrior

_ROWS_AT_ONCE = 256  # of a draw, whose keys and values are kept

ConditionSpec = str | Mapping[str, Any] | Condition | None


class AutoregressivePrior(CodePrior):
    """p(codes) = prod_t p(code_t | those before it): what such priors share.

    Places are taken position by position, row after row, and of several codes at one position in their order.

    Args:
        latent_shape: (D, *positions) of one example's latents; `vaekit.create_vae` fills it in.
        condition: what the prior is told of each example, as of `vaekit.create_vae`; None for nothing.
    """

    def __init__(self, latent_shape: Sequence[int], condition: ConditionSpec = None) -> None:
        super().__init__(latent_shape)
        self.condition = None if condition is None else conditions.registry.build(condition)

    @property
    def length(self) -> int:
        """T, the number of codes of an example."""
        return math.prod(self.family.code_shape)

    def log_prob_of(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        tokens = self.in_order(indices)
        log_p = self.logits(tokens, self.told_for(len(tokens))).to(dtype).log_softmax(-1)
        summed: Tensor = log_p.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).sum(1)
        return summed

    @torch.no_grad()
    def sample_indices(self, count: int, *, key: Tensor, dtype: torch.dtype = torch.float32, row_start: int = 0) -> Tensor:
        u = philox.uniform(key, (count, self.length), dtype, row_start * self.length)
        told = self.told_for(count)
        with evaluation_mode(self):
            parts = [
                self._drawn(u[start : start + _ROWS_AT_ONCE], None if told is None else told[start : start + _ROWS_AT_ONCE])
                for start in range(0, count, _ROWS_AT_ONCE)
            ]
        return self.in_places(torch.cat(parts) if parts else u.new_zeros(u.shape, dtype=torch.int64))

    def in_order(self, indices: Tensor) -> Tensor:
        """[B, *code_shape] -> [B, T], several codes of one position beside each other."""
        return (indices.movedim(1, -1) if self._has_several else indices).reshape(len(indices), self.length)

    def in_places(self, tokens: Tensor) -> Tensor:
        """The inverse of `in_order`."""
        shape = self.family.code_shape
        if not self._has_several:
            return tokens.reshape(len(tokens), *shape)
        return tokens.reshape(len(tokens), *shape[1:], shape[0]).movedim(-1, 1)

    @property
    def _has_several(self) -> bool:
        return len(self.family.code_shape) >= len(self.latent_shape)

    @abstractmethod
    def logits(self, tokens: Tensor, told: Tensor | None) -> Tensor:
        """Of each code given those before it and what the prior is told, [B, condition.dim]: int64 [B, T] -> [B, T, K]."""

    @abstractmethod
    def _drawn(self, u: Tensor, told: Tensor | None) -> Tensor:
        """Draws made of uniform numbers [n, T]: int64 [n, T]."""


def chosen(logits: Tensor, u: Tensor) -> Tensor:
    """One of K by its logits [n, K] and a uniform number [n]: int64 [n]."""
    below = logits.to(u.dtype).softmax(-1).cumsum(-1)
    # The last cumulative sum can round to just below 1.
    return torch.searchsorted(below, (u * below[:, -1]).unsqueeze(-1), right=True).squeeze(-1).clamp(max=below.shape[-1] - 1)


@registry.register("autoregressive_codes")
class AutoregressiveCodes(AutoregressivePrior):
    """A small causal transformer over the codes, one after the other: draws from it look like the data.

    log p = sum_t log p(code_t | codes before it), exact; the divergence of a posterior over codes is their length in nats. Use it
    with a posterior over codes, trained together with the model as part of "vector_quantized", or afterwards by
    `vaekit.fit_prior`, which leaves the networks as they are. It costs a pass of T tokens through the transformer; a draw T
    passes of one token, with the keys and values of those before kept. The examples of a small data set it learns by heart
    sooner than the model does: watch held-out data, and take a higher `dropout`.

    With a `condition`, labels for example, it is p(codes | c), whether or not the model's networks are told it too:
    `vae.sample(16, condition=3)`.

    Van den Oord, Vinyals, Kavukcuoglu, 2017, arXiv:1711.00937, section 3.3; a transformer: Esser, Rombach, Ommer, "Taming
    Transformers for High-Resolution Image Synthesis", 2021, arXiv:2012.09841, section 3.2.

    Args:
        latent_shape: (D, *positions) of one example's latents; `vaekit.create_vae` fills it in.
        width: of the vectors that stand for codes.
        layers: how many blocks of attention and a dense network of 4 width.
        heads: of the attention; they divide the width.
        dropout: the share of features that are set to 0 in training.
        condition: what the prior is told of each example, as of `vaekit.create_vae`: {"name": "labels", "classes": 10} for
            example; None for nothing.

    Raises:
        ValueError: heads that do not divide the width; when composed, an encoder whose latents are not codes.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae("vq-mnist", prior={"name": "autoregressive_codes", "width": 16, "layers": 1})
        >>> vae.prior.log_prob_of(vae.indices(torch.rand(5, 1, 28, 28))).shape, vae.sample(2).shape
        (torch.Size([5]), torch.Size([2, 1, 28, 28]))
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
        condition: ConditionSpec = None,
    ) -> None:
        super().__init__(latent_shape, condition)
        self.width, self.layers, self.heads = (
            checked_size(name, size) for name, size in (("width", width), ("layers", layers), ("heads", heads))
        )
        self.dropout = checked_number("dropout", dropout, least=0.0, below=1.0)
        if width % heads:
            raise ValueError(f"the heads have to divide the width, got heads={heads} and width={width}")

    def build(self, code_shape: tuple[int, ...], codes: int, weight: Tensor) -> None:
        with torch.device(weight.device):
            self.embedding = nn.Embedding(codes, self.width)
            self.places = nn.Parameter(0.02 * torch.randn(math.prod(code_shape), self.width))
            self.start = nn.Parameter(0.02 * torch.randn(self.width))
            self.of_condition = None if self.condition is None else nn.Linear(self.condition.dim, self.width, bias=False)
            self.blocks = nn.ModuleList(_Block(self.width, self.heads, self.dropout) for _ in range(self.layers))
            self.norm, self.head = nn.LayerNorm(self.width), nn.Linear(self.width, codes)
            nn.init.normal_(self.embedding.weight, std=0.02)
            self.dropped = nn.Dropout(self.dropout)
        self.to(weight.dtype)

    def logits(self, tokens: Tensor, told: Tensor | None) -> Tensor:
        before = torch.cat((self.start.expand(len(tokens), 1, -1), self.embedding(tokens[:, :-1])), 1)
        x = self.dropped(self._with_condition(before + self.places, told))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def _drawn(self, u: Tensor, told: Tensor | None) -> Tensor:
        weight = self.places
        tokens = torch.zeros(u.shape, dtype=torch.int64, device=u.device)
        kept = [
            weight.new_empty(2, len(u), self.heads, u.shape[1], self.width // self.heads) for _ in self.blocks
        ]  # keys and values of the codes before
        before = self.start.expand(len(u), -1)
        for place in range(u.shape[1]):
            x = self._with_condition((before + weight[place]).unsqueeze(1), told)
            for block, cache in zip(self.blocks, kept, strict=True):
                assert isinstance(block, _Block)
                x = block.step(x, cache, place)
            tokens[:, place] = chosen(self.head(self.norm(x)).squeeze(1), u[:, place])
            before = self.embedding(tokens[:, place])
        return tokens

    def _with_condition(self, x: Tensor, told: Tensor | None) -> Tensor:
        return x if self.of_condition is None or told is None else x + self.of_condition(told).unsqueeze(1)


class _Block(nn.Module):
    """Causal attention and a dense network, each behind a normalisation and added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_dense = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropped = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] -> the same shape."""
        q, k, v = self._parts(x)
        return self._added(x, F.scaled_dot_product_attention(q, k, v, is_causal=True))

    def step(self, x: Tensor, kept: Tensor, place: int) -> Tensor:
        """One code [B, 1, width], given the keys and values of the places before, to which its own are added."""
        q, kept[0, :, :, place : place + 1], kept[1, :, :, place : place + 1] = self._parts(x)
        keys, values = kept[:, :, :, : place + 1]
        return self._added(x, F.scaled_dot_product_attention(q, keys, values))

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [B, heads, T, width / heads] each."""
        q, k, v = self.qkv(self.before_attention(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _added(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.dropped(self.out(attended.transpose(1, 2).flatten(2)))
        added: Tensor = x + self.dropped(self.dense(self.before_dense(x)))
        return added

"""The top-down path of a model with several levels of latents: z_1 first, then each z_l given those before it.

    p(z_1, ..., z_L) = p(z_1) prod_l p(z_l | z_<l),    q(z_1, ..., z_L | x) = q(z_1 | x) prod_l q(z_l | z_<l, x)

with Gaussian conditionals, as in C. K. Sønderby, T. Raiko, L. Maaløe, S. K. Sønderby, O. Winther, "Ladder Variational
Autoencoders", NeurIPS 2016, arXiv:1602.02282, and A. Vahdat, J. Kautz, "NVAE", NeurIPS 2020, arXiv:2007.03898. What has been
drawn so far is one tensor, the state h; prior and posterior both read it. Level 1 is the one that is drawn first, the top.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vaekit import autocast


class Gaussian(NamedTuple):
    """N(mu, diag(exp(logvar))) for each of N rows, [N, *S_l] both."""

    mu: Tensor
    logvar: Tensor


def path_of(encoder: nn.Module) -> TopDown | None:
    """The top-down path of an encoder whose latents have several levels; None for any other."""
    path = getattr(getattr(encoder, "family", None), "path", None)
    return path if isinstance(path, TopDown) else None


class TopDown(nn.Module, ABC):
    """The networks of all conditionals, and the packing of levels into one tensor of latents.

    A path of one's own gives `start`, `prior`, `posterior` and `after`, and `features` where its state is not all that a decoder
    should read. Levels count from 0 here. A posterior of it is a `vaekit.posteriors.LevelsPosterior`, which a family makes whose
    attribute `path` it is; the prior is "top_down".

    Args:
        level_shapes: of the latents of each level, from the one that is drawn first: all (D_l,), or all (D, *sizes_l) with one D.
        features_shape: of what `features` gives for one example.

    Attributes:
        latent_shape: of all levels in one tensor, side by side: (sum of the D_l,), or (D, sum of the numbers of positions).

    Raises:
        ValueError: no levels, or levels that cannot lie side by side.

    Example:
        >>> class Chain(TopDown):  # z_l is near z_(l-1), the data shift it
        ...     def start(self, like):
        ...         return like.new_zeros(like.shape[0], 1)
        ...
        ...     def prior(self, level, h):
        ...         return Gaussian(h, torch.zeros_like(h))
        ...
        ...     def posterior(self, level, h, prior, numbers):
        ...         return Gaussian(h + numbers[:, level, None], torch.zeros_like(h))
        ...
        ...     def after(self, level, h, z):
        ...         return z
        >>> path = Chain([(1,), (1,), (1,)], features_shape=(1,))
        >>> path.latent_shape, path.features(torch.tensor([[1.0, 2.0, 3.0]]))
        ((3,), tensor([[3.]]))
    """

    def __init__(self, level_shapes: Sequence[Sequence[int]], features_shape: Sequence[int]) -> None:
        super().__init__()
        self.level_shapes = tuple(tuple(shape) for shape in level_shapes)
        self.features_shape = tuple(features_shape)
        if not self.level_shapes:
            raise ValueError("a top-down path has at least one level")
        flat = [shape if len(shape) == 1 else (shape[0], math.prod(shape[1:])) for shape in self.level_shapes]
        if len({shape[:-1] for shape in flat}) > 1:
            raise ValueError(
                f"levels of the shapes {', '.join(map(str, self.level_shapes))} cannot lie side by side: give all of them one "
                "dimension, or all of them positions and the same number of latents at each"
            )
        self._sizes = [shape[-1] for shape in flat]
        self.latent_shape = (*flat[0][:-1], sum(self._sizes))

    @abstractmethod
    def start(self, like: Tensor) -> Tensor:
        """The state h before the first level, for as many rows as `like` [N, ...] has, in its dtype and on its device."""

    @abstractmethod
    def prior(self, level: int, h: Tensor) -> Gaussian | None:
        """p(z_l | z_<l) of the state; None for N(0, I)."""

    @abstractmethod
    def posterior(self, level: int, h: Tensor, prior: Gaussian | None, numbers: Tensor) -> Gaussian:
        """q(z_l | z_<l, x) of the state, the prior there, and what the encoder says of x, numbers [N, F]."""

    @abstractmethod
    def after(self, level: int, h: Tensor, z: Tensor) -> Tensor:
        """The state that the level below reads, of this level's and its z [N, *S_l]; of all levels but the last."""

    def features_of(self, h: Tensor, z: Tensor) -> Tensor:
        """What a decoder reads, [N, *features_shape], of the last level's state and z: as a rule z."""
        return z

    def walk(self, like: Tensor, pick: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Go down: z of each level is pick(level, h). The last level's state, and all z.

        Under `torch.autocast` in the dtype of the weights, as all that has to do with densities.
        """
        if autocast.dtype_on(like.device) is not None:
            with torch.autocast(like.device.type, enabled=False):
                return self.walk(like, pick)
        levels: list[Tensor] = []
        h = self.start(like)
        for level in range(len(self.level_shapes)):
            if level:
                h = self.after(level - 1, h, levels[-1])
            levels.append(pick(level, h))
        return h, levels

    def features(self, z: Tensor) -> Tensor:
        """What a decoder reads of z [N, *latent_shape]: [N, *features_shape]."""
        given = self.split(z)
        h, levels = self.walk(z, lambda level, _: given[level])
        return self.features_of(h, levels[-1])

    def split(self, z: Tensor) -> tuple[Tensor, ...]:
        """The levels of z [..., *latent_shape], each [..., *S_l], from the one that is drawn first."""
        leading = z.shape[: z.ndim - len(self.latent_shape)]
        parts = z.split(self._sizes, -1)
        return tuple(part.reshape(*leading, *shape) for part, shape in zip(parts, self.level_shapes, strict=True))

    def packed(self, levels: Sequence[Tensor]) -> Tensor:
        """The levels [N, *S_l] in one tensor, [N, *latent_shape]."""
        return torch.cat([level.flatten(len(self.latent_shape)) if level.ndim > 2 else level for level in levels], dim=-1)

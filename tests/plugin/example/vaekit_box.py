"""A posterior that is uniform on a box, announced to vaekit by its entry point alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit import Posterior, StandardNormal, divergences
from vaekit.ops.draw import Draw
from vaekit.posteriors import Family


class Box(Posterior):
    """Uniform on [mean - width / 2, mean + width / 2] in each latent dimension: mean and log_width [B, *S]."""

    def __init__(self, mean: Tensor, log_width: Tensor) -> None:
        self.mean, self.log_width = mean, log_width

    def _rsample(self, draw: Draw) -> Tensor:
        return self.mean + self.log_width.exp() * (torch.special.ndtr(draw.noise(self.mean)) - 0.5)

    def log_prob(self, z: Tensor) -> Tensor:
        is_inside = (z - self.mean).abs() <= self.log_width.exp() / 2
        return torch.where(is_inside, -self.log_width, -math.inf).flatten(z.ndim - self.mean.ndim + 1).sum(-1)


@divergences.exact(Box, StandardNormal, by_dimension=True)
def from_standard_normal(q: Box, prior: StandardNormal, draw: Draw, reduce: str) -> tuple[Tensor, Tensor]:
    """(log 2 pi + mean^2 + width^2 / 12) / 2 - log width, for each dimension."""
    second_moment = q.mean**2 + torch.exp(2.0 * q.log_width) / 12.0
    kl = 0.5 * (math.log(2.0 * math.pi) + second_moment) - q.log_width
    return q._rsample(draw), kl if reduce == "none" else kl.flatten(1).sum(-1)


class BoxFamily(Family):
    """A box for each example, whose width starts from that with a standard normal's variance."""

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__(latent_shape)
        self.outputs = 2 * self.latent_shape[0]

    def forward(self, numbers: Tensor) -> Box:
        mean, log_width = numbers.chunk(2, dim=1)
        return Box(mean, log_width + 0.5 * math.log(12.0))

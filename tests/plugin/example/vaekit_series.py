"""A recurrent encoder for series (K. Cho et al., 2014, arXiv:1406.1078), announced to vaekit by its entry point alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vaekit import DiagonalGaussian, Encoder


class SeriesGRU(Encoder):
    """A GRU that reads a series; its last state gives the posterior.

    Args:
        input_shape: (steps, channels).
        latent_dim: D.
        width: the size of the GRU's state.
    """

    def __init__(self, input_shape: Sequence[int], latent_dim: int, width: int = 16) -> None:
        super().__init__(input_shape, latent_dim)
        if len(self.input_shape) != 2:
            raise ValueError(f"series-gru reads series (steps, channels), got the shape {self.input_shape}")
        self.gru = nn.GRU(self.input_shape[1], width, batch_first=True)
        self.head = nn.Linear(width, 2 * latent_dim)

    def forward(self, x: Tensor) -> DiagonalGaussian:
        _, state = self.gru(x)
        return DiagonalGaussian(*self.head(state[0]).chunk(2, dim=-1))

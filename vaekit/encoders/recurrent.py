"""The encoder of sequences: a GRU from both ends.

S. R. Bowman et al., "Generating Sentences from a Continuous Space", CoNLL 2016, arXiv:1511.06349.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.checks import checked_size
from vaekit.dense import Linear
from vaekit.encoders.base import Encoder, registry
from vaekit.layers import precise_layer, with_condition
from vaekit.posteriors import Family, Posterior


@registry.register("recurrent")
class RecurrentEncoder(Encoder):
    """A GRU that reads a sequence [T, F] from both ends; its two last states make the posterior.

    It goes with the likelihood "autoregressive", which shows it the features of each step and whether the step is there.

    Args:
        input_shape: (T, F).
        latent_dim: D.
        hidden: the size of the state in each direction.
        layers: of the GRU.
        condition_dim: of a condition, which the last layer reads beside the states; 0 for none.
        posterior: the family of q(z | x), a name from `vaekit.posteriors.names()` or {"name": ..., option: ...}.

    Raises:
        ValueError: another number of dimensions.

    Example:
        >>> RecurrentEncoder((20, 5), latent_dim=2, hidden=16)(torch.zeros(3, 20, 5)).mean.shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int,
        hidden: int = 128,
        layers: int = 1,
        condition_dim: int = 0,
        posterior: str | Mapping[str, Any] | Family = "diagonal_gaussian",
    ) -> None:
        super().__init__(input_shape, latent_dim, condition_dim=condition_dim)
        if len(self.input_shape) != 2:
            raise ValueError(
                f"the encoder 'recurrent' reads sequences (steps, features), got the shape {self.input_shape}; the likelihood "
                '"autoregressive" shows it such ones'
            )
        sizes = {"hidden_size": checked_size("hidden", hidden), "num_layers": checked_size("layers", layers)}
        self.network = nn.GRU(self.input_shape[1], batch_first=True, bidirectional=True, **sizes)
        self.head = self.make_head(posterior, Linear, 2 * hidden + condition_dim)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Posterior:
        self.check_condition(x, condition)
        _, states = self.network(x)
        return self.posterior(precise_layer(self.head, with_condition(torch.cat([states[-2], states[-1]], 1), condition)))

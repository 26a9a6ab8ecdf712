"""A gated PixelCNN over the codes of a grid.

A. van den Oord, N. Kalchbrenner, O. Vinyals, L. Espeholt, A. Graves, K. Kavukcuoglu, "Conditional Image Generation with PixelCNN
Decoders", NeurIPS 2016, arXiv:1606.05328.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaekit.checks import checked_number, checked_size
from vaekit.priors.autoregressive import AutoregressivePrior, ConditionSpec, chosen
from vaekit.priors.base import registry


@registry.register("pixel_cnn")
class PixelCNN(AutoregressivePrior):
    """Gated convolutions over a grid of codes, each of which sees those above it and to its left: van den Oord et al., 2016.

    log p = sum_t log p(code_t | codes before it), exact. One stack of convolutions looks at the rows above, the other at the row
    so far and at the first, so that there is no blind spot (section 2.2). Use it as "autoregressive_codes", of which it is the
    cheaper on large grids: the cost grows with the number of codes and not with its square. A draw costs T passes over the grid.

    Van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu, "Conditional Image Generation with PixelCNN Decoders",
    2016, arXiv:1606.05328; as the prior over codes: arXiv:1711.00937, section 3.3.

    Args:
        latent_shape: (D, height, width) of one example's latents; `vaekit.create_vae` fills it in.
        width: how many features each convolution gives.
        layers: how many gated layers; each sees one row and column further.
        dropout: the share of features that are set to 0 in training.
        condition: what the prior is told of each example, as of `vaekit.create_vae`; None for nothing.

    Raises:
        ValueError: when composed, codes that are not one at each position of a grid of rows and columns.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae("vq-mnist", prior={"name": "pixel_cnn", "width": 8, "layers": 2})
        >>> vae.prior.log_prob_of(vae.indices(torch.rand(5, 1, 28, 28))).shape, vae.sample(2).shape
        (torch.Size([5]), torch.Size([2, 1, 28, 28]))
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        width: int = 64,
        layers: int = 6,
        dropout: float = 0.1,
        condition: ConditionSpec = None,
    ) -> None:
        super().__init__(latent_shape, condition)
        self.width, self.layers = checked_size("width", width), checked_size("layers", layers)
        self.dropout = checked_number("dropout", dropout, least=0.0, below=1.0)

    def build(self, code_shape: tuple[int, ...], codes: int, weight: Tensor) -> None:
        if len(code_shape) != 2 or self._has_several:
            raise ValueError(
                f"pixel_cnn is a prior over one code at each position of a grid, got codes of the shape {code_shape}; take "
                "'autoregressive_codes'"
            )
        told = 0 if self.condition is None else self.condition.dim
        with torch.device(weight.device):
            self.embedding = nn.Embedding(codes, self.width)
            self.gated = nn.ModuleList(_Gated(self.width, number == 0, told) for number in range(self.layers))
            self.norm, self.head = nn.Conv2d(self.width, self.width, 1), nn.Conv2d(self.width, codes, 1)
            self.dropped = nn.Dropout(self.dropout)
        self.to(weight.dtype)

    def logits(self, tokens: Tensor, told: Tensor | None) -> Tensor:
        grid = self.embedding(self.in_places(tokens)).movedim(-1, 1)
        above, beside = grid, grid
        for layer in self.gated:
            above, beside = layer(above, self.dropped(beside), told)
        logits: Tensor = self.head(self.norm(beside.relu()).relu())
        return logits.flatten(2).transpose(1, 2)

    def _drawn(self, u: Tensor, told: Tensor | None) -> Tensor:
        tokens = torch.zeros(u.shape, dtype=torch.int64, device=u.device)
        for place in range(u.shape[1]):
            tokens[:, place] = chosen(self.logits(tokens, told)[:, place], u[:, place])
        return tokens


class _Gated(nn.Module):
    """Figure 2 of the paper: a stack that sees the rows above, [B, W, H, W'], and one that sees what is before in the row.

    Args:
        width: features.
        is_first: sees neither its own place nor, in the first stack, its own row.
        told: the size of the condition.
    """

    def __init__(self, width: int, is_first: bool, told: int) -> None:
        super().__init__()
        self.is_first = is_first
        self.above = nn.Conv2d(width, 2 * width, (2, 3))  # the row above and, in later layers, the own one of what is above
        self.beside = nn.Conv2d(width, 2 * width, (1, 2))
        self.joined, self.out = nn.Conv2d(2 * width, 2 * width, 1), nn.Conv2d(width, width, 1)
        self.of_condition = nn.Linear(told, 4 * width, bias=False) if told else None

    def forward(self, above: Tensor, beside: Tensor, told: Tensor | None) -> tuple[Tensor, Tensor]:
        # What the first layer reads are the codes themselves: it is moved down by a row, and to the right by a column.
        rows = F.pad(above, (1, 1, 2, 0))[:, :, :-1] if self.is_first else F.pad(above, (1, 1, 1, 0))
        columns = F.pad(beside, (2, 0))[..., :-1] if self.is_first else F.pad(beside, (1, 0))
        vertical = self.above(rows)
        horizontal = self.beside(columns) + self.joined(vertical)
        if self.of_condition is not None and told is not None:
            added = self.of_condition(told)[..., None, None].chunk(2, dim=1)
            vertical, horizontal = vertical + added[0], horizontal + added[1]
        given: Tensor = self.out(_gate(horizontal))
        return _gate(vertical), given if self.is_first else beside + given


def _gate(x: Tensor) -> Tensor:
    """tanh(first half) * sigmoid(second half) of the features."""
    first, second = x.chunk(2, dim=1)
    return first.tanh() * second.sigmoid()

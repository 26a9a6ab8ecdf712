"""Many rows a few at a time, so that activations take bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vaekit.ops import dispatch

if TYPE_CHECKING:
    from vaekit.vae import VAE

_PIECE_ELEMENTS = 1 << 18  # of the data, at a time: a network's activations are some hundred times as large


def in_pieces(
    vae: VAE, function: Callable[[Tensor, Any, int], Tensor], rows: Tensor, condition: Any, shape: Sequence[int] | None = None
) -> Tensor:
    """function(rows, condition, 0), [B, ...], on a few rows at a time.

    Args:
        vae: the model whose data says how many make a piece.
        function: of some rows, their conditions, and the number of the first of them.
        rows: [B, ...].
        condition: as a person gives it.
        shape: of the data of one row; None for the model's input_shape.
    """
    if vae.condition is not None:
        condition = vae.condition.as_rows(condition, rows.shape[0])
    size = max(1, _PIECE_ELEMENTS // math.prod(vae.input_shape if shape is None else shape))
    # What is recorded would keep the number of pieces.
    if dispatch.is_recorded() or rows.shape[0] <= size:
        return function(rows, condition, 0)
    whole: Tensor | None = None
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        piece = function(rows[part], condition if vae.condition is None else condition[part], start)
        whole = piece.new_empty((len(rows), *piece.shape[1:])) if whole is None else whole
        whole[part] = piece
    assert whole is not None
    return whole

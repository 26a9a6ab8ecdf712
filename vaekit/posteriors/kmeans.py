"""Where codes are put: far apart on a first batch, and onto vectors of later ones.

D. Arthur, S. Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007; S. P. Lloyd, "Least squares
quantization in PCM", 1982.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.ops import dispatch

_SCORES_PER_CHUNK = 1 << 22  # of vectors against codes, to bound the memory


@torch.library.custom_op("vaekit::kmeans_plus_plus", mutates_args=())
def kmeans_plus_plus(rows: Tensor, eligible: Tensor, u: Tensor) -> Tensor:
    """K rows, far apart: each is drawn in proportion to its squared distance from the nearest of those before it.

    One operator, so that `torch.compile` does not unroll its K rounds.

    Args:
        rows: [N, D], finite.
        eligible: bool [N], which of them may be drawn.
        u: [K], uniform numbers in (0, 1], one for each draw.

    Returns:
        int64 [K]; -1 where no row is left that is not among them already.

    Example:
        >>> rows = torch.tensor([[0.0], [0.0], [9.0]])
        >>> kmeans_plus_plus(rows, torch.ones(3, dtype=torch.bool), torch.tensor([0.5, 0.5, 0.5]))
        tensor([ 1,  2, -1])
    """
    weights, drawn = eligible.to(rows.dtype), []
    for number, share in enumerate(u):
        below = weights.cumsum(0)
        row = torch.searchsorted(below, (share * below[-1]).reshape(1)).clamp(max=len(rows) - 1)
        drawn.append(torch.where(weights[row] > 0, row, -1))
        distance = torch.where(eligible, (rows - rows[row]).square().sum(1), 0.0)
        weights = distance if number == 0 else torch.minimum(weights, distance)
    return torch.cat(drawn)


@kmeans_plus_plus.register_fake
def _(rows: Tensor, eligible: Tensor, u: Tensor) -> Tensor:
    return u.new_empty(u.shape, dtype=torch.int64)


@torch.library.custom_op("vaekit::lloyd", mutates_args=())
def lloyd(rows: Tensor, eligible: Tensor, codes: Tensor, moving: Tensor, rounds: int) -> Tensor:
    """Codes moved to the means of the rows that are nearest to them, round after round; a code without rows stays.

    Args:
        rows: [N, D], finite.
        eligible: bool [N], which of them count.
        codes: [K, D], where they are.
        moving: bool [K], which of them take part.
        rounds: how many.

    Returns:
        [K, D].

    Example:
        >>> rows = torch.tensor([[0.0], [2.0], [9.0]])
        >>> every = torch.ones(3, dtype=torch.bool)
        >>> lloyd(rows, every, torch.tensor([[0.0], [9.0], [2.0]]), torch.tensor([True, True, False]), 2).T
        tensor([[1., 9., 2.]])
    """
    rows, all_codes = rows[eligible], codes.clone()
    codes = codes[moving]
    for _ in range(rounds if len(rows) and len(codes) else 0):
        index = nearest(rows, codes)
        counts = torch.zeros_like(codes[:, 0]).index_add_(0, index, torch.ones_like(rows[:, 0]))
        sums = torch.zeros_like(codes).index_add_(0, index, rows)
        codes = torch.where((counts > 0)[:, None], sums / counts.clamp(min=1.0)[:, None], codes)
    all_codes[moving] = codes
    return all_codes


@lloyd.register_fake
def _(rows: Tensor, eligible: Tensor, codes: Tensor, moving: Tensor, rounds: int) -> Tensor:
    return torch.empty_like(codes)


def nearest(rows: Tensor, codes: Tensor) -> Tensor:
    """The number of the code nearest to each row, to rounding the lowest of those: [N, D], [K, D] -> int64 [N]."""
    middle = codes.sort(0).values[len(codes) // 2]  # far from 0, ||e||^2 - 2 z e would cancel
    codes, rows = codes - middle, rows - middle
    half_square = 0.5 * (codes * codes).sum(1)
    # What is recorded would keep the number of parts.
    parts = (rows,) if dispatch.is_recorded() else rows.split(max(_SCORES_PER_CHUNK // len(codes), 1))
    return torch.cat([(half_square - part @ codes.T).argmin(1) for part in parts])


def sources(weights: Tensor, exponential: Tensor, wanted: Tensor) -> Tensor:
    """Rows for the codes that are wanted, drawn without replacement in proportion to weights [N]: int64 [K], -1 for none."""
    ranked, rows = order(weights, exponential).topk(min(len(weights), len(wanted)))
    turn = (wanted.cumsum(0) - 1).clamp(min=0)
    last = turn.clamp(max=len(rows) - 1)
    return torch.where(wanted & (turn < len(rows)) & (ranked[last] > 0), rows[last], -1)


def order(weights: Tensor, exponential: Tensor) -> Tensor:
    """[N] whose largest are a draw without replacement in proportion to weights [N]; 0 for what cannot be drawn.

    weight / Exp(1): P. S. Efraimidis, P. G. Spirakis, "Weighted random sampling with a reservoir", 2006.
    """
    return torch.where(weights > 0, weights / exponential, 0.0)

"""How much two columns have to do with each other, whatever they hold, and how much two samples of one column differ.

Two columns of numbers: Spearman's rank correlation, from -1 to 1. A column of levels and one of numbers: the correlation ratio of
the ranks (K. Pearson, "On the general theory of skew correlation and non-linear regression", 1905), and two columns of levels:
Cramér's V (H. Cramér, "Mathematical Methods of Statistics", 1946, section 21.9), both from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vaekit.plots.units import Floats, Values

_MOST_BY_PAIRS = 60  # columns; of more, the candidates are found by their correlation alone


def association(one: Values, other: Values) -> float:
    """Of two columns, over the rows where neither is missing; NaN where one of them does not vary there.

    Example:
        >>> length = Values("length", np.array([1.0, 2.0, 4.0, np.nan]))
        >>> kind = Values("kind", np.array([0.0, 0.0, 1.0, 1.0]), levels=("a", "b"))
        >>> association(length, length), round(association(length, kind), 4)
        (1.0, 0.866)
    """
    both = ~(np.isnan(one.numbers) | np.isnan(other.numbers))
    x, y = one.numbers[both], other.numbers[both]
    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        return float("nan")
    if one.levels is None and other.levels is None:
        return float(np.clip(np.corrcoef(ranks(x), ranks(y))[0, 1], -1.0, 1.0))
    if one.levels is not None and other.levels is not None:
        return _cramers_v(x, y)
    return _correlation_ratio(x, ranks(y)) if other.levels is None else _correlation_ratio(y, ranks(x))


def associations_of(columns: Sequence[Values]) -> Floats:
    """Of each column with each: float64 [F, F], symmetric."""
    matrix = np.full((len(columns), len(columns)), np.nan)
    whole = [place for place, column in enumerate(columns) if column.levels is None and not np.isnan(column.numbers).any()]
    whole = whole if len(whole) > 1 and len(columns[0].numbers) > 1 else []
    if whole:  # at once, as the ranks of one are the same beside each other
        with np.errstate(invalid="ignore", divide="ignore"):
            matrix[np.ix_(whole, whole)] = np.corrcoef(np.stack([ranks(columns[place].numbers) for place in whole])).clip(-1, 1)
    for row, one in enumerate(columns):
        for place in range(row + 1):
            if row not in whole or place not in whole:
                matrix[row, place] = matrix[place, row] = association(one, columns[place])
    return matrix


def most_associated(columns: Sequence[Values], count: int) -> list[int]:
    """The places of `count` columns that have to do with each other, in their order: the strongest pair first, then one by one.

    Among more than sixty columns, the sixty candidates are those whose correlation with another column is the largest.
    """
    places = list(range(len(columns)))
    if len(places) > _MOST_BY_PAIRS:
        strongest = _correlations(columns).max(1)
        places = sorted(np.argsort(-strongest, kind="stable")[:_MOST_BY_PAIRS].tolist())
    if len(places) <= count:
        return places
    matrix = np.nan_to_num(np.abs(associations_of([columns[place] for place in places])), nan=0.0)
    np.fill_diagonal(matrix, -1.0)
    chosen = list(np.unravel_index(matrix.argmax(), matrix.shape))
    while len(chosen) < count:
        gain = matrix[chosen].max(0)
        gain[chosen] = -2.0
        chosen.append(gain.argmax())
    return sorted(places[int(number)] for number in chosen[:count])


def difference(real: Values, synthetic: Values) -> float:
    """Between two samples of a column, missing values left out, from 0 to 1; NaN where one has no values.

    Of numbers the largest difference between their cumulative shares (Kolmogorov and Smirnov), of levels half the sum of the
    differences between their shares (total variation): the probability that has to be moved.

    Example:
        >>> difference(Values("x", np.array([1.0, 2.0])), Values("x", np.array([1.0, 3.0])))
        0.5
    """
    x, y = real.observed, synthetic.observed
    if not len(x) or not len(y):
        return float("nan")
    if real.levels is not None:
        return 0.5 * float(np.abs(level_shares(real) - level_shares(synthetic)).sum())
    values = np.unique(np.concatenate([x, y]))
    x_below = np.searchsorted(np.sort(x), values, side="right") / len(x)
    y_below = np.searchsorted(np.sort(y), values, side="right") / len(y)
    return float(np.abs(x_below - y_below).max())


def level_shares(column: Values) -> Floats:
    """The share of each level among what is observed: float64 [K]."""
    counts = np.bincount(column.observed.astype(np.int64), minlength=len(column.levels or ()))
    shares: Floats = counts / max(int(counts.sum()), 1)
    return shares


def ranks(x: Floats) -> Floats:
    """From 1 on; equal numbers have the mean of their ranks.

    Example:
        >>> ranks(np.array([5.0, 2.0, 5.0])).tolist()
        [2.5, 1.0, 2.5]
    """
    _, places, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: Floats = (ends - (counts - 1) / 2)[places.reshape(-1)]
    return mean


def _correlation_ratio(groups: Floats, x: Floats) -> float:
    _, places = np.unique(groups, return_inverse=True)
    counts = np.bincount(places)
    means = np.bincount(places, weights=x) / counts
    return float(np.sqrt((counts * (means - x.mean()) ** 2).sum() / ((x - x.mean()) ** 2).sum()).clip(0.0, 1.0))


def _cramers_v(x: Floats, y: Floats) -> float:
    _, row = np.unique(x, return_inverse=True)
    _, place = np.unique(y, return_inverse=True)
    table = np.zeros((row.max() + 1, place.max() + 1))
    np.add.at(table, (row, place), 1.0)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    chi_squared = ((table - expected) ** 2 / expected).sum()
    return float(np.sqrt(chi_squared / (table.sum() * (min(table.shape) - 1))).clip(0.0, 1.0))


def _correlations(columns: Sequence[Values]) -> Floats:
    """The absolute correlation of each column's numbers with each other's, a missing one at the mean; 0 with itself."""
    x = torch.from_numpy(np.stack([column.numbers for column in columns], axis=1))
    centred = torch.where(x.isnan(), x.nanmean(0), x)
    centred = (centred - centred.mean(0)).nan_to_num(0.0)
    scaled = centred / centred.norm(dim=0).clamp(min=1e-300)
    matrix: Floats = (scaled.T @ scaled).abs().fill_diagonal_(0.0).numpy()
    return matrix

"""The quantile transform: numbers described by their quantiles become normal scores, and numbers again.

It gives each value the normal score of its rank: B. M. Bolstad et al., "A comparison of normalization methods for high density
oligonucleotide array data", 2003, doi:10.1093/bioinformatics/19.2.185; the normal scores: B. L. van der Waerden, "Order tests for
the two-sample problem", 1952.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

SMALLEST_SCALE = 1e-290  # below it a quotient by the scale would overflow


def _outermost(quantiles: npt.NDArray[np.float64]) -> float:
    """How much probability lies beyond the least and the largest value: half of what lies between two quantiles."""
    return 0.5 / len(quantiles)


def normal_scores(values: npt.NDArray[np.float64], quantiles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The normal score of each value's rank; beyond the quantiles it goes on in standard deviations."""
    last = len(quantiles) - 1
    first, after = np.searchsorted(quantiles, values, "left"), np.searchsorted(quantiles, values, "right")
    left, right = np.clip(first - 1, 0, last), np.clip(first, 0, last)
    low, high = quantiles[left] / 4, quantiles[right] / 4
    share = np.divide(values / 4 - low, high - low, out=np.zeros(len(values)), where=high > low)
    place = np.where(after > first, 0.5 * (first + after - 1), left + np.clip(share, 0, 1) * (right - left))
    outer = _outermost(quantiles)
    scores = torch.special.ndtri(torch.from_numpy(outer + (1 - 2 * outer) * place / last)).numpy()
    spread = _spread(quantiles)
    beyond = np.maximum(values / 4 - quantiles[-1] / 4, 0) + np.minimum(values / 4 - quantiles[0] / 4, 0)
    return np.asarray(scores + beyond / (spread / 4), dtype=np.float64)


def values_of_scores(scores: npt.NDArray[np.float64], quantiles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The inverse of `normal_scores`."""
    last, outer = len(quantiles) - 1, _outermost(quantiles)
    levels = torch.special.ndtr(torch.from_numpy(np.ascontiguousarray(scores, dtype=np.float64))).numpy()
    place = np.clip((levels - outer) / (1 - 2 * outer), 0, 1) * last
    place = np.where(np.abs(place - np.round(place)) < 1e-9, np.round(place), place)  # what is a quantile comes back exactly
    left = np.floor(place).astype(np.int64).clip(0, last - 1)
    share = place - left
    low, high = quantiles[left], quantiles[left + 1]
    within = np.where(low == high, low, low * (1 - share) + high * share)
    edge = -float(torch.special.ndtri(torch.tensor(outer, dtype=torch.float64)))
    beyond = np.maximum(scores - edge, 0) + np.minimum(scores + edge, 0)
    with np.errstate(over="ignore"):
        return np.asarray(within + beyond * _spread(quantiles), dtype=np.float64)


def _spread(quantiles: npt.NDArray[np.float64]) -> float:
    largest = float(np.abs(quantiles).max()) or 1.0
    spread = largest * float((quantiles / largest).std())
    return spread if spread > SMALLEST_SCALE else 1.0

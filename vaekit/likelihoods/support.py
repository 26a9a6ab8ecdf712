"""The values that data may take under a likelihood, and what to say of others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Support:
    """Numbers between two bounds, all of them or the whole ones.

    Args:
        words: what these values are, for messages and figures.
        lowest, highest: the bounds.
        bounds_included: whether a bound is itself one of the values.
        whole: whether only whole numbers are.
        filler: one of the values, which stands in for a missing one.
        remedy: what to do with other data, for messages.

    Example:
        >>> Support("counts", lowest=0.0, whole=True).check("Poisson", torch.tensor([2.0, 0.5]))
        Traceback (most recent call last):
        ValueError: Poisson models counts, but the data holds 0.5. Rescale the data ...
    """

    words: str
    lowest: float = -math.inf
    highest: float = math.inf
    bounds_included: bool = True
    whole: bool = False
    filler: float = 0.0
    remedy: str = "Rescale the data (uint8 images: divide by 255) or choose another likelihood, 'gaussian' for example."

    def check(self, owner: str, x: Tensor) -> None:
        """Raise ValueError, saying what was seen, if a value of x, which holds no NaN, is none of these; synchronises."""
        is_bounded = math.isfinite(self.lowest) or math.isfinite(self.highest)
        if x.numel() == 0 or not (is_bounded or self.whole):
            return
        low, high = (float(bound) for bound in torch.aminmax(x))
        is_outside = low < self.lowest or high > self.highest
        if is_outside or (not self.bounds_included and (low == self.lowest or high == self.highest)):
            raise ValueError(f"{owner} models {self.words}, but the data ranges from {low:.6g} to {high:.6g}. {self.remedy}")
        if self.whole:
            fractions = x[x != x.round()]
            if fractions.numel():
                raise ValueError(f"{owner} models {self.words}, but the data holds {float(fractions[0]):.6g}. {self.remedy}")


REAL = Support("real numbers")
UNIT_INTERVAL = Support("values in [0, 1]", lowest=0.0, highest=1.0)
COUNTS = Support(
    "counts 0, 1, 2, ...",
    lowest=0.0,
    whole=True,
    remedy=(
        "Counts have to be given as they are, in integers of more than 8 bits or in floats: uint8 is read as grey levels and "
        "divided by 255. For other data choose another likelihood, 'gaussian' for example."
    ),
)

"""Numbers of float and double from end to end, and errors in units of their last place."""

import numpy as np
import pytest

PRECISIONS = ["float", "double"]
WIDE = {"float": np.float64, "double": np.longdouble}
NARROW = {"float": np.float32, "double": np.float64}
BITS = {"float": np.uint32, "double": np.uint64}

needs_a_wide_long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 60, reason="long double is no wider than double here"
)


def spread(precision, low, high, count=400_001):
    """Numbers of both signs whose bit patterns are spread evenly between those of low and high, both included."""
    first, last = (NARROW[precision](edge).view(BITS[precision]) for edge in (low, high))
    steps = np.unique(np.linspace(0, float(last - first), count).astype(BITS[precision]))
    return (first + np.minimum(steps, last - first)).view(NARROW[precision])


def ulp_errors(result, exact, precision):
    """|result - exact| in units of the last place of exact, in the result's precision, subnormal numbers included."""
    narrow = NARROW[precision]
    spacing = np.spacing(np.abs(exact).astype(narrow)).astype(WIDE[precision])
    return np.abs(result.astype(WIDE[precision]) - exact) / spacing

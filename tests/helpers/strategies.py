"""Hypothesis strategies: keys, shapes, and parameters of Gaussians with awkward values and strides."""

import torch
from hypothesis import strategies as st

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

keys = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
small_offsets = st.integers(0, 2**64 - 1)
# Rows of 1 to 9 cross every boundary of a noise block; 41 and 1271 are odd and longer.
event_sizes = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 41])
shapes = st.lists(st.sampled_from([1, 2, 3, 5]), min_size=0, max_size=3).flatmap(
    lambda leading: event_sizes.map(lambda d: (*leading, d))
)


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    """float32 values in [low, high], with plenty near 0, where a divergence cancels."""
    near_zero = st.tuples(st.sampled_from([-1.0, 1.0]), st.floats(-8.0, -0.5)).map(lambda p: p[0] * 10.0 ** p[1])
    wide = st.floats(low, high, width=32)
    return st.one_of(wide, near_zero).map(lambda v: float(torch.tensor(v, dtype=torch.float32)))


logvars = floats(-80.0, 80.0)
means = floats(-1e4, 1e4)


@st.composite
def gaussians(draw, dtype=None, min_ndim=1):
    """(mu, logvar) of one shape, dtype and one of several memory layouts."""
    shape = draw(shapes.filter(lambda s: len(s) >= min_ndim))
    dtype = draw(st.sampled_from(DTYPES)) if dtype is None else dtype
    # float16 overflows beyond 65504 in z; the other dtypes have float32's range
    limit = 5.0 if dtype == torch.float16 else 20.0
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([1e-6, 1e-3, 1.0, limit]))
    layout = draw(st.sampled_from(["packed", "halves", "transposed", "strided", "expanded"]))

    def values(*size):
        return (torch.randn(size, generator=generator) * scale).clamp(-4 * limit, 4 * limit).to(dtype)

    if layout == "halves":  # the two halves of one linear layer's output
        mu, logvar = values(*shape[:-1], 2 * shape[-1]).chunk(2, dim=-1)
    elif layout == "transposed" and len(shape) > 1:
        mu, logvar = (values(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2) for _ in range(2))
    elif layout == "strided":
        mu, logvar = (values(*shape[:-1], 3 * shape[-1])[..., ::3] for _ in range(2))
    elif layout == "expanded" and len(shape) > 1:
        mu, logvar = (values(*shape[1:]).expand(shape) for _ in range(2))
    else:
        mu, logvar = values(*shape), values(*shape)
    return mu, logvar

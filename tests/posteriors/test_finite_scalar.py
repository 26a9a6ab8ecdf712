"""Finite scalar quantisation: its levels by the paper's formula in numpy, and by vector-quantize-pytorch's numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from vaekit.posteriors import FiniteScalarFamily

LEVELS = st.lists(st.integers(3, 9), min_size=1, max_size=4).map(tuple)


def encoded(seed, size, scale, positions=(5,)):
    return scale * torch.randn(7, size, *positions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 2**32 - 1), levels=LEVELS, scale=st.sampled_from([0.1, 1.0, 5.0]))
def test_levels_are_the_papers_formula(seed, levels, scale):
    z = encoded(seed, len(levels), scale)
    q = FiniteScalarFamily((len(levels), 5), levels=levels).double()(z)
    number = np.zeros((7, 5), dtype=np.int64)
    place = 1
    for dimension, count in enumerate(levels):
        half = (count - 1) * 1.001 / 2
        offset = 0.5 if count % 2 == 0 else 0.0
        bounded = np.tanh(z[:, dimension].numpy() + np.arctanh(offset / half)) * half - offset
        level = np.rint(bounded)
        assert_close(q.mean[:, dimension], torch.from_numpy(level / (count // 2)), rtol=1e-12, atol=1e-12)
        number += place * (level.astype(np.int64) + count // 2)
        place *= count
    assert np.array_equal(q.indices, number)
    assert 0 <= number.min() <= number.max() < place == q.family.codes


@pytest.mark.parametrize("count", range(3, 10))
def test_every_level_is_reached_and_no_other(count):
    family = FiniteScalarFamily((1,), levels=count).double()
    z = torch.linspace(-30, 30, 100_001, dtype=torch.float64)[:, None]
    assert family(z).indices.unique().tolist() == list(range(count))


def test_the_gradient_is_that_of_the_bound_and_passes_the_rounding():
    family, z = FiniteScalarFamily((3,), levels=(3, 4, 8)).double(), encoded(0, 3, 1.0, ()).requires_grad_()
    weight = torch.randn(7, 3, dtype=torch.float64)
    (got,) = torch.autograd.grad((weight * family(z).mean).sum(), z)
    (expected,) = torch.autograd.grad((weight * family.bounded(z) / torch.tensor([1.0, 2.0, 4.0])).sum(), z)
    assert_close(got, expected)


@given(seed=st.integers(0, 2**32 - 1), levels=LEVELS)
def test_numbers_are_those_of_vector_quantize_pytorch(seed, levels):
    theirs = pytest.importorskip("vector_quantize_pytorch").FSQ(list(levels), force_quantization_f32=False)
    z = encoded(seed, len(levels), 2.0, (3, 4)).float()
    q = FiniteScalarFamily((len(levels), 3, 4), levels=levels)(z)
    quantized, indices = theirs(z)
    assert torch.equal(q.indices, indices.long())
    assert_close(q.mean, quantized)
    assert_close(q.family.embedded(q.indices), theirs.indices_to_codes(indices))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="a number for each of the 3 latents at a position, got 2.*latent_dim=2"):
        FiniteScalarFamily((3, 4, 4), levels=(8, 5))
    with pytest.raises(ValueError, match="every entry of levels .*at least 3, got 2"):
        FiniteScalarFamily((2,), levels=2)
    with pytest.raises(ValueError, match="which int64 cannot number"):
        FiniteScalarFamily((32,), levels=5)

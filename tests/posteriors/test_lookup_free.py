"""Lookup-free quantisation: the codes are signs, and the entropies are those of all codes enumerated."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from vaekit.posteriors import LookupFreeFamily


def encoded(seed, size, positions=(5,)):
    return torch.randn(7, size, *positions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 8))
def test_codes_are_signs_numbered_with_the_first_as_the_lowest_bit(seed, size):
    z = encoded(seed, size)
    q = LookupFreeFamily((size, 5)).double()(z)
    assert torch.equal(q.mean, z.sign())
    assert torch.equal(q.indices, sum(2**bit * (z[:, bit] > 0) for bit in range(size)))
    assert_close(q.commitment(), (z - z.sign()).square().flatten(1).sum(1))


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 6), temperature=st.sampled_from([0.05, 1.0, 7.0]))
def test_entropies_are_those_of_a_softmax_over_all_codes(seed, size, temperature):
    z = encoded(seed, size)
    q = LookupFreeFamily((size, 5), temperature=temperature, diversity=0.7, entropy_weight=0.3).double()(z)
    codes = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=size)), dtype=torch.float64)
    distances = (z.movedim(1, -1).unsqueeze(-2) - codes).square().sum(-1)
    choice = torch.distributions.Categorical(logits=-distances / temperature)
    undecided, spread = q.entropies()
    assert_close(undecided, choice.entropy().sum(1))
    mean = torch.distributions.Categorical(probs=choice.probs.flatten(0, 1).mean(0))
    assert_close(spread, mean.entropy())
    assert_close(q.penalties()["entropy"], 0.3 * (undecided - 0.7 * 5 * spread))


def test_beyond_ten_bits_the_spread_is_the_sum_of_groups_and_no_less_than_the_whole():
    z = encoded(0, 12)
    _, spread = LookupFreeFamily((12, 5)).double()(z).entropies()
    first, second = (LookupFreeFamily((part.shape[1], 5)).double()(part).entropies()[1] for part in z.split(10, dim=1))
    assert_close(spread, first + second)
    choice = torch.stack([torch.sigmoid(-4 * z), torch.sigmoid(4 * z)], -1).movedim(1, 2).flatten(0, 1)
    joint = choice[:, 0]
    for bit in range(1, 12):
        joint = (joint[:, :, None] * choice[:, bit, None]).flatten(1)
    assert spread >= torch.special.entr(joint.mean(0)).sum()


def test_the_entropy_term_makes_each_decided_and_all_spread():
    z = (0.1 * encoded(0, 3) + 0.3).requires_grad_()  # all near one code, and undecided
    family = LookupFreeFamily((3, 5), entropy_weight=1.0).double()
    before = family(z).indices.unique()
    for _ in range(300):
        (gradient,) = torch.autograd.grad(family(z).penalties()["entropy"].mean(), z)
        z = (z - 0.1 * gradient).detach().requires_grad_()
    undecided, spread = family(z).entropies()
    assert len(before) < 8 == len(family(z).indices.unique())
    assert undecided.mean() / 5 < 0.1 < 1.8 < spread


def test_numbers_are_those_of_vector_quantize_pytorch():
    LFQ = pytest.importorskip("vector_quantize_pytorch").LFQ
    size = 5
    theirs = LFQ(dim=size, diversity_gamma=0.7, force_quantization_f32=False).double().train()
    z = encoded(1, size, (3, 4))
    q = LookupFreeFamily((size, 3, 4), temperature=1.0).double()(z)
    answer, breakdown = theirs(z, inv_temperature=1.0, return_loss_breakdown=True)
    assert_close(q.mean, answer.quantized)
    reversed_bits = sum((q.indices >> bit & 1) << (size - 1 - bit) for bit in range(size))
    assert torch.equal(reversed_bits, answer.indices.long())
    undecided, spread = q.entropies()
    # Their logarithm is cut off at 1e-5.
    assert_close(undecided.mean() / 12, breakdown.per_sample_entropy, rtol=1e-3, atol=1e-3)
    assert_close(spread, breakdown.batch_entropy, rtol=1e-3, atol=1e-3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at most 62; got 63"):
        LookupFreeFamily((63,))
    with pytest.raises(ValueError, match="temperature .*above 0, got 0"):
        LookupFreeFamily((3,), temperature=0.0)


def test_gradients_are_finite_where_no_vector_is_near_a_code():
    """The slope of p log p is infinite at 0, which the mean probability of most codes is at a low temperature."""
    numbers = torch.full((3, 8), 2.0, requires_grad=True)
    q = LookupFreeFamily((8,), temperature=0.01)(numbers)
    q.penalties()["entropy"].sum().backward()
    assert numbers.grad.isfinite().all()

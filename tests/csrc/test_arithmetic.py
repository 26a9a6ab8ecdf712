"""The C++ arithmetic against NumPy in a wider precision, over the whole range; every instruction set against the others."""

import numpy as np
import pytest
import torch
from helpers.floats import NARROW, PRECISIONS, WIDE, needs_a_wide_long_double, spread, ulp_errors

from vaekit.ops import philox


@needs_a_wide_long_double
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_exp_is_within_two_ulp_everywhere(internals, precision, fused):
    largest = {"float": 88.722, "double": 709.78}[precision]
    smallest = {"float": 103.97, "double": 745.13}[precision]
    tiny = np.finfo(NARROW[precision]).smallest_subnormal
    x = np.concatenate([spread(precision, tiny, largest), -spread(precision, tiny, smallest)])
    x = np.concatenate([x, np.linspace(-3, 3, 400_001).astype(NARROW[precision])])
    value = getattr(internals, f"exponentials_{precision}")(x, fused)[0]
    errors = ulp_errors(value, np.exp(x.astype(WIDE[precision])), precision)
    assert errors.max() <= 2


@needs_a_wide_long_double
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_short_exp_is_within_two_ulp_and_0_where_no_normal_number_is_left(internals, precision, fused):
    info, function = np.finfo(NARROW[precision]), getattr(internals, f"short_exponentials_{precision}")
    least = {"float": 87.33, "double": 708.39}[precision]
    x = np.concatenate([-spread(precision, info.smallest_subnormal, least), spread(precision, info.smallest_subnormal, 88.0)])
    x = np.concatenate([x, np.linspace(-3, 3, 400_001).astype(NARROW[precision])])
    assert ulp_errors(function(x, fused), np.exp(x.astype(WIDE[precision])), precision).max() <= 2
    low = -spread(precision, least + 0.8, info.max)
    assert (function(low, fused) == 0).all()
    edges = np.array([0.0, -0.0, -np.inf, np.nan], NARROW[precision])
    np.testing.assert_array_equal(function(edges, fused), [1.0, 1.0, 0.0, np.nan])


@needs_a_wide_long_double
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_follows_from_exp_does_not_cancel(internals, precision, fused):
    limit = {"float": 44.3, "double": 354.8}[precision]
    smallest = {"float": 1e-18, "double": 1e-150}[precision]
    half = np.concatenate([spread(precision, smallest, limit), -spread(precision, smallest, limit)])
    half = np.concatenate([half, np.linspace(-3, 3, 400_001).astype(NARROW[precision])])
    half = half[half != 0]
    _, minus_one, excess = getattr(internals, f"exponentials_{precision}")(half, fused)
    x = 2 * half.astype(WIDE[precision])
    exact = np.expm1(x) - x
    near = np.abs(x) < 0.03  # where this too cancels: the series
    term, series = x * x / 2, np.zeros_like(x)
    for k in range(3, 22):
        series, term = series + term, term * x / k
    exact = np.where(near, series, exact)
    allowed = {"float": 1e-6, "double": 2e-15}[precision]
    for got, want in ((minus_one, np.expm1(x)), (excess, exact)):
        relative = np.abs(got.astype(WIDE[precision]) - want) / np.abs(want)
        assert relative.max() <= allowed


@needs_a_wide_long_double
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_log_is_within_two_ulp_for_every_normal_number(internals, precision, fused):
    info = np.finfo(NARROW[precision])
    x = np.concatenate([spread(precision, info.tiny, info.max), spread(precision, 0.5, 2.0)])
    x = np.concatenate([x, np.linspace(0.9, 1.1, 400_001).astype(NARROW[precision])])
    errors = ulp_errors(
        getattr(internals, f"minus_two_log_{precision}")(x, fused), -2 * np.log(x.astype(WIDE[precision])), precision
    )
    assert errors.max() <= 2


@needs_a_wide_long_double
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_cos_and_sin_keep_their_relative_accuracy_next_to_their_zeros(internals, precision, fused):
    smallest = {"float": 2.0**-33, "double": 2.0**-54}[precision]
    u = spread(precision, smallest, 1.0)
    near = np.concatenate(
        [q + np.concatenate([-spread(precision, 2.0**-20, 0.01), spread(precision, 2.0**-20, 0.01)]) for q in (0.25, 0.5, 0.75)]
    )
    u = np.concatenate([u, near.astype(NARROW[precision])])
    cosine, sine = getattr(internals, f"cos_sin_turns_{precision}")(u, fused)
    # reduced exactly to an eighth of a turn before pi, which is not exact, comes in
    wide = u.astype(WIDE[precision])
    quarter = np.rint(4 * wide)
    angle = 2 * np.longdouble("3.14159265358979323846264338327950288").astype(WIDE[precision]) * (wide - quarter / 4)
    c, s = np.cos(angle), np.sin(angle)
    turned = [(c, s), (-s, c), (-c, -s), (s, -c)]
    exact_cos, exact_sin = (np.choose(quarter.astype(int) % 4, [pair[i] for pair in turned]) for i in (0, 1))
    for got, want in ((cosine, exact_cos), (sine, exact_sin)):
        errors = ulp_errors(got, want, precision)
        assert errors.max() <= 2


def exact_normals(u0, u1):
    u0, u1 = u0.astype(np.longdouble), u1.astype(np.longdouble)
    radius, angle = np.sqrt(-2 * np.log(u0)), 2 * np.longdouble("3.14159265358979323846264338327950288") * u1
    return radius * np.cos(angle), radius * np.sin(angle)


@needs_a_wide_long_double
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_normals_are_the_formula_and_reach_the_tails(internals, precision, fused):
    random = np.random.default_rng(0)
    smallest = {"float": 2.0**-33, "double": 2.0**-54}[precision]
    count = 200_000
    u0 = np.concatenate([spread(precision, smallest, 1.0, count), random.random(count)]).astype(NARROW[precision])
    u0 = u0[u0 > 0]
    u1 = random.integers(1, 2**24 + 1, len(u0)).astype(np.float64) / 2**24
    u1[: len(u1) // 2 : 3] = random.choice([0.25, 0.5, 0.75, 1.0], len(u1[: len(u1) // 2 : 3]))
    u1 = u1.astype(NARROW[precision])
    allowed = {"float": 4e-7, "double": 1e-15}[precision]
    for got, want in zip(getattr(internals, f"box_muller_{precision}")(u0, u1, fused), exact_normals(u0, u1), strict=True):
        error = np.abs(got - want) / np.maximum(1, np.abs(want))
        assert error.max() <= allowed
    ends = np.array([smallest], NARROW[precision]), np.array([1.0], NARROW[precision])
    largest = getattr(internals, f"box_muller_{precision}")(*ends, fused)
    assert float(largest[0][0]) == pytest.approx({"float": 6.7637, "double": 8.6523}[precision], abs=1e-3)


def names(internals):
    return ["scalar", *internals.instruction_sets()]


def test_words_are_those_of_random123_and_of_the_reference(internals):
    # Random123 1.14, tests/kat_vectors, philox4x32 10: key 0, counter 0
    expected = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    for name in names(internals):
        assert internals.words(name, 0, 0, internals.BLOCK_STEP)[:, 0].tolist() == expected, name
    keys = [(2**64 - 1, 2**64 - 5), (0, 2**32 - 3), (0x0123456789ABCDEF, 0xFEDCBA9876543210), (2**63, 2**63 - 8)]
    for seed, first in keys:
        signed = [v - 2**64 if v >= 2**63 else v for v in (seed, first)]
        counters = torch.tensor(signed[1]) + torch.arange(internals.BLOCKS)
        reference = torch.stack(philox.words(torch.tensor(signed[0]), counters)).numpy()
        for name in names(internals):
            np.testing.assert_array_equal(internals.words(name, seed, first, internals.BLOCKS), reference, err_msg=name)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_uniforms_and_normals_come_from_the_words_as_the_reference_says(internals, precision):
    dtype = {"float": torch.float32, "double": torch.float64}[precision]
    count = internals.BLOCKS * {"float": 4, "double": 2}[precision]
    key = torch.tensor([1234567, 2**40 - 7])
    x0, x1, x2, x3 = internals.words("scalar", 1234567, 2**40 - 7, internals.BLOCKS)
    if precision == "float":
        uniforms = internals.uniforms(np.stack([x0, x1, x2, x3], -1).reshape(-1))
    else:
        uniforms = np.stack([internals.wide_uniforms(x0, x1), internals.wide_uniforms(x2, x3)], -1).reshape(-1)
    np.testing.assert_array_equal(uniforms, philox.uniform(key, (count,), dtype).numpy())
    expected = philox.normal(key, (count,), dtype).numpy()
    for name in internals.instruction_sets():
        got = getattr(internals, f"normals_{precision}")(name, 1234567, 2**40 - 7, internals.BLOCKS)
        np.testing.assert_allclose(
            got, expected, atol={"float": 4e-7, "double": 2e-15}[precision], rtol={"float": 4e-7, "double": 2e-15}[precision]
        )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_instruction_sets_with_fused_multiply_adds_give_the_same_bits_and_others_almost(internals, precision):
    random = np.random.default_rng(1)
    sets = internals.instruction_sets()
    if len(sets) < 2:
        pytest.skip(f"this machine runs only {sets}")
    first, *others = sets
    near = {"float": 1e-6, "double": 4e-15}[precision]

    def compare(name, got, want, what):
        if "-v" in name:
            np.testing.assert_array_equal(got, want, err_msg=what)
        else:
            np.testing.assert_allclose(
                got, want, rtol=near, atol=near * np.abs(want[np.isfinite(want)]).max(initial=0), err_msg=what
            )

    normals, every_loop = getattr(internals, f"normals_{precision}"), getattr(internals, f"every_loop_{precision}")
    for seed in range(40):
        want = normals(first, seed, 2**64 - 100 + seed, internals.BLOCKS)
        for name in others:
            compare(name, normals(name, seed, 2**64 - 100 + seed, internals.BLOCKS), want, name)
    for length in [*range(1, 70), 127, 256, 511, 512]:
        scale = 10.0 ** random.uniform(-6, 1)
        arrays = [(random.standard_normal(length) * scale).astype(NARROW[precision]) for _ in range(5)]
        if length % 3 == 0:
            arrays[1][::7] = random.choice([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e30, -1e30], len(arrays[1][::7]))
        with np.errstate(all="ignore"):
            results = {name: every_loop(name, *arrays) for name in sets}
        for key, want in results[first].items():
            for name in others:
                compare(name, np.asarray(results[name][key]), np.asarray(want), f"{key} {name} {length}")


def test_sum_is_the_exact_sum_to_a_few_ulp_whatever_the_length(internals):
    random = np.random.default_rng(2)
    for length in range(1, 513):
        values = (random.random(length) + 0.01).astype(np.float32)
        zeros = np.zeros(length, np.float32)
        for name in internals.instruction_sets():
            total = internals.every_loop_float(name, values, zeros, zeros, zeros, zeros)["sum"]
            assert total == pytest.approx(values.astype(np.float64).sum(), rel=21 * 6e-8)


def test_half_conversions_are_those_of_numpy_and_torch(internals):
    every = np.arange(2**16, dtype=np.uint16)
    random = np.random.default_rng(3)
    edges = np.float32([65519.99, 65520, 65504, 5.9604645e-08, 2.9802322e-08, 2.9802326e-08])
    patterns = np.arange(0, 2**32, 9973, dtype=np.uint64).astype(np.uint32).view(np.float32)
    small = (random.standard_normal(100_000) * 1e-5).astype(np.float32)
    values = np.concatenate([every.view(np.float16).astype(np.float32), patterns, small, edges])
    nan = np.isnan(values)
    with np.errstate(all="ignore"):
        expected_half = values.astype(np.float16)
    expected_bfloat16 = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    for name in internals.instruction_sets():
        widened = internals.widen_half(name, every)
        np.testing.assert_array_equal(widened, every.view(np.float16).astype(np.float32))
        np.testing.assert_array_equal(
            internals.widen_bfloat16(name, every), torch.from_numpy(every.view(np.int16)).view(torch.bfloat16).float().numpy()
        )
        half = internals.narrow_half(name, values)
        np.testing.assert_array_equal(half[~nan], expected_half.view(np.uint16)[~nan])
        assert np.isnan(half.view(np.float16)[nan]).all()
        bfloat16 = internals.narrow_bfloat16(name, values)
        np.testing.assert_array_equal(bfloat16[~nan], expected_bfloat16[~nan])
        assert np.isnan(internals.widen_bfloat16(name, bfloat16)[nan]).all()

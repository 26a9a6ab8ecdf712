"""The noise: against Random123, against PyTorch's own stateless stream, against plain Python and against its distribution."""

import importlib
import math

import numpy as np
import pytest
import scipy.stats
import torch
from helpers.strategies import keys
from hypothesis import given
from hypothesis import strategies as st

from vaekit.ops import fold_in, make_key, philox

MASK = 0xFFFFFFFF


def plain_words(seed: int, counter: int) -> tuple[int, int, int, int]:
    """Philox4x32-10 in Python's unbounded integers, after the paper's pseudocode and not after the library."""
    key = [seed & MASK, seed >> 32]
    x = [counter & MASK, counter >> 32, 0, 0]
    for _ in range(10):
        a, b = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [(b >> 32) ^ x[1] ^ key[0], b & MASK, (a >> 32) ^ x[3] ^ key[1], a & MASK]
        key = [(key[0] + 0x9E3779B9) & MASK, (key[1] + 0xBB67AE85) & MASK]
    return tuple(x)


def unsigned(value: torch.Tensor) -> int:
    return int(value) % 2**64


def test_words_are_random123s_own_test_vector():
    words = philox.words(torch.tensor(0), torch.tensor(0))
    assert [int(x) for x in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@given(keys)
def test_words_equal_plain_integers(key):
    seed, counter = key
    tensor = make_key(seed, counter)
    assert tuple(map(int, philox.words(tensor[0], tensor[1]))) == plain_words(seed, counter)


# torch 2.14.1, torch.func._random.normal on the CPU, elements 0 to 7 (0 to 3 in float64) for key (seed, offset).
TORCH_NORMALS = {
    (0, 0): (
        [0.9911377429962158, -0.9246624112129211, -0.6176088452339172, -0.4820687472820282,
         -0.15363818407058716, 0.18082579970359802, 0.8317350745201111, 0.19743970036506653],
        [-0.12151797595308224, -1.350032659857755, -0.08187420991589159, -0.22270905893902698],
    ),
    (42, 0): (
        [-0.9701898097991943, 0.1940188705921173, -1.2356212139129639, 1.923926591873169,
         -0.07318153232336044, 0.13913755118846893, -1.1066651344299316, 0.3266829252243042],
        [0.886497505901441, 0.4393560694379269, -0.15660962291201724, -0.013718678830210487],
    ),
}  # fmt: skip


@pytest.mark.parametrize("key", TORCH_NORMALS)
def test_normals_are_those_of_torch(key):
    single, double = TORCH_NORMALS[key]
    torch.testing.assert_close(philox.normal(make_key(*key), (8,), torch.float32), torch.tensor(single), atol=3e-6, rtol=0)
    expected = torch.tensor(double, dtype=torch.float64)
    torch.testing.assert_close(philox.normal(make_key(*key), (4,), torch.float64), expected, atol=1e-13, rtol=0)


# torch 2.14.1, torch.func._random.fold_in: (seed, offset, data) -> key.
@pytest.mark.parametrize(
    ("seed", "offset", "data", "expected"),
    [
        (42, 0, 0, (8643895580192075859, 6287785766076502189)),
        (42, 0, 1, (6033254488940945703, 8380643633896839790)),
        (42, 5, 3, (2478540876285629084, 9206423820622853593)),
        (9223372036854775809, 18446744073709551615, 12, (5899427196463425019, 10406054470241152390)),
    ],
)
def test_fold_in_is_torchs(seed, offset, data, expected):
    assert tuple(map(unsigned, fold_in(make_key(seed, offset), data))) == expected


def test_this_torchs_own_stream_where_it_has_one():
    try:
        stateless = importlib.import_module("torch.func._random")
        own = stateless.normal(torch.tensor([42, 7], dtype=torch.uint64), (1001,))
    except (ImportError, AttributeError, NotImplementedError, RuntimeError) as error:
        pytest.skip(f"torch {torch.__version__} has no stateless noise on the CPU: {str(error)[:80]}")
    torch.testing.assert_close(philox.normal(make_key(42, 7), (1001,), torch.float32), own, atol=3e-6, rtol=0)


@given(keys, st.integers(1, 40), st.sampled_from([torch.float32, torch.float64]))
def test_uniforms_are_the_words_in_stream_order(key, count, dtype):
    seed, offset = key
    per_block = 4 if dtype == torch.float32 else 2
    expected = []
    for block in range(-(-count // per_block)):
        x = plain_words(seed, (offset + block) % 2**64)
        if dtype == torch.float32:
            expected += [float(np.float32(v) * np.float32(2**-32) + np.float32(2**-33)) for v in x]
        else:
            expected += [((x[i] << 32 | x[i + 1]) >> 11) * 2.0**-53 + 2.0**-54 for i in (0, 2)]
    assert philox.uniform(make_key(*key), (count,), dtype).tolist() == expected[:count]


@given(keys, st.integers(1, 200))
def test_normals_are_the_float64_formula_on_the_same_uniforms(key, count):
    count = 2 * count
    u = philox.uniform(make_key(*key), (count,), torch.float32).double().numpy().reshape(-1, 2)
    radius, angle = np.sqrt(-2 * np.log(u[:, 0])), 2 * np.pi * u[:, 1]
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
    error = np.abs(philox.normal(make_key(*key), (count,), torch.float32).numpy() - expected)
    assert (error <= 4e-7 * np.maximum(1, np.abs(expected))).all()


def test_the_smallest_uniform_reaches_out_to_six_and_a_half_sigma():
    assert math.sqrt(-2 * math.log(2**-33)) > 6.6


@given(keys, st.integers(0, 30), st.integers(0, 30), st.sampled_from([torch.float32, torch.float64]))
def test_a_later_start_is_a_window_into_the_same_stream(key, start, count, dtype):
    whole = philox.normal(make_key(*key), (start + count,), dtype)
    assert torch.equal(philox.normal(make_key(*key), (count,), dtype, start=start), whole[start:])


@given(st.lists(keys, min_size=1, max_size=4), st.integers(0, 9))
def test_many_keys_at_once_are_the_keys_one_by_one(many, count):
    batched = torch.stack([make_key(*key) for key in many])
    each = torch.stack([philox.normal(key, (count, 3), torch.float32) for key in batched])
    assert torch.equal(philox.normal(batched, (count, 3), torch.float32), each)


def test_the_counter_wraps_modulo_two_to_the_64():
    late = philox.normal(make_key(5, 2**64 - 1), (8,), torch.float32)
    assert torch.equal(late[4:], philox.normal(make_key(5, 0), (4,), torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_million_normals_are_normal(dtype):
    noise = philox.normal(make_key(2024), (1_000_000,), dtype).double().numpy()
    n = len(noise)
    # standard errors of the first four moments of a normal
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((noise**power).mean() - mean) < 5 * math.sqrt(variance / n)
    assert scipy.stats.kstest(noise, "norm").pvalue > 1e-4
    for lag in (1, 2, 3, 4, 8):
        assert abs(np.mean(noise[:-lag] * noise[lag:])) < 5 / math.sqrt(n)


def test_neighbouring_seeds_and_offsets_are_uncorrelated():
    n = 200_000
    streams = [philox.normal(make_key(seed, offset), (n,), torch.float32) for seed, offset in ((1, 0), (2, 0), (1, 10**6))]
    for a in range(3):
        for b in range(a):
            assert abs(float((streams[a] * streams[b]).mean())) < 5 / math.sqrt(n)


@given(st.integers(-(2**63), 2**64 - 1))
def test_a_key_holds_any_64_bits(seed):
    assert unsigned(make_key(seed)[0]) == seed % 2**64


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_beyond_64_bits_is_refused(seed):
    with pytest.raises(ValueError, match="seed has to fit in 64 bits"):
        make_key(seed)


def test_noise_in_half_precision_is_refused():
    with pytest.raises(ValueError, match="float32 or float64"):
        philox.normal(make_key(0), (4,), torch.float16)


def test_neighbouring_offsets_are_one_stream_and_folded_keys_are_not():
    """As the page of make_key says."""
    here, shifted = (philox.normal(make_key(7, offset), (400,), torch.float32) for offset in (0, 1))
    assert torch.equal(here[4:], shifted[:-4])
    folded = philox.normal(fold_in(make_key(7), 1), (400,), torch.float32)
    assert not torch.isin(folded, here).any()
    assert "fold_in" in make_key.__doc__


@pytest.mark.parametrize("option", ["seed", "offset"])
def test_a_keys_numbers_are_whole(option):
    assert torch.equal(make_key(**{"seed": 3, option: np.uint64(2**64 - 1)}), make_key(**{"seed": 3, option: 2**64 - 1}))
    for value in (2.5, 2.0, True, "2", np.float64(2.0)):
        with pytest.raises(TypeError, match=f"{option} has to be a whole number"):
            make_key(**{"seed": 3, option: value})

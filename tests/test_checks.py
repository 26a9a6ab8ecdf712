"""Checks of options: what counts as a number, and what the message says of what does not."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vaekit
from vaekit.checks import checked_flag, checked_number, checked_size, checked_sizes, checked_word
from vaekit.ops.operands import checked_count


@given(st.integers(-5, 5), st.integers(-3, 3))
def test_a_size_is_a_whole_number_from_the_least_on(value, least):
    for form in (value, np.int8(value), np.int64(value), torch.tensor(value)):
        if value >= least:
            assert checked_size("size", form, least) == value
            assert type(checked_size("size", form, least)) is int
        else:
            with pytest.raises(ValueError, match=f"size .*{least}.*{value}"):
                checked_size("size", form, least)


@pytest.mark.parametrize("value", [True, 2.0, np.float64(2.0), "2", None, [2], math.nan, np.bool_(True)])
def test_what_is_no_whole_number_is_no_size(value):
    with pytest.raises(ValueError, match="size"):
        checked_size("size", value)
    with pytest.raises(ValueError, match="every entry of sizes|sizes"):
        checked_sizes("sizes", [value])


@pytest.mark.parametrize("value", [0, 2.5, True, "2"])
def test_a_count_of_the_operator_is_refused_in_the_same_words(value):
    with pytest.raises(ValueError) as of_a_size:
        checked_size("num_samples", value)
    with pytest.raises((TypeError, ValueError)) as of_a_count:
        checked_count("num_samples", value, 1)
    assert str(of_a_count.value) == str(of_a_size.value)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3))
def test_a_number_lies_within_its_limits(value, one, other):
    low, high = sorted((one, other))
    inside = {"least, most": low <= value <= high, "above, below": low < value < high}
    for names, fits in inside.items():
        limits = dict(zip(names.split(", "), (low, high), strict=True))
        if fits:
            assert checked_number("weight", value, **limits) == value
        else:
            with pytest.raises(ValueError, match="weight"):
                checked_number("weight", value, **limits)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_is_finite(value):
    with pytest.raises(ValueError, match=f"weight .*finite.*{value}"):
        checked_number("weight", value)


@pytest.mark.parametrize("value", [True, "1", None, [1.0], 1j, np.bool_(False)])
def test_what_is_no_number_is_another_type(value):
    with pytest.raises(TypeError, match="weight"):
        checked_number("weight", value)


@pytest.mark.parametrize("value", [3, 0.5, np.float32(0.5), np.int16(3), Fraction(1, 2)])
def test_numbers_of_other_libraries_are_numbers(value):
    assert checked_number("weight", value) == float(value)
    assert type(checked_number("weight", value)) is float


def test_flags_and_words_are_named_with_what_they_take():
    assert checked_flag("draw", True) is True
    with pytest.raises(TypeError, match="draw .*1"):
        checked_flag("draw", 1)
    assert checked_word("kind", "i", ("i", "ii")) == "i"
    with pytest.raises(ValueError, match="kind .*'i', 'ii'.*'iii'"):
        checked_word("kind", "iii", ("i", "ii"))


def test_a_model_made_with_numpys_numbers_is_saved_like_one_made_with_pythons(tmp_path):
    numbers = {"input_shape": (np.int64(4),), "latent_dim": np.int32(2), "encoder": {"hidden": (np.int64(3),)}}
    python = {"input_shape": (4,), "latent_dim": 2, "encoder": {"hidden": (3,)}}
    configs = []
    for options, beta in ((numbers, np.float32(2.0)), (python, 2.0)):
        vae = vaekit.create_vae(**options, loss={"beta": beta}, seed=0)
        configs.append(json.loads((vae.save(tmp_path / str(len(configs))) / "config.json").read_text()))
    assert configs[0] == configs[1]

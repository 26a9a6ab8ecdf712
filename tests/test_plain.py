"""Plain data taken apart and put together again, through JSON and a safetensors file, without pickle."""

import enum
import io
import json
import math
import random
import struct
from collections import OrderedDict, defaultdict, deque, namedtuple

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vaekit import weights
from vaekit.plain import pack, unpack


def through_a_file(value):
    """The value as it comes back from JSON, which has to be strict, and from a safetensors file."""
    packed = pack(value)
    stream = io.BytesIO()
    weights.write(stream, packed.tensors, {"data": json.dumps(packed.data, allow_nan=False)})
    content = stream.getvalue()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return unpack(json.loads(header["__metadata__"]["data"]), safetensors.torch.load(content))


def described(value):
    """The types and bits of a value, comparable with ==."""
    if isinstance(value, float) and type(value) is float:
        return float, struct.pack("d", value)
    if isinstance(value, torch.Tensor):
        return torch.Tensor, value.dtype, value.shape, bytes(value.contiguous().reshape(-1).view(torch.uint8).tolist())
    if isinstance(value, (np.ndarray, np.generic)):
        return type(value), value.dtype, value.shape, value.tobytes()
    if isinstance(value, dict):
        return type(value), [(described(key), described(entry)) for key, entry in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [described(entry) for entry in value]
    return type(value), value


NUMBERS = st.integers(-(2**130), 2**130) | st.floats() | st.booleans() | st.none()
SCALARS = NUMBERS | st.text() | st.binary(max_size=8)
KEYS = SCALARS | st.tuples(SCALARS, SCALARS)
ARRAYS = st.sampled_from(["f2", "f4", "f8", "i1", "i8", "u2", "u8", "?"]).flatmap(
    lambda dtype: st.binary(min_size=8, max_size=8).map(
        lambda raw: np.frombuffer(bytes(b & 1 for b in raw) if dtype == "?" else raw, dtype).copy()
    )
)
TENSORS = st.sampled_from(sorted(weights.DTYPES)).flatmap(
    lambda dtype: st.binary(min_size=8, max_size=8).map(
        lambda raw: torch.tensor([b & 1 if dtype == "bool" else b for b in raw], dtype=torch.uint8).view(getattr(torch, dtype))
    )
)
VALUES = st.recursive(
    SCALARS | TENSORS | ARRAYS | ARRAYS.map(lambda array: array[0]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_plain_data_come_back_with_the_same_types_and_bits(value):
    assert described(through_a_file(value)) == described(value)


@pytest.mark.parametrize(
    "value",
    [
        *(
            -(2**63),
            2**64 - 1,
            2**64,
            -0.0,
            5e-324,
            math.nan,
            -math.inf,
            "\ud800",
            b"",
            {},
            (),
            [()],
            {True: 1, "1": 2},
        ),
        {"tensor": "state.0"},
        {"int": 3},
        [{"tuple": [1]}, {"dict items": []}],
        [-(10**5000)],
        random.Random(0).getstate(),
        np.random.default_rng(0).bit_generator.state,
        torch.Generator().manual_seed(3).get_state(),
        np.float64(1.5),
        np.array(2),
        torch.tensor(3.0),
        torch.zeros(0, 3),
    ],
)
def test_edges_come_back(value):
    assert described(through_a_file(value)) == described(value)


def test_strided_views_come_back_dense_and_parameters_as_tensors():
    base = torch.arange(12.0).reshape(3, 4)
    views = [base.T, base[::2, 1:], nn.Parameter(base)]
    for view, again in zip(views, through_a_file(views), strict=True):
        assert type(again) is torch.Tensor
        assert torch.equal(view, again)
        assert not again.requires_grad


def test_a_tensor_in_two_places_is_stored_once_and_tensors_that_share_memory_each_by_itself():
    one = torch.arange(3.0)
    packed = pack({"a": one, "b": [one, one[:2], one.view(3)]})
    assert len(packed.tensors) == 3
    again = unpack(*packed)
    assert again["a"] is again["b"][0]
    assert [tensor.tolist() for tensor in again["b"]] == [[0.0, 1.0, 2.0], [0.0, 1.0], [0.0, 1.0, 2.0]]


def test_tensors_are_not_copied():
    one = torch.arange(3.0)
    (stored,) = pack([one]).tensors.values()
    assert stored.data_ptr() == one.data_ptr()


def test_the_state_of_a_module_can_be_loaded_after_it():
    module, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    module(torch.rand(5, 3))
    other.load_state_dict(through_a_file(module.state_dict()))
    for name, value in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


class Colour(enum.IntEnum):
    RED = 1


class Stranger(torch.Tensor):
    pass


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (object(), "a object"),
        ({1, 2}, "a set"),
        (Pair(1, 2), "a Pair"),
        (deque([1]), "a deque"),
        (defaultdict(int), "a defaultdict"),
        (Colour.RED, "a Colour"),
        (1j, "a complex"),
        (np.array([1j]), "complex128"),
        (np.array([object()]), "object"),
        (np.array(["a"]), "<U1"),
        (np.array([1], ">i4"), ">i4"),
        (torch.float32, "a dtype"),
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.empty(2, device="meta"), "meta"),
        (torch.zeros(2, dtype=torch.complex64), "complex64"),
        (torch.zeros(2).as_subclass(Stranger), "a Stranger"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_what_is_not_plain_is_refused_with_its_place(value, what):
    with pytest.raises(TypeError, match=rf"callback\['best'\]\[1\] is .*{what}"):
        pack({"best": [0, value]}, "callback")


@pytest.mark.parametrize(
    "key", [object(), torch.zeros(1), Colour.RED, (1, torch.zeros(1)), frozenset()], ids=lambda key: type(key).__name__
)
def test_keys_that_are_not_plain_are_refused(key):
    with pytest.raises(TypeError, match="key"):
        pack({key: 1})


def test_what_holds_itself_is_refused():
    value = [1]
    value.append({"again": value})
    with pytest.raises(ValueError, match="holds itself"):
        pack(value)


@pytest.mark.parametrize(
    "data",
    [
        *(
            {},
            {"a": 1, "b": 2},
            {"pickle": "gASVAA=="},
            {"tensor": "state.1"},
            {"tensor": ["state.0"]},
            {"float": "00"},
            {"int": "x"},
        ),
        *({"int": 3}, {"bytes": "*"}, {"bytes": 3}, {"dict": []}, {"tuple": 3}, {"dict items": [[1]]}, {"dict items": [[[], 1]]}),
        json.loads("[" * 300 + "]" * 300),
    ],
    ids=lambda data: json.dumps(data)[:30],
)
def test_what_pack_did_not_make_is_refused(data):
    with pytest.raises(ValueError):
        unpack(data, {"state.0": torch.zeros(1)})

"""What is masked is missing; and arrays and tensors that are not what they seem are refused, with what to do."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from torch.masked import masked_tensor

import vaekit
from vaekit.data import Examples, MappedArray, Stream, as_batches, as_examples, load_test

NUMBERS = ["u1", "i1", "u2", "i8", "u8", "?", "f2", "f4", "f8", "g", ">i2", ">f8"]


@st.composite
def masked_arrays(draw):
    """Masked arrays [N, K] of any dtype of real numbers, often with nonsense under the mask."""
    dtype = np.dtype(draw(st.sampled_from(NUMBERS)))
    values = draw(st_numpy.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.integers(0, 100)))
    mask = draw(st_numpy.arrays(bool, values.shape))
    array = values.astype(dtype)
    if dtype.kind == "f":
        array[mask] = draw(st.sampled_from([0.0, math.inf, math.nan, -1.0]))
    return np.ma.MaskedArray(array, mask)


def expected_of(masked):
    """float32, grey levels for bytes, and NaN where the mask is set."""
    values = [
        [math.nan if m else float(v) for v, m in zip(*row, strict=True)] for row in zip(masked.data, masked.mask, strict=True)
    ]
    is_grey = masked.dtype == np.uint8 and (masked.compressed() > 1).any()
    return np.array(values, np.float32) / np.float32(255 if is_grey else 1)


# Masked examples


@given(masked_arrays())
def test_what_is_masked_is_missing(masked):
    x = as_examples(masked).x
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.numpy(), expected_of(masked), rtol=2e-7)


def test_a_masked_array_without_a_mask_has_nothing_missing():
    assert as_examples(np.ma.MaskedArray(np.ones((2, 3)))).x.tolist() == [[1.0] * 3] * 2


def test_a_masked_value_of_1e300_does_not_overflow():
    with np.errstate(over="raise"):
        assert as_examples(np.ma.masked_greater(np.array([[1.0, 1e300]]), 1e20)).x[0, 1].isnan()


@given(masked_arrays())
def test_what_is_masked_in_a_pair_is_missing(masked):
    x = as_examples((masked, np.zeros(len(masked), int))).x
    np.testing.assert_allclose(x.numpy(), expected_of(masked), rtol=2e-7)


@pytest.mark.parametrize("dtype", ["f4", "u1"])
def test_a_masked_memory_map_stays_on_the_disk_and_what_is_masked_is_missing(tmp_path, dtype):
    np.save(tmp_path / "x.npy", np.arange(12).reshape(4, 3).astype(dtype))
    mask = np.zeros((4, 3), bool)
    mask[1, 2] = mask[3, 0] = True
    masked = np.ma.MaskedArray(np.load(tmp_path / "x.npy", mmap_mode="r"), mask)
    x = as_examples(masked).x
    assert isinstance(x, MappedArray)
    np.testing.assert_allclose(x[:].numpy(), expected_of(masked), rtol=2e-7)
    np.testing.assert_allclose(x[torch.tensor([3, 1])].numpy(), expected_of(masked)[[3, 1]], rtol=2e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int8, torch.int64])
def test_what_a_masked_tensor_leaves_out_is_missing(dtype):
    data, mask = torch.tensor([[0, 51], [102, 127]], dtype=dtype), torch.tensor([[True, False], [True, True]])
    x = as_examples(masked_tensor(data, mask)).x
    assert type(x) is torch.Tensor
    np.testing.assert_array_equal(x.numpy(), [[0, math.nan], [102, 127]])


def test_a_masked_tensor_in_a_loaders_batch_has_missing_elements():
    batch = masked_tensor(torch.tensor([[1.0, 2.0]]), torch.tensor([[True, False]]))
    (x,) = [b.x for b in as_batches([batch], 1)]
    assert (x[0, 0], x[0, 1].isnan(), type(x)) == (1.0, True, torch.Tensor)


def test_what_is_masked_in_an_array_of_a_loader_is_missing():
    (batch,) = as_batches([np.ma.MaskedArray([[1.0, 999.0]], [[False, True]])], 1)
    assert (batch.x[0, 0], batch.x[0, 1].isnan(), batch.x.dtype) == (1.0, True, torch.float32)
    y = np.ma.MaskedArray([1, 2], [False, True])
    assert next(iter(as_batches([(np.zeros((2, 1)), y)], 1, conditional=True))).condition.tolist() == [1, -1]


def test_a_model_trains_on_what_is_observed_of_a_masked_array():
    vae = vaekit.create_vae(input_shape=(2,), latent_dim=1, likelihood={"name": "gaussian", "missing": "ignore"}, seed=0)
    plain = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    mask = np.zeros((20, 2), bool)
    mask[::3, 1] = True
    with_nan = np.where(mask, np.float32(math.nan), plain)
    masked = np.ma.MaskedArray(np.where(mask, np.float32(999), plain), mask)
    assert vaekit.evaluate(vae, masked) == vaekit.evaluate(vae, with_nan)


# Masked labels


@pytest.mark.parametrize(
    "y",
    [
        np.ma.MaskedArray([1, 2, 3], [False, True, False]),
        np.ma.MaskedArray([1, 2, 3], [False, True, False], dtype=np.uint8),
        np.ma.MaskedArray([1.0, 2.0, 3.0], [False, True, False]),
        [1, None, 3],
        [1.0, math.nan, 3.0],
        np.array([1, math.nan, 3], np.float16),
        torch.tensor([1.0, math.nan, 3.0]),
        torch.tensor([1, -1, 3]),
        masked_tensor(torch.tensor([1, 2, 3]), torch.tensor([True, False, True])),
        masked_tensor(torch.tensor([1.0, 2.5, 3.0]), torch.tensor([True, False, True])),
    ],
    ids=["array", "bytes", "floats", "None", "NaN", "half", "tensor", "-1", "masked tensor", "masked floats"],
)
def test_labels_that_are_missing_are_minus_one(y):
    assert as_examples((np.zeros((3, 2)), y)).y.tolist() == [1, -1, 3]


@pytest.mark.parametrize("y", [[0.5, math.nan, 3.0], np.ma.MaskedArray([0.5, 2.0, 3.0], [False, True, False])])
def test_real_numbers_of_which_one_is_missing_are_refused(y):
    with pytest.raises(ValueError, match="whole numbers"):
        as_examples((np.zeros((3, 2)), y))


@pytest.mark.parametrize("y", [[math.nan] * 3, [None] * 3, np.full(3, np.nan, np.float32)], ids=str)
def test_labels_that_are_all_missing_are_refused(y):
    with pytest.raises(ValueError, match="missing in all 3 examples"):
        as_examples((np.zeros((3, 2)), y))


@pytest.mark.parametrize(
    "y",
    [
        np.ma.MaskedArray(np.ones((3, 2)), [[False] * 2, [False, True], [False] * 2]),
        [np.ma.MaskedArray([1, 2], [False, row == 1]) for row in range(3)],
        masked_tensor(torch.ones(3, 2), torch.tensor([[True] * 2, [True, False], [True] * 2])),
    ],
    ids=["array", "list", "tensor"],
)
def test_missing_numbers_of_vectors_are_refused_with_the_example_that_has_none(y):
    with pytest.raises(ValueError, match=r"label.*missing.*example 1\b"):
        as_examples((np.zeros((3, 2)), y))


def test_masked_labels_of_which_none_is_missing_are_labels():
    y = np.ma.MaskedArray([1, 2, 3], False)
    assert as_examples((np.zeros((3, 2)), y)).y.tolist() == [1, 2, 3]
    y = masked_tensor(torch.tensor([1, 2, 3]), torch.ones(3, dtype=torch.bool))
    assert as_examples((np.zeros((3, 2)), y)).y.tolist() == [1, 2, 3]


def test_conditions_that_are_missing_in_a_loaders_batch():
    y = masked_tensor(torch.tensor([1, 2]), torch.tensor([True, False]))
    (batch,) = Stream([(torch.zeros(2, 3), y)], conditional=True)
    assert batch.condition.tolist() == [1, -1]
    y = masked_tensor(torch.ones(2, 3), torch.tensor([[True] * 3, [False] * 3]))
    with pytest.raises(ValueError, match=r"missing.*example 1\b"):
        list(Stream([(torch.zeros(2, 3), y)], conditional=True))


def test_a_missing_value_of_pandas_among_labels_is_minus_one():
    pandas = pytest.importorskip("pandas")
    y = pandas.array([1, None, 3], dtype="Int64")
    assert as_examples((np.zeros((3, 2)), y)).y.tolist() == [1, -1, 3]
    assert as_examples((np.zeros((3, 2)), pandas.Series([4, 5, 6]))).y.tolist() == [4, 5, 6]


# Labels that int64 does not hold


TOO_LARGE = {
    "uint64": np.array([1, 2**64 - 1], np.uint64),
    "2^63": np.array([1, 2**63], np.uint64),
    "list": [1, 2**63],
    "integers of Python": [1, 2**64],
    "inf": [1.0, math.inf],
    "-inf": np.array([1.0, -math.inf], np.float32),
    "1e300": [1.0, 1e300],
    "2^63 as a float": [1.0, 2.0**63],
    "longdouble": np.array([1, 1e19], np.longdouble),
    "half": np.array([1, math.inf], np.float16),
    "tensor of uint64": torch.tensor([1, 2**64 - 1], dtype=torch.uint64),
    "tensor inf": torch.tensor([1.0, math.inf]),
    "tensor 1e30": torch.tensor([1.0, 1e30]),
    "bfloat16": torch.tensor([1.0, 1e30], dtype=torch.bfloat16),
}


@pytest.mark.parametrize("y", TOO_LARGE.values(), ids=TOO_LARGE)
def test_labels_that_int64_does_not_hold_are_refused_by_their_example(y):
    with pytest.raises(ValueError, match=r"label.*example 1\b|label.*object"):
        as_examples((np.zeros((2, 2)), y))


@pytest.mark.parametrize("label", [2**63 - 1, -(2**63), 2**53 + 1])
def test_every_label_that_int64_holds_is_kept_exactly(label):
    for y in (np.array([label, 0], np.int64), torch.tensor([label, 0])):
        assert as_examples((np.zeros((2, 2)), y)).y.tolist() == [label, 0]
    if label > 0:
        assert as_examples((np.zeros((2, 2)), np.array([label], np.uint64).repeat(2))).y.tolist() == [label] * 2


def test_labels_of_half_precision_are_labels():
    for dtype in (torch.bfloat16, torch.float16):
        assert as_examples((np.zeros((2, 2)), torch.tensor([3.0, 0.0], dtype=dtype))).y.tolist() == [3, 0]


# Tensors of another kind


SPARSE = {
    "coo": lambda x: x.to_sparse(),
    "csr": lambda x: x.to_sparse_csr(),
    "csc": lambda x: x.to_sparse_csc(),
    "bsr": lambda x: x.to_sparse_bsr((1, 1)),
}


@pytest.mark.parametrize("sparse", SPARSE.values(), ids=SPARSE)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_sparse_tensor_is_refused_with_to_dense(sparse):
    x = sparse(torch.eye(3))
    for take in (lambda: as_examples(x), lambda: as_examples((torch.eye(3), x)), lambda: list(Stream([x])), lambda: Examples(x)):
        with pytest.raises(TypeError, match=r"sparse.*to_dense\(\)"):
            take()


def test_a_nested_and_a_quantized_tensor_are_refused_with_what_to_do():
    for layout in (torch.strided, torch.jagged):
        nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=layout)
        with pytest.raises(TypeError, match="nested.*to_padded_tensor"):
            as_examples(nested)
    with pytest.raises(TypeError, match=r"quantized.*dequantize\(\)"):
        as_examples(torch.quantize_per_tensor(torch.rand(3, 2), 0.1, 0, torch.quint8))


def test_a_tensor_without_values_is_refused():
    with pytest.raises(ValueError, match="meta"):
        as_examples(torch.zeros(3, 2, device="meta"))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_a_loader_of_integers_is_refused_with_what_makes_numbers_of_them(dtype):
    advice = {torch.uint8: r"float\(\) / 255", torch.complex64: "real"}.get(dtype, r"float\(\)")
    with pytest.raises(TypeError, match=rf"{dtype}.*{advice}"):
        list(Stream([torch.zeros(2, 3, dtype=dtype)]))


def test_a_loader_may_give_labels_of_any_integers():
    (batch,) = Stream([(torch.zeros(2, 3), torch.tensor([1, 2], dtype=torch.uint8))], conditional=True)
    assert batch.condition.tolist() == [1, 2]


def test_data_that_requires_a_gradient_is_taken_without():
    x = torch.rand(3, 2, requires_grad=True)
    made = 2 * x
    assert not as_examples(x).x.requires_grad
    assert not as_examples((made, made)).x.requires_grad
    assert not as_examples((made, made)).y.requires_grad
    (batch,) = Stream([(made, made)], conditional=True)
    assert not batch.x.requires_grad
    assert not batch.condition.requires_grad


def test_a_parameter_is_data_like_any_tensor():
    assert torch.equal(as_examples(torch.nn.Parameter(torch.ones(2, 3))).x, torch.ones(2, 3))


# Arrays of another kind


def test_however_an_array_lies_in_memory_its_values_are_the_same():
    plain = np.arange(24.0).reshape(4, 3, 2)
    read_only = plain.copy()
    read_only.flags.writeable = False
    fortran, mirrored = np.asfortranarray(plain), plain[::-1, :, ::-1].copy()[::-1, :, ::-1]
    for array in (fortran, mirrored, read_only, plain.astype(">f8"), plain.astype(np.longdouble)):
        x = as_examples(array).x
        np.testing.assert_array_equal(x.numpy(), plain.astype(np.float32))
        x.add_(1)
        np.testing.assert_array_equal(array, plain)


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: np.array([[1.0, None]], object), "astype"),
        (lambda: np.zeros((2, 2), "M8[s]"), "real numbers"),
        (lambda: np.zeros((2, 2), "m8[s]"), "real numbers"),
        (lambda: np.zeros((2, 2), [("a", "f4")]), "real numbers"),
        (lambda: np.ma.MaskedArray(np.array([[1.0, None]], object)), "astype"),
    ],
    ids=["objects", "dates", "durations", "records", "masked objects"],
)
def test_arrays_of_other_things_are_refused(make, advice):
    with pytest.raises(TypeError, match=advice):
        as_examples(make())


def test_a_table_has_what_its_array_has():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": pandas.array([1, None], dtype="Int64"), "b": [0.5, 1.5]})
    array = as_examples(table.to_numpy(dtype="float32", na_value=math.nan)).x
    for examples in (as_examples(table), as_examples((table, [0, 1])), as_batches(table, 2).examples):
        assert torch.equal(examples.x.nan_to_num(-1), array.nan_to_num(-1))


def test_examples_are_made_of_tensors():
    with pytest.raises(TypeError, match="ndarray.*as_examples"):
        Examples(np.zeros((2, 3)))
    with pytest.raises(TypeError, match="list.*as_examples"):
        Examples(torch.zeros(2, 3), [0, 1])
    with pytest.raises(TypeError, match="uint8.*as_examples"):
        Examples(torch.zeros(2, 3, dtype=torch.uint8))


def test_examples_survive_pickling(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(20.0).reshape(10, 2))
    for examples in (as_examples(torch.rand(3, 2)), load_test(tmp_path / "x.npy")):
        again = pickle.loads(pickle.dumps(examples))
        assert torch.equal(again.x[:], examples.x[:])


@pytest.mark.parametrize("dtype", ["f8", ">f8", "g"])
def test_numbers_beyond_float32_are_refused_and_do_not_become_infinity(tmp_path, dtype):
    x = np.array([[0.0, 1e39], [1.0, 2.0]], dtype)
    np.save(tmp_path / "x.npy", x)
    for take in (lambda: as_examples(x), lambda: load_test(tmp_path / "x.npy").x[:], lambda: as_examples((np.zeros((2, 2)), x))):
        with pytest.raises(ValueError, match="float32"):
            take()
    infinite = np.where(x > 1e30, np.inf, x).astype(dtype)
    assert as_examples(infinite).x[0, 1] == math.inf  # which is for the model to refuse


def test_tensors_made_in_inference_mode_can_be_trained_on():
    vae = vaekit.create_vae(input_shape=(3,), latent_dim=1, likelihood="gaussian", seed=0)
    with torch.inference_mode():
        x = torch.rand(8, 3)
    for data in ([x], x, [(x, x)]):
        assert len(vaekit.fit(vae, data, epochs=1, progress=False)["loss"]) == 1


@pytest.mark.parametrize("y", [[[1], [1, 2]], [np.ma.MaskedArray([1]), np.ma.MaskedArray([1, 2])]])
def test_labels_of_several_lengths_are_refused_as_labels(y):
    with pytest.raises(ValueError, match="label"):
        as_examples((np.zeros((2, 2)), y))

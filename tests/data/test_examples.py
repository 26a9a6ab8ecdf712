"""What can be held as examples, in memory and in a memory map; NumPy's own arithmetic is the witness."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from torch.utils.data import DataLoader

from vaekit import data
from vaekit.data import Examples, MappedArray, as_examples

DTYPES = ["u1", "i1", "u2", "i2", "i4", "i8", "?", "f2", "f4", "f8", ">i2", ">f4", ">f8"]
SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 4)) | st.tuples(st.integers(1, 4), st.just(1), st.integers(1, 3))


@st.composite
def arrays(draw):
    """Arrays [N, *S] of any dtype of real numbers, with values that float32 holds."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    kinds = {"f": st.floats(-1e4, 1e4, width=16), "b": st.booleans(), "u": st.integers(0, 255), "i": st.integers(-128, 127)}
    return draw(st_numpy.arrays(dtype, draw(SHAPES), elements=kinds[dtype.kind]))


@st.composite
def arrays_and_indices(draw):
    """An array and what may stand in brackets: a row, a slice, rows, or a mask."""
    array = draw(arrays())
    n = len(array)
    row = st.integers(-n, n - 1)
    rows = st.lists(row, max_size=2 * n)
    index = draw(
        st.one_of(
            row,
            st.slices(n).filter(lambda s: s.step is None or s.step > 0),  # what a tensor takes
            rows.map(lambda r: torch.tensor(r, dtype=torch.int64)),
            st_numpy.arrays(bool, n).map(torch.from_numpy),
        )
    )
    return array, index


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """mapped(array): a read-only memory map of it."""
    folder, count = tmp_path_factory.mktemp("maps"), iter(range(10**9))

    def write(array):
        file = folder / f"{next(count)}.npy"
        np.save(file, array)
        return np.load(file, mmap_mode="r")

    return write


def as_float32(array):
    """The values that the documentation promises."""
    values = array.astype(np.float32)
    return values / np.float32(255) if array.dtype == np.uint8 and array.max(initial=0) > 1 else values


def as_numpy(index):
    return index.numpy() if isinstance(index, torch.Tensor) else index


@given(arrays())
def test_an_array_becomes_float32_and_bytes_become_grey_levels(array):
    examples = as_examples(array)
    assert examples.x.dtype == torch.float32
    np.testing.assert_allclose(examples.x.numpy(), as_float32(array), rtol=2e-7)
    assert examples.y is None
    assert isinstance(examples.x, torch.Tensor)


def test_all_256_grey_levels_lie_in_0_to_1_and_both_ends_are_exact():
    for x in (np.arange(256, dtype=np.uint8)[:, None], torch.arange(256, dtype=torch.uint8)[:, None]):
        levels = as_examples(x).x
        np.testing.assert_allclose(levels[:, 0].numpy(), np.arange(256) / 255, rtol=2e-7)
        assert levels[0] == 0.0
        assert levels[255] == 1.0


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_integers_and_booleans_in_a_tensor_keep_their_values(dtype):
    x = torch.tensor([[0, 1], [1, 0]], dtype=dtype)
    assert as_examples(x).x.dtype == torch.float32
    assert as_examples(x).x.tolist() == [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_floating_point_tensor_stays_as_it_is(dtype):
    x = torch.rand(3, 2).to(dtype)
    assert as_examples(x).x is x


def test_examples_stay_as_they_are():
    examples = Examples(torch.rand(3, 2))
    assert as_examples(examples) is examples


def test_changing_the_array_afterwards_does_not_change_the_examples():
    array = np.zeros((2, 2), np.float32)
    examples = as_examples(array)
    array[:] = 1
    assert not examples.x.any()


@pytest.mark.parametrize("y", [[3, 1, 2], (3, 1, 2), np.array([3, 1, 2], np.uint8), torch.tensor([3.0, 1.0, 2.0])])
def test_whole_numbers_of_any_kind_are_labels(y):
    examples = as_examples((np.zeros((3, 2)), y))
    assert examples.y.dtype == torch.int64
    assert examples.y.tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    "y",
    [[0.5, float("inf"), 2.0], [["a"], ["b"], ["c"]], np.zeros((3, 1, 1)), 3],
    ids=["infinity", "vectors of words", "images", "one"],
)
def test_labels_that_are_no_list_of_whole_numbers_are_refused_as_labels(y):
    with pytest.raises((TypeError, ValueError), match="label"):
        as_examples((np.zeros((3, 2)), y))


@pytest.mark.parametrize(("y", "read"), [([float("nan"), 1, 2], [-1, 1, 2]), (["a", None, "c"], [0, -1, 1])])
def test_labels_that_are_missing_are_minus_one(y, read):
    assert as_examples((np.zeros((3, 2)), y)).y.tolist() == read


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8, bool])
def test_vectors_are_floats_as_they_are(dtype):
    examples = as_examples((np.zeros((3, 2)), np.eye(3, dtype=dtype)))
    assert examples.y.dtype == torch.float32
    assert torch.equal(examples.y, torch.eye(3))
    assert as_examples((torch.zeros(3, 2).double(), torch.eye(3).double())).y.dtype == torch.float64


def test_another_number_of_labels_than_of_examples_is_refused():
    with pytest.raises(ValueError, match="3 examples but 2 labels"):
        as_examples((np.zeros((3, 2)), [0, 1]))


@pytest.mark.parametrize("make", [np.zeros, torch.zeros], ids=["array", "tensor"])
@pytest.mark.parametrize("shape", [(), (5,)])
def test_a_feature_dimension_is_needed(make, shape):
    with pytest.raises(ValueError, match=r"data has to have the shape \[examples, \.\.\.\], got \("):
        as_examples(make(shape))


@pytest.mark.parametrize("shape", [(), (5,)])
def test_a_feature_dimension_is_needed_in_a_memory_map_too(mapped, shape):
    with pytest.raises(ValueError, match=r"data has to have the shape \[examples, \.\.\.\], got \("):
        as_examples(mapped(np.zeros(shape)))


@pytest.mark.parametrize(
    "x",
    [np.zeros((2, 2), complex), np.array([["a"]]), np.zeros((2, 2), "M8[s]"), torch.zeros(2, 2, dtype=torch.complex64)],
    ids=["complex array", "words", "dates", "complex tensor"],
)
def test_what_is_not_real_numbers_is_refused(x):
    with pytest.raises(TypeError, match="data has to be real numbers"):
        as_examples(x)


@pytest.mark.parametrize("x", [None, [[1.0, 2.0]], {"x": torch.zeros(2, 2)}, 5, ([1.0], [2.0])])
def test_what_is_not_data_is_refused_by_its_type(x):
    with pytest.raises(TypeError, match="data has to be a tensor, an array, a pair"):
        as_examples(x)


def test_a_loader_of_torch_reads_examples():
    x, y = torch.arange(10.0).reshape(5, 2), torch.arange(5)
    assert [len(batch) for batch in DataLoader(Examples(x), batch_size=2)] == [2, 2, 1]
    batches = list(DataLoader(Examples(x, y), batch_size=2))
    torch.testing.assert_close(torch.cat([b[0] for b in batches]), x)
    torch.testing.assert_close(torch.cat([b[1] for b in batches]), y)


# Memory maps


@given(arrays_and_indices())
def test_a_memory_map_is_indexed_like_the_array_in_memory(mapped, array_and_index):
    array, index = array_and_index
    examples = as_examples(mapped(array))
    assert isinstance(examples.x, MappedArray)
    assert isinstance(examples.x.array, np.memmap)
    assert isinstance(examples.x, MappedArray)
    assert (examples.x.shape, examples.x.dtype, len(examples)) == (array.shape, torch.float32, len(array))
    found = examples.x[index]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), as_float32(array)[as_numpy(index)], rtol=2e-7)


@given(arrays_and_indices(), st.randoms(use_true_random=False))
def test_rows_of_a_memory_map_are_indexed_like_those_rows(mapped, array_and_index, random):
    array, index = array_and_index
    rows = np.array(random.sample(range(len(array)), len(array)))
    part = MappedArray(mapped(array), rows)
    assert (part.shape, len(part)) == (array.shape, len(array))
    np.testing.assert_array_equal(part[index].numpy(), array[rows].astype(np.float32)[as_numpy(index)])


def test_some_rows_of_a_memory_map_have_their_own_length(mapped):
    part = MappedArray(mapped(np.arange(12.0).reshape(6, 2)), np.array([4, 1]), divisor=2.0)
    assert part.shape == (2, 2)
    assert part[:].tolist() == [[4.0, 4.5], [1.0, 1.5]]


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
@pytest.mark.parametrize("index", [0, slice(0, 2), torch.tensor([1, 0])], ids=["row", "slice", "rows"])
def test_a_batch_of_a_read_only_map_can_be_changed_and_the_file_stays_and_nothing_warns(mapped, dtype, index):
    array = mapped(np.ones((3, 2), dtype))
    torch.set_warn_always(True)  # torch warns of a read-only array only once in a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            as_examples(array).x[index].zero_()
    finally:
        torch.set_warn_always(False)
    assert (np.asarray(array) == 1).all()


@pytest.mark.parametrize("dtype", ["c8", "U1", "M8[s]"])
def test_a_memory_map_of_anything_but_real_numbers_is_refused(mapped, dtype):
    with pytest.raises(TypeError, match="data has to be real numbers"):
        as_examples(mapped(np.zeros((2, 2), dtype)))


def test_a_test_set_is_all_of_what_has_none_of_its_own(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20, 3)))
    np.savez(tmp_path / "x.npz", x_train=np.zeros((20, 3)), x_test=np.zeros((4, 3)))
    assert len(data.load_test(tmp_path / "x.npy")) == 20
    assert len(data.load_test(tmp_path / "x.npz")) == 4

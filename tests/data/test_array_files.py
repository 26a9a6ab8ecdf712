"""Files of arrays, made by the libraries that write them: what is read from each, and what is refused."""

from __future__ import annotations

import pickle
import re

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

import vaekit
from vaekit.data import MappedArray, arrays, as_examples, load, load_test
from vaekit.data.hdf5 import HDF5Array

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (20, 9, 7, 3), np.uint8)
EXPECTED = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy()).float() / 255
LABELS = np.arange(20) % 4
ROWS = RANDOM.random((20, 5), np.float32)


def write_npz(file, found):
    np.savez(file, **found)


def write_hdf5(file, found):
    h5py = pytest.importorskip("h5py", reason='h5py is not installed: pip install "vaekit[arrays]"')
    with h5py.File(file, "w") as made:
        for name, array in found.items():
            made[name] = array


def write_mat(file, found):
    pytest.importorskip("scipy.io").savemat(file, found)


def write_mat_73(file, found):
    """MATLAB's version 7.3: HDF5 after a header of 512 bytes, with the axes in the opposite order."""
    h5py = pytest.importorskip("h5py", reason='h5py is not installed: pip install "vaekit[arrays]"')
    with h5py.File(file, "w", userblock_size=512) as made:
        for name, array in found.items():
            made[name] = np.atleast_2d(array).T


def write_pt(file, found):
    torch.save({name: torch.from_numpy(array) for name, array in found.items()}, file)


def write_safetensors(file, found):
    save_file({name: torch.from_numpy(array.copy()) for name, array in found.items()}, file)


WRITERS = {
    "x.npz": write_npz, "x.h5": write_hdf5, "x.hdf5": write_hdf5, "x.mat": write_mat, "x73.mat": write_mat_73, "x.pt": write_pt,
    "x.pth": write_pt, "x.safetensors": write_safetensors,
}  # fmt: skip


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    """write(arrays by name): a file of each kind."""

    def written(**found):
        WRITERS[request.param](tmp_path / request.param, found)
        return tmp_path / request.param

    return written


# What arrays are called


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ("x", "y"),
        ("X", "y"),
        ("images", "labels"),
        ("imgs", "latents_classes"),
        ("data", "target"),
        ("image", "label"),
        ("x", None),
    ],
)
def test_arrays_of_known_names_are_examples_and_labels_and_others_are_not_needed(write, x, y):
    found = {x: IMAGES, "weights": np.ones(3), **({} if y is None else {y: LABELS})}
    examples = load_test(write(**found))
    assert torch.equal(examples.x[:], EXPECTED)
    assert examples.y is None if y is None else examples.y.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("names", "other"),
    {
        ("x_train", "y_train", "x_test", "y_test"): "x_val",
        ("train_images", "train_labels", "test_images", "test_labels"): "val_images",  # MedMNIST's
        ("train_images", "train_labels", "val_images", "val_labels"): "x",
        ("X_train", "y_train", "X_test", "y_test"): "meta",
    }.items(),
)
def test_files_with_a_test_set_are_taken_as_they_are(write, names, other):
    arrays = (IMAGES[:15], LABELS[:15], IMAGES[15:], LABELS[15:])
    train, test = load(write(**dict(zip(names, arrays, strict=True)), **{other: IMAGES[:3]}))
    assert torch.equal(train.x[:], EXPECTED[:15])
    assert torch.equal(test.x[:], EXPECTED[15:])
    assert (train.y.tolist(), test.y.tolist()) == (LABELS[:15].tolist(), LABELS[15:].tolist())


def test_any_name_will_do_where_it_is_said_or_the_only_one(write):
    assert torch.equal(load_test(write(mine=IMAGES)).x[:], EXPECTED)
    file = write(mine=IMAGES, kinds=LABELS, held_out=IMAGES[:4])
    examples = load_test(file, arrays={"x": "mine", "y": "kinds"})
    assert torch.equal(examples.x[:], EXPECTED)
    assert examples.y.tolist() == LABELS.tolist()
    train, test = load(file, arrays={"x": "mine", "x_test": "held_out"})
    assert (len(train), len(test), train.y) == (20, 4, None)


def test_other_names_are_refused_with_the_names_and_shapes_there_are(write):
    file = write(mine=IMAGES, theirs=ROWS)
    with pytest.raises(ValueError) as caught:
        load(file)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert re.search(r"mine uint8 \[20, 9, 7, 3\].*theirs (float32|single) \[20, 5\].*--array x=NAME", message)
    with pytest.raises(ValueError, match=r"has no array 'min' for x; .*theirs.*Did you mean 'mine'\?"):
        load(file, arrays={"x": "min"})
    for wrong in ({"y": "mine"}, {"x": "mine", "z": "theirs"}, "mine"):
        with pytest.raises(ValueError, match="arrays takes the names of x and"):
            load(file, arrays=wrong)


def test_a_file_cut_short_is_refused_by_name(write):
    file = write(x=IMAGES, y=LABELS)
    content = file.read_bytes()
    for size in (0, 100, len(content) // 2):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match=re.escape(str(file))):
            load_test(file).x[:]


# Formats


def test_dsprites_archive_with_its_pickled_metadata_is_read(tmp_path):
    pictures = (RANDOM.random((30, 16, 16)) > 0.5).astype(np.uint8)
    classes = RANDOM.integers(0, 3, (30, 6))
    values = {"latents_values": classes / 3, "latents_classes": classes, "metadata": np.array({"by": "hand"}, object)}
    np.savez_compressed(tmp_path / "dsprites.npz", imgs=pictures, **values)
    examples = load_test(tmp_path / "dsprites.npz")
    assert examples.x.shape == (30, 1, 16, 16)
    assert torch.equal(examples.x[:, 0], torch.from_numpy(pictures).float())
    assert examples.y.tolist() == classes.tolist()
    with pytest.raises(ValueError, match=r"metadata \(no array of numbers\)"):
        load(tmp_path / "dsprites.npz", arrays={"x": "pictures"})


def test_an_hdf5_array_stays_on_disk_and_is_indexed_like_the_array(tmp_path):
    write_hdf5(tmp_path / "x.h5", {"group/x": ROWS, "group/y": LABELS})
    examples = load_test(tmp_path / "x.h5", arrays={"x": "group/x", "y": "group/y"})
    assert isinstance(examples.x, MappedArray)
    assert isinstance(examples.x.array, HDF5Array)
    for index in (3, -1, slice(2, 9, 3), np.array([5, 0, 5, 19]), np.zeros(0, np.int64), np.arange(20) % 3 == 0):
        np.testing.assert_array_equal(examples.x.array[index], ROWS[index])
    again = pickle.loads(pickle.dumps(examples.x.array))
    np.testing.assert_array_equal(again[7:9], ROWS[7:9])
    loader = DataLoader(examples, batch_size=5, num_workers=2)
    assert torch.equal(torch.cat([x for x, _ in loader]), torch.from_numpy(ROWS))
    with pytest.raises(IndexError, match="no row 20"):
        examples.x.array[20]


def test_a_model_is_trained_on_an_hdf5_file_as_on_its_array(tmp_path):
    write_hdf5(tmp_path / "x.h5", {"x": ROWS})
    losses = []
    for data in (tmp_path / "x.h5", ROWS):
        vae = vaekit.create_vae(
            input_shape=(5,), latent_dim=1, encoder={"hidden": ()}, decoder={"hidden": ()}, likelihood="gaussian", seed=0
        )
        losses.append(vaekit.fit(vae, data, epochs=2, batch_size=8, progress=False, device="cpu")["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("write", ["x.mat", "x73.mat"], indirect=True)
@pytest.mark.parametrize("y", [LABELS[:, None], LABELS[None, :]])
def test_matlabs_arrays_of_two_axes_are_labels_and_the_last_axis_may_count(write, y):
    last = np.moveaxis(IMAGES, 0, -1)  # as in SVHN: [height, width, channels, N]
    for x in (IMAGES, last):
        examples = load_test(write(X=x, y=y))
        assert torch.equal(examples.x[:], EXPECTED)
        assert examples.y.tolist() == LABELS.tolist()


def test_rows_of_text_are_read_and_given_a_shape(tmp_path):
    binary = (RANDOM.random((12, 6)) > 0.5).astype(int)
    for part, rows in (("train", binary), ("test", binary[:4])):
        (tmp_path / f"mnist_{part}.amat").write_text("\n".join(" ".join(map(str, row)) for row in rows) + "\n")
    assert load_test(tmp_path / "mnist_train.amat").x.tolist() == binary.tolist()
    train, test = load(tmp_path, shape=(1, 2, 3))
    assert train.x.flatten(1).tolist() == binary.tolist()
    assert (train.x.shape, test.x.shape) == ((12, 1, 2, 3), (4, 1, 2, 3))
    with pytest.raises(ValueError, match=r"6 numbers in a row, which are not of the shape \(1, 28, 28\)"):
        load(tmp_path, shape=[1, 28, 28])
    (tmp_path / "odd.amat").write_text("0 1 0\n0 1\n")
    with pytest.raises(ValueError, match=r"odd\.amat has to hold a row of numbers in each line"):
        load(tmp_path / "odd.amat")


@pytest.mark.parametrize("saved", [torch.from_numpy(ROWS), (torch.from_numpy(ROWS), None), [torch.from_numpy(ROWS)] * 2])
def test_a_saved_tensor_or_pair_is_examples(tmp_path, saved):
    if isinstance(saved, list):
        saved[1] = torch.from_numpy(LABELS)
    torch.save(saved, tmp_path / "x.pt")
    examples = load_test(tmp_path / "x.pt")
    np.testing.assert_array_equal(examples.x.numpy(), ROWS)
    assert examples.y is None if not isinstance(saved, list) else examples.y.tolist() == LABELS.tolist()


WORDS = {
    "npz": lambda file, x, y, more: np.savez(file, x_train=x, y_train=np.array(y), x_test=x[:2], y_test=np.array(more)),
    "h5": lambda file, x, y, more: _write_words(file, x, y, more),
}


def _write_words(file, x, y, more):
    with h5py.File(file, "w") as stored:
        for part, values, words in (("train", x, y), ("test", x[:2], more)):
            stored[f"x_{part}"], stored[f"y_{part}"] = values, words


@pytest.mark.parametrize("ending", WORDS)
def test_labels_in_a_file_may_be_words(ending, tmp_path):
    words = (["cat", "ant", "bee"] * len(ROWS))[: len(ROWS)]
    WORDS[ending](tmp_path / f"a.{ending}", ROWS, words, ["bee", "cat"])
    train, test = load(tmp_path / f"a.{ending}")
    assert train.label_names == test.label_names == ("ant", "bee", "cat")
    assert [train.label_names[number] for number in train.y] == words
    assert test.y.tolist() == [1, 2]
    WORDS[ending](tmp_path / f"b.{ending}", ROWS, words, ["bee", "dog"])
    with pytest.raises(ValueError, match="'dog' are not among those trained on"):
        load(tmp_path / f"b.{ending}")


def test_saved_objects_are_not_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    torch.save({"x": Trap()}, tmp_path / "x.pt")
    with pytest.raises(
        ValueError, match=r"x\.pt holds .*is not loaded because objects can run code.*torch\.save\(\(x, y\), file\)"
    ):
        load(tmp_path / "x.pt")
    torch.save(torch.utils.data.TensorDataset(torch.ones(2, 2)), tmp_path / "set.pt")
    with pytest.raises(ValueError, match=r"set\.pt holds a torch.utils.data.dataset.TensorDataset, or is damaged") as caught:
        load(tmp_path / "set.pt")
    assert "\x1b" not in str(caught.value)  # as torch's own message has it
    torch.save((torch.ones(2, 2),) * 3, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"it holds \(Tensor, Tensor, Tensor\)"):
        load(tmp_path / "x.pt")
    torch.save(torch.ones(2, 2), tmp_path / "x.pt")
    with pytest.raises(ValueError, match="have no names"):
        load(tmp_path / "x.pt", arrays={"x": "imgs"})


def test_a_large_array_of_bytes_stays_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "LARGEST_FLOATS", IMAGES.size - 1)
    np.savez(tmp_path / "x.npz", x=IMAGES)
    examples = load_test(tmp_path / "x.npz")
    assert examples.x.array.dtype == np.uint8
    assert torch.equal(examples.x[:], EXPECTED)


# CIFAR


def cifar10(folder, binary):
    """A CIFAR-10 of 4 pictures a batch, and its pixels and labels by batch."""
    folder.mkdir()
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    batches = {name: (RANDOM.integers(0, 256, (4, 3072), np.uint8), [0, 3, 9, number]) for number, name in enumerate(names)}
    for name, (pixels, labels) in batches.items():
        if binary:
            rows = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            (folder / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": labels, b"batch_label": b"one"}, protocol=2))
    kinds = [f"kind{number}" for number in range(10)]
    if binary:
        (folder / "batches.meta.txt").write_text("\n".join(kinds) + "\n\n")
    else:
        (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [kind.encode() for kind in kinds]}, protocol=2))
    return batches, tuple(kinds)


@pytest.mark.parametrize("binary", [False, True])
def test_cifar_10_is_read_as_its_pickles_and_as_its_binary_files(tmp_path, binary):
    batches, kinds = cifar10(tmp_path / "cifar", binary)
    train, test = load(tmp_path / "cifar")
    pixels = [batch[0] for batch in batches.values()]
    labels = [batch[1] for batch in batches.values()]
    np.testing.assert_allclose(train.x.numpy(), np.concatenate(pixels[:5]).reshape(20, 3, 32, 32) / 255, rtol=1e-6)
    np.testing.assert_allclose(test.x.numpy(), pixels[5].reshape(4, 3, 32, 32) / 255, rtol=1e-6)
    assert (train.y.tolist(), test.y.tolist()) == ([label for batch in labels[:5] for label in batch], labels[5])
    assert train.label_names == test.label_names == kinds


@pytest.mark.parametrize("binary", [False, True])
def test_cifar_100_has_fine_and_coarse_labels(tmp_path, binary):
    names = {"fine": [f"fine{number}" for number in range(100)], "coarse": [f"coarse{number}" for number in range(20)]}
    for part, count in (("train", 6), ("test", 3)):
        fine, coarse, pixels = np.arange(count) + 90, np.arange(count), RANDOM.integers(0, 256, (count, 3072), np.uint8)
        if binary:
            rows = np.concatenate([coarse[:, None], fine[:, None], pixels], axis=1).astype(np.uint8)
            (tmp_path / f"{part}.bin").write_bytes(rows.tobytes())
        else:
            batch = {b"data": pixels, b"fine_labels": fine.tolist(), b"coarse_labels": coarse.tolist()}
            (tmp_path / part).write_bytes(pickle.dumps(batch, protocol=2))
    if binary:
        for kind, listed in names.items():
            (tmp_path / f"{kind}_label_names.txt").write_text("\n".join(listed))
    else:
        meta = {f"{kind}_label_names".encode(): [name.encode() for name in listed] for kind, listed in names.items()}
        (tmp_path / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    for kind, first in (("fine", 90), ("coarse", 0)):
        train, test = load(tmp_path, labels=kind)
        assert (train.y.tolist(), test.y.tolist()) == (list(range(first, first + 6)), list(range(first, first + 3)))
        assert train.label_names == tuple(names[kind])
    with pytest.raises(ValueError, match="labels.*fine.*coarse"):
        load(tmp_path, labels="rough")


def test_a_pickle_in_a_folder_of_cifar_cannot_run_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    cifar10(tmp_path / "cifar", False)
    for content in (pickle.dumps({b"data": Trap()}), b"cposix\nsystem\n(S'true'\ntR.", b"\x80\x04 no pickle", b""):
        (tmp_path / "cifar" / "data_batch_3").write_bytes(content)
        with pytest.raises(ValueError, match=r"data_batch_3 is not a pickle of arrays alone"):
            load(tmp_path / "cifar")
    (tmp_path / "cifar" / "data_batch_3").write_bytes(pickle.dumps({b"pixels": 1}))
    with pytest.raises(ValueError, match=r"data_batch_3 has to hold data"):
        load(tmp_path / "cifar")


def test_a_binary_batch_cut_short_is_refused(tmp_path):
    cifar10(tmp_path / "cifar", True)
    (tmp_path / "cifar" / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(ValueError, match=r"test_batch\.bin has 3072 bytes"):
        load(tmp_path / "cifar")


# scikit-learn


def test_datasets_of_scikit_learn_are_examples_with_named_labels_or_vectors():
    datasets = pytest.importorskip("sklearn.datasets", reason='scikit-learn is not installed: pip install "vaekit[sampler]"')
    iris = as_examples(datasets.load_iris())
    np.testing.assert_array_equal(iris.x.numpy(), datasets.load_iris().data.astype(np.float32))
    assert iris.y.tolist() == datasets.load_iris().target.tolist()
    assert iris.label_names == ("setosa", "versicolor", "virginica")
    linnerud = as_examples(datasets.load_linnerud())
    assert linnerud.y.shape == (20, 3)
    assert linnerud.label_names is None
    assert load(datasets.load_digits())[0].label_names == tuple("0123456789")

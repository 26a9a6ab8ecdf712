"""Data as other libraries give it: torchdata's loader, tables and streams of Hugging Face, and webdataset."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import vaekit
from vaekit import plain
from vaekit.data import Stream, Whole, as_batches, as_examples, differences
from vaekit.data.fingerprint import fingerprint_of

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it

SIZE = 14


def rows_of(batches):
    """The number that each row of each batch holds."""
    return [batch.x.flatten(1)[:, 0].int().tolist() for batch in batches]


def flat(rows):
    return [row for batch in rows for row in batch]


def stored(state):
    """The state as a checkpoint gives it back."""
    packed = plain.pack(state)
    return plain.unpack(json.loads(json.dumps(packed.data, allow_nan=False)), packed.tensors)


def assert_resumes_everywhere(make, epochs=3):
    """A stream made again goes on from each of its states, within epochs and between them, as if it had never stopped."""
    stream, given, states = make(), [], []
    assert stream.can_resume
    for epoch in range(epochs):
        for batch in stream.epoch(epoch):
            given.append((epoch, rows_of([batch])[0]))
            states.append((epoch, len(given), stored(stream.state_dict())))
        states.append((epoch + 1, len(given), stored(stream.state_dict())))
    assert sorted(flat(rows for epoch, rows in given if epoch == 1)) == list(range(SIZE))
    for epoch, count, state in states:
        again, rest = make(), []
        for number in range(epoch, epochs):
            rest += [(number, rows) for rows in rows_of(again.epoch(number, state if number == epoch else None))]
        assert rest == given[count:], f"after batch {count}"
    return given


# torchdata


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_goes_on_within_the_epoch_in_the_order_it_had(workers):
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed: pip install torchdata")
    dataset = TensorDataset(torch.arange(float(SIZE))[:, None])

    def make():
        return Stream(stateful.StatefulDataLoader(dataset, batch_size=4, shuffle=True, num_workers=workers))

    given = assert_resumes_everywhere(make, epochs=3 if workers == 0 else 1 + 1)
    assert [rows for epoch, rows in given if epoch == 0] != [rows for epoch, rows in given if epoch == 1]


# datasets


@pytest.fixture(scope="module")
def table():
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install datasets")
    x = np.arange(float(SIZE), dtype=np.float32)[:, None] * np.ones(3, np.float32)
    return datasets.Dataset.from_dict({"x": x, "y": np.arange(SIZE) % 3})


@pytest.mark.parametrize("kind", [None, "torch", "numpy", "arrow", "pandas"])
def test_a_table_is_examples(table, kind):
    examples = as_examples(table.with_format(kind))
    assert isinstance(as_batches(table.with_format(kind), 4), Whole)
    assert (examples.x.dtype, tuple(examples.x.shape), examples.y.dtype) == (torch.float32, (SIZE, 3), torch.int64)
    x = torch.arange(float(SIZE))[:, None] * torch.ones(3)
    assert torch.equal(examples.x[:], x)
    assert examples.y.tolist() == [row % 3 for row in range(SIZE)]
    for index in (3, slice(2, 9, 3), torch.tensor([5, 0, 5]), torch.zeros(0, dtype=torch.int64)):
        assert torch.equal(examples.x[index], x[index])
    assert differences(fingerprint_of(examples), fingerprint_of(as_examples((x, examples.y)))) == ""


def test_a_model_is_trained_on_a_table_as_on_its_array(table):
    weights = []
    for data in (table.with_format("torch"), torch.arange(float(SIZE))[:, None] * torch.ones(3)):
        vae = vaekit.create_vae(
            input_shape=(3,), latent_dim=1, encoder={"hidden": ()}, decoder={"hidden": ()}, likelihood="gaussian", seed=0
        )
        vaekit.fit(vae, data, validation=data, epochs=2, batch_size=4, progress=False, device="cpu")
        weights.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert torch.equal(*weights)


def test_a_table_of_pictures_is_grey_levels(table):
    datasets = pytest.importorskip("datasets")
    pictures = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 1, 8, 8)
    features = datasets.Features({"x": datasets.Array3D((1, 8, 8), "uint8")})
    made = datasets.Dataset.from_dict({"x": list(pictures)}, features=features).with_format("numpy", dtype=np.uint8)
    assert torch.equal(as_examples(made).x[:], torch.from_numpy(pictures) / 255)
    assert as_examples(made).y is None


@pytest.mark.parametrize("grey", [False, True])
def test_a_table_with_a_column_of_pictures_and_named_labels_is_examples(grey):
    datasets, image = pytest.importorskip("datasets"), pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 7) if grey else (6, 9, 7, 3), np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    pictures = [image.fromarray(picture) for picture in pixels]
    made = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * 3}, features=features)
    expected = torch.from_numpy(pixels).float() / 255
    expected = expected[:, None] if grey else expected.permute(0, 3, 1, 2)
    for kind in (None, "torch"):
        examples = as_examples(made.with_format(kind))
        assert torch.equal(examples.x[:], expected)
        assert torch.equal(examples.x[torch.tensor([4, 0])], expected[[4, 0]])
        assert (examples.y.tolist(), examples.label_names) == ([0, 1] * 3, ("cat", "dog"))
    assert as_examples(made, size=4, colour="grey").x.shape == (6, 1, 4, 4)
    other = datasets.Dataset.from_dict(
        {"image": [*pictures, pictures[0].rotate(90, expand=True)]}, features=datasets.Features(image=datasets.Image())
    )
    with pytest.raises(ValueError, match="row 6 is 7 x 9, the first 9 x 7: size=64"):
        as_examples(other).x[:]
    assert as_examples(other, size=5).x[:].shape[2:] == (5, 5)


def test_pictures_options_are_refused_of_a_table_without_pictures(table):
    with pytest.raises(TypeError, match="size and colour are options of pictures, but the column 'x'"):
        as_examples(table, size=3)


def test_tables_that_are_not_examples_are_refused(table):
    datasets = pytest.importorskip("datasets")
    cases = {
        "needs the column 'x', it has: photo, y; rename_column": table.rename_column("x", "photo"),
        "has a transform.*DataLoader": table.with_transform(lambda rows: rows),
        "different shapes": datasets.Dataset.from_dict({"x": [[1.0], [1.0, 2.0]]}),
        "real numbers": datasets.Dataset.from_dict({"x": [["a"], ["b"]]}),
    }
    for words, bad in cases.items():
        with pytest.raises((TypeError, ValueError), match=words):
            as_batches(bad, 2).examples.x[:]


def test_a_table_in_a_loader_is_a_stream_and_its_nodes_parts_are_the_whole(table):
    distributed = pytest.importorskip("datasets.distributed")
    parts = [distributed.split_dataset_by_node(table.with_format("torch"), rank, 2) for rank in range(2)]
    streams = [Stream(DataLoader(part, batch_size=4), conditional=True) for part in parts]
    batches = [list(stream.epoch(0)) for stream in streams]
    assert sorted(flat(rows_of(batches[0])) + flat(rows_of(batches[1]))) == list(range(SIZE))
    assert [stream.size for stream in streams] == [7, 7]
    assert all(torch.equal(b.condition, b.x[:, 0].long() % 3) for of in batches for b in of)
    assert batches[0][0].digest() != batches[1][0].digest()


def streamed(table, rank=0, world=1):
    distributed = pytest.importorskip("datasets.distributed")
    shuffled = table.to_iterable_dataset(num_shards=4).shuffle(seed=5, buffer_size=6)
    return distributed.split_dataset_by_node(shuffled, rank, world)


@pytest.mark.parametrize("loader", ["itself", "DataLoader", "StatefulDataLoader"])
def test_a_stream_of_a_table_is_shuffled_anew_each_epoch_and_split_by_node(table, loader):
    def make(rank, world):
        streams = streamed(table, rank, world)
        if loader == "itself":
            return as_batches(streams.batch(4).with_format("torch"), 64)
        if loader == "DataLoader":
            return as_batches(DataLoader(streams.with_format("torch"), batch_size=4), 64)
        stateful = pytest.importorskip("torchdata.stateful_dataloader")
        return as_batches(stateful.StatefulDataLoader(streams.with_format("torch"), batch_size=4), 64)

    alone = make(0, 1)
    epochs = [rows_of(alone.epoch(number)) for number in range(2)]
    assert epochs[0] != epochs[1]
    assert [sorted(flat(rows)) for rows in epochs] == [list(range(SIZE))] * 2
    assert rows_of(make(0, 1).epoch(1)) == epochs[1]
    parts = [flat(rows_of(make(rank, 2).epoch(0))) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(SIZE))
    assert parts[0]
    assert parts[1]


@pytest.mark.parametrize("loader", ["itself", "StatefulDataLoader"])
def test_a_stream_of_a_table_goes_on_within_the_epoch(table, loader):
    source = table.to_iterable_dataset(num_shards=4)

    def make():
        if loader == "itself":
            return Stream(source.shuffle(seed=5, buffer_size=1).batch(4).with_format("torch"))
        stateful = pytest.importorskip("torchdata.stateful_dataloader")
        return Stream(stateful.StatefulDataLoader(source.shuffle(seed=5, buffer_size=1).with_format("torch"), batch_size=4))

    assert_resumes_everywhere(make)


# webdataset


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed: pip install webdataset")
    folder = tmp_path_factory.mktemp("archives")
    for shard, rows in enumerate(np.array_split(np.arange(SIZE), 4)):
        with webdataset.TarWriter(str(folder / f"rows-{shard}.tar")) as writer:
            for row in rows.tolist():
                writer.write({"__key__": f"{row:04d}", "x.npy": np.full(3, row, np.float32), "y.cls": row % 3})
    return webdataset, str(folder / "rows-{0..3}.tar")


def of_node(archives, rank, world, monkeypatch):
    webdataset, names = archives
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    made = webdataset.WebDataset(names, shardshuffle=False, nodesplitter=webdataset.split_by_node)
    return made.decode().to_tuple("x.npy", "y.cls")


@pytest.mark.parametrize("loader", ["itself", "WebLoader", "DataLoader"])
def test_a_webdataset_is_a_stream_and_its_nodes_parts_are_the_whole(archives, loader, monkeypatch):
    def batches(rank, world):
        dataset = of_node(archives, rank, world, monkeypatch)
        if loader == "itself":
            made = dataset.batched(4)
        elif loader == "WebLoader":
            made = archives[0].WebLoader(dataset.batched(4), batch_size=None)
        else:
            made = DataLoader(dataset, batch_size=4)
        return list(as_batches(made, 64, conditional=True))

    alone = batches(0, 1)
    assert rows_of(alone) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13]]
    assert all(torch.equal(b.condition, b.x[:, 0].long() % 3) for b in alone)
    parts = [flat(rows_of(batches(rank, 2))) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(SIZE))
    assert parts[0]
    assert parts[1]


def test_a_model_is_trained_on_a_webdataset(archives, monkeypatch):
    weights = []
    array = torch.arange(float(SIZE))[:, None] * torch.ones(3)
    for data in (of_node(archives, 0, 1, monkeypatch).batched(4), list(array.split(4))):
        vae = vaekit.create_vae(
            input_shape=(3,), latent_dim=1, encoder={"hidden": ()}, decoder={"hidden": ()}, likelihood="gaussian", seed=0
        )
        vaekit.fit(vae, data, validation=data, epochs=2, progress=False, device="cpu")
        weights.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert torch.equal(*weights)

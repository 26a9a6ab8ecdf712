"""AnnData in memory, backed, and in .h5ad files: what comes in batches is what was put in."""

import pickle

import anndata
import h5py
import numpy as np
import pandas
import pytest
import torch
from scipy import sparse
from torch.utils.data import DataLoader

import vaekit
from vaekit.data import Cells
from vaekit.data.sparse import MatrixRows

RNG = np.random.default_rng(0)
DENSE = RNG.poisson(0.7, (40, 6)).astype(np.float32)
OBS = {
    "batch": pandas.Categorical(["rome", "oslo", "rome", "kyoto"] * 10, categories=["oslo", "rome", "kyoto", "unused"]),
    "donor": ["d1", "d2"] * 20,
    "kind": ["T", "B", "B", "NK"] * 10,
    "age": np.linspace(20, 60, 40),
    "reads": np.arange(40),
}


def adata_of(x) -> anndata.AnnData:
    made = anndata.AnnData(sparse.csr_matrix(np.zeros_like(DENSE)), obs=pandas.DataFrame(OBS, index=[f"c{i}" for i in range(40)]))
    made.var_names = [f"g{i}" for i in range(6)]
    made.X, made.layers["counts"] = x, x
    return made


HELD = {
    "csr": sparse.csr_matrix(DENSE),
    "csr-array": sparse.csr_array(DENSE.astype(np.int32)),
    "csc": sparse.csc_matrix(DENSE),
    "dense": DENSE,
    "integers": DENSE.astype(np.uint8),
}


@pytest.mark.parametrize("layer", [None, "counts"])
@pytest.mark.parametrize("where", ["memory", "file", "backed"])
@pytest.mark.parametrize("held", HELD)
def test_counts_come_as_they_were_put_in_wherever_they_are(held, where, layer, tmp_path):
    adata = adata_of(HELD[held])
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    options = {"layer": layer, "batch": "batch"}
    if where == "file":
        cells = vaekit.data.load_test(path, **options)
    else:
        cells = vaekit.data.as_examples(adata if where == "memory" else anndata.read_h5ad(path, backed="r"), **options)
    assert isinstance(cells, Cells)
    for index in (slice(None), torch.tensor([7, 3, 3, 0]), slice(5, 9)):
        rows = DENSE[index.numpy() if isinstance(index, torch.Tensor) else index]
        assert np.array_equal(cells.x[index].numpy(), rows)
    batches = vaekit.data.Whole(cells, 16, conditional=True)
    assert np.array_equal(torch.cat([batch.x for batch in batches]).numpy(), DENSE)
    assert cells.genes == tuple(f"g{i}" for i in range(6))


def test_what_is_sparse_stays_sparse():
    matrix = sparse.csr_matrix(DENSE)
    cells = vaekit.data.as_examples(adata_of(matrix))
    assert not isinstance(cells.x, torch.Tensor)
    assert np.shares_memory(cells.x.array.matrix.data, matrix.data)


def test_one_batch_is_labels_and_more_are_columns():
    adata = adata_of(HELD["csr"])
    alone = vaekit.data.as_examples(adata, batch="batch", label="kind")
    assert alone.condition == {"name": "labels", "classes": 3, "names": ["oslo", "rome", "kyoto"], "column": "batch"}
    assert alone.y[:4].tolist() == [1, 0, 1, 2]
    assert (alone.labels[:4].tolist(), alone.kinds) == ([2, 0, 0, 1], ("B", "NK", "T"))
    several = vaekit.data.as_examples(adata, batch="batch", covariates=["age", "donor", "reads"])
    assert [part["name"] for part in several.condition] == ["labels", "labels", "vector"]
    assert several.condition[2]["names"] == ["age", "reads"]
    np.testing.assert_allclose(several.y[1].numpy(), [0.0, 1.0, OBS["age"][1], 1.0], rtol=1e-6)
    assert vaekit.data.as_examples(adata).y is None
    labelled = vaekit.data.as_examples(adata, label="kind")
    assert labelled.label_names == ("B", "NK", "T")
    assert torch.equal(labelled.y, labelled.labels)


def test_parts_of_a_split_know_what_the_whole_knew():
    train, test = vaekit.data.load(adata_of(HELD["csr"]), batch="batch", label="kind", validation=0.25)
    assert isinstance(train, Cells)
    assert (len(train), len(test), test.genes, test.kinds) == (30, 10, train.genes, ("B", "NK", "T"))
    assert np.array_equal(test.x[:].numpy(), DENSE[test.rows])
    whole = vaekit.data.as_examples(adata_of(HELD["csr"]), batch="batch", label="kind")
    assert torch.equal(test.y, whole.y[test.rows])
    assert torch.equal(test.labels, whole.labels[test.rows])
    assert vaekit.data.load(adata_of(HELD["csr"]), label="kind")[0].label_names == ("B", "NK", "T")


@pytest.mark.parametrize("held", ["csr", "dense"])
def test_a_file_is_read_by_other_processes_too(held, tmp_path):
    adata_of(HELD[held]).write_h5ad(tmp_path / "cells.h5ad")
    cells = vaekit.data.load_test(tmp_path / "cells.h5ad")
    assert np.array_equal(pickle.loads(pickle.dumps(cells.x.array))[[3, 1]], DENSE[[3, 1]])
    loader = DataLoader(cells, batch_size=16, num_workers=2)
    assert np.array_equal(torch.cat(list(loader)).numpy(), DENSE)


def test_a_damaged_file_is_told_by_its_name(tmp_path):
    path = tmp_path / "cells.h5ad"
    adata_of(HELD["csr"]).write_h5ad(path)
    whole = path.read_bytes()
    for content in (b"", b"no HDF5", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cells\.h5ad cannot be read as an \.h5ad file"):
            vaekit.data.load(path)
    with h5py.File(path, "w") as file:
        file["x"] = DENSE
    with pytest.raises(ValueError, match=r"cells\.h5ad cannot be read as an \.h5ad file.*obs"):
        vaekit.data.load(path)


def test_genes_that_are_not_there_count_nothing():
    taken = MatrixRows(sparse.csr_matrix(DENSE), np.array([4, -1, 0]))[[3, -1]]
    assert np.array_equal(taken, np.stack([DENSE[[3, 39], 4], np.zeros(2), DENSE[[3, 39], 0]], 1))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"layer": "raw"}, KeyError, "no layer 'raw'; there are: counts"),
        ({"batch": "city"}, KeyError, "no column 'city'; it has: batch, donor"),
        ({"covariates": ["hole"]}, ValueError, "'hole' of obs is missing in 1 of 40"),
        ({"lable": "kind"}, TypeError, "Did you mean 'label'"),
    ],
)
def test_what_is_not_there_is_named(options, error, words):
    adata = adata_of(HELD["csr"])
    adata.obs["hole"] = [np.nan, *range(39)]
    with pytest.raises(error, match=words):
        vaekit.data.as_examples(adata, **options)


def test_two_genes_of_one_name_and_no_counts_are_refused():
    adata = adata_of(HELD["csr"])
    adata.var_names = ["a", "b", "a", "c", "d", "e"]
    with pytest.raises(ValueError, match="two genes are called 'a'"):
        vaekit.data.as_examples(adata)
    adata.X = None
    with pytest.raises(ValueError, match="no X; name the layer"):
        vaekit.data.as_examples(adata)


def test_fit_takes_anndata_and_learns_the_same_from_sparse_and_dense():
    models = []
    for held in ("csr", "dense"):
        vae = vaekit.create_vae("single-cell", input_shape=(6,), latent_dim=2, seed=0)
        vaekit.fit(vae, adata_of(HELD[held]), epochs=2, batch_size=16, progress=False)
        models.append(vae.state_dict())
    for name, value in models[0].items():
        assert torch.equal(value, models[1][name]), name

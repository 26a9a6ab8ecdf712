"""The command with cells: .h5ad files that it writes hold what `vaekit.cells` gives in Python, beside what was there."""

import anndata
import numpy as np
import pandas
import pytest
import torch
from helpers.commands import QUICK, command
from scipy import sparse

import vaekit
from vaekit import cells as of_cells
from vaekit.cli.annotated import AnnotatedCells
from vaekit.evaluation import score

GENES = [f"g{i}" for i in range(7)]


def write_cells(path, batches="ab", n=40, genes=GENES, seed=0):
    rng = np.random.default_rng(seed)
    counts = {gene: rng.poisson(2.0, n) + (place == 0) for place, gene in enumerate(GENES)} | {"other": np.ones(n)}
    obs = pandas.DataFrame(
        {"batch": rng.choice(list(batches), n), "kind": ["T", "B"] * (n // 2)}, index=[f"c{i}" for i in range(n)]
    )
    adata = anndata.AnnData(sparse.csr_matrix((n, len(genes)), dtype=np.float32), obs=obs, uns={"title": "cells"})
    adata.var_names = list(genes)
    adata.layers["counts"] = sparse.csr_matrix(np.stack([counts[gene] for gene in genes], 1).astype(np.float32))
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_cells(tmp_path_factory.mktemp("cells") / "cells.h5ad")


@pytest.fixture(scope="module")
def run(path, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "cells"
    read = [word for option in ("layer=counts", "batch=batch", "label=kind") for word in ("--read", option)]
    sizes = ["--latent-dim", 2, "--set", "encoder.hidden=[4]", "--set", "decoder.hidden=[4]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.cli.train.draw_pictures", lambda *arguments, **options: None)
        assert command("train", path, "--preset", "single-cell", *read, *sizes, *QUICK, "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def vae(run):
    return vaekit.load(run / "best")


def test_latents_and_expression_are_those_of_python_beside_what_was_there(run, vae, path, tmp_path):
    given = anndata.read_h5ad(path)
    of_cells.embed(given, vae, layer="counts")
    of_cells.normalize(given, vae, layer="counts")
    assert command("encode", run, path, "--out", tmp_path / "z.h5ad") == 0
    assert command("reconstruct", run, path, "--out", tmp_path / "x.h5ad") == 0
    z, x = anndata.read_h5ad(tmp_path / "z.h5ad"), anndata.read_h5ad(tmp_path / "x.h5ad")
    np.testing.assert_array_equal(z.obsm["X_vaekit"], given.obsm["X_vaekit"])
    np.testing.assert_array_equal(x.layers["vaekit"], given.layers["vaekit"])
    known = of_cells.matching(vae, given, layer="counts")
    with torch.no_grad():
        deviation = vae.encode(known.x[:], known.y).variances.sqrt()
    np.testing.assert_allclose(z.obsm["X_vaekit_deviation"], deviation, rtol=1e-6)
    np.testing.assert_allclose(x.layers["vaekit_reconstruction"], vae.reconstruct(known.x[:], known.y), rtol=1e-5)
    for written in (z, x):
        pandas.testing.assert_frame_equal(written.obs, given.obs)
        assert written.uns["title"] == "cells"
        assert (written.layers["counts"] != given.layers["counts"]).nnz == 0


def test_scores_are_columns_of_obs_and_of_genes_layers(run, vae, path, tmp_path):
    out = tmp_path / "scored.h5ad"
    assert command("score", run, path, "--out", out, "--samples", 20, "--share", 0.5, "--elements") == 0
    expected = score(vae, of_cells.matching(vae, anndata.read_h5ad(path), layer="counts"), samples=20, elements=True)
    scored = anndata.read_h5ad(out)
    np.testing.assert_array_equal(scored.obs["vaekit_log_likelihood"], expected.log_likelihood)
    np.testing.assert_array_equal(scored.layers["vaekit_surprise"], expected.surprise)
    np.testing.assert_array_equal(scored.layers["vaekit_nll"], expected.element_nll)
    assert scored.obs["vaekit_is_anomaly"].dtype == bool
    assert list(scored.obs)[:2] == ["batch", "kind"]


def test_of_what_was_held_out_the_file_has_those_cells_alone(run, vae, path, tmp_path):
    assert command("encode", run, "--out", tmp_path / "z.h5ad") == 0
    held_out = vaekit.data.load(path, layer="counts", batch="batch", label="kind")[1]
    z, given = anndata.read_h5ad(tmp_path / "z.h5ad"), anndata.read_h5ad(path)
    assert z.obs_names.tolist() == given.obs_names[held_out.rows.numpy()].tolist()
    with torch.no_grad():
        np.testing.assert_array_equal(z.obsm["X_vaekit"], vae.encode(held_out.x[:], held_out.y).mean)


def test_some_cells_of_a_file_are_written_in_the_order_that_they_have(path, tmp_path):
    rows, values = np.array([7, 2, 30]), np.arange(6.0).reshape(3, 2)
    AnnotatedCells({"mean": "obsm/Z"}, GENES, path, rows).write(str(tmp_path / "z.h5ad"), [{"mean": values}], 3)
    z, given = anndata.read_h5ad(tmp_path / "z.h5ad"), anndata.read_h5ad(path)
    assert z.obs_names.tolist() == ["c7", "c2", "c30"]
    np.testing.assert_array_equal(z.layers["counts"].toarray(), given.layers["counts"][rows].toarray())
    np.testing.assert_array_equal(z.obsm["Z"], values)


def test_other_cells_are_read_by_the_names_of_genes_and_batches(run, vae, path, tmp_path):
    """Genes in another order, one too many, one batch alone, no types."""
    turned = write_cells(tmp_path / "turned.h5ad", "b", genes=["other", *reversed(GENES)], seed=3)
    adata = anndata.read_h5ad(turned)
    del adata.obs["kind"]
    adata.write_h5ad(turned)
    straight = write_cells(tmp_path / "straight.h5ad", "b", seed=3)
    with pytest.warns(UserWarning, match="1 genes of the data are not the model's"):
        assert command("encode", run, turned, "--out", tmp_path / "z.h5ad") == 0
    with pytest.warns(UserWarning, match="another order"):
        assert command("reconstruct", run, turned, "--out", tmp_path / "x.h5ad") == 0
    known = of_cells.matching(vae, anndata.read_h5ad(straight), layer="counts")
    assert known.y.tolist() == [1] * 40
    with torch.no_grad():
        mean, expected = vae.encode(known.x[:], known.y).mean, vae.reconstruct(known.x[:], known.y)
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "z.h5ad").obsm["X_vaekit"], mean)
    layer = anndata.read_h5ad(tmp_path / "x.h5ad").layers["vaekit_reconstruction"]
    assert np.isnan(layer[:, 0]).all()
    np.testing.assert_allclose(layer[:, :0:-1], expected, rtol=1e-5)


def test_an_unseen_batch_and_genes_that_are_missing_are_told(run, tmp_path, capsys):
    unseen = write_cells(tmp_path / "unseen.h5ad", "c")
    assert command("encode", run, unseen, "--out", tmp_path / "z.h5ad") == 2
    assert "not trained on batch c, but on a, b; vaekit.cells.adapt" in capsys.readouterr().err
    few = write_cells(tmp_path / "few.h5ad", genes=GENES[2:])
    assert command("score", run, few, "--out", tmp_path / "z.h5ad") == 2
    assert "2 of the model's 7 genes are not in the data (g0, g1)" in capsys.readouterr().err
    assert not (tmp_path / "z.h5ad").exists()


def test_samples_are_cells_of_the_batch_that_was_asked_for(run, vae, tmp_path):
    out = tmp_path / "samples.h5ad"
    assert command("sample", run, "--count", 3, "--condition", "b", "--draw", "--seed", 4, "--out", out) == 0
    samples = anndata.read_h5ad(out)
    np.testing.assert_array_equal(samples.X, vae.sample(3, "b", draw=True, key=vaekit.make_key(4)))
    assert samples.var_names.tolist() == GENES
    assert samples.obs["batch"].tolist() == ["b"] * 3


def test_what_cannot_be_written_so_is_refused(run, path, tmp_path, capsys):
    assert command("encode", run, path, "--out", path) == 2
    assert "is there already" in capsys.readouterr().err
    assert command("impute", run, path, "--out", tmp_path / "x.h5ad") == 2
    assert "--out takes" in capsys.readouterr().err


def test_what_is_there_is_replaced_where_that_is_asked_for(run, path, tmp_path):
    own = write_cells(tmp_path / "own.h5ad")
    for _ in range(2):
        assert command("encode", run, own, "--out", own, "--overwrite") == 0
    assert sorted(anndata.read_h5ad(own).obsm) == ["X_vaekit", "X_vaekit_deviation"]


def test_a_layer_that_is_missing_is_named_without_quotes_around_the_sentence(run, path, mistake):
    message = mistake("score", run, path, "--read", "layer=absent", "--out", path.with_name("scores.h5ad"))
    assert message.startswith("there is no layer 'absent'; there are: ")

"""What a model says of cells: names matched, numbers written where they belong, changes found, unseen batches learned alone."""

import functools

import anndata
import numpy as np
import pandas
import pytest
import torch
from helpers.commands import QUICK, command
from scipy import sparse

import vaekit
from vaekit import cells as of_cells
from vaekit import runs
from vaekit.cells.change import _drawn_shares

GENES = 12
RNG = np.random.default_rng(0)
PROFILES = RNG.dirichlet(np.full(GENES, 5.0), 2)
PROFILES[1, :2] = PROFILES[0, :2] * [4.0, 0.25]  # the two genes that change
PROFILES[1, 2:] = PROFILES[0, 2:]
PROFILES /= PROFILES.sum(1, keepdims=True)
EFFECTS = {
    "a": np.ones(GENES),
    "b": np.where(np.arange(GENES) % 3 == 0, 2.0, 1.0),
    "c": np.where(np.arange(GENES) % 3 == 1, 4.0, 1.0),
}


def simulated(batches, n=300, seed=1) -> anndata.AnnData:
    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(2, size=n), rng.choice(list(batches), n)
    share = PROFILES[kind] * np.stack([EFFECTS[name] for name in batch])
    share /= share.sum(1, keepdims=True)
    counts = rng.poisson(share * rng.uniform(150, 500, (n, 1))).astype(np.float32)
    obs = pandas.DataFrame({"kind": np.array(["first", "second"])[kind], "batch": batch}, index=[f"c{i}" for i in range(n)])
    made = anndata.AnnData(sparse.csr_matrix(counts), obs=obs)
    made.var_names = [f"g{i}" for i in range(GENES)]
    return made


def trained(**options) -> vaekit.VAE:
    data = vaekit.data.as_examples(simulated("ab"), batch="batch", label="kind")
    networks = {"encoder": {"hidden": (16,), "dropout": 0.0}, "decoder": {"hidden": (16,)}, "seed": 0, **options}
    vae = of_cells.create_vae(data, latent_dim=2, likelihood={"counts": "poisson"}, **networks)
    vaekit.fit(vae, data, epochs=40, batch_size=50, learning_rate=1e-2, progress=False)
    return vae


@pytest.fixture(scope="module")
def vae():
    return trained()


def test_names_are_saved_with_the_model(vae, tmp_path):
    again = vaekit.load(vae.save(tmp_path))
    assert again.likelihood.features == tuple(f"g{i}" for i in range(GENES))
    assert (again.condition.names, again.condition.column) == (("a", "b"), "batch")


def test_the_command_keeps_the_names_too(tmp_path):
    path = tmp_path / "cells.h5ad"
    simulated("ab", n=60).write_h5ad(path)
    settings = {"data": str(path), "preset": "single-cell", "seed": 0, "latent_dim": 2, "reading": {"batch": "batch"}}
    run = runs.Run.prepare(settings, progress=False)
    assert run.vae.likelihood.features == tuple(f"g{i}" for i in range(GENES))
    assert (run.vae.condition.names, run.vae.condition.column) == (("a", "b"), "batch")
    again = runs.Run.prepare(run.settings, progress=False)  # as a run that goes on
    assert again.settings == run.settings
    of_cells.embed(simulated("ab", n=10), run.vae)
    other = runs.Run.prepare({**settings, "likelihood": "poisson", "reading": {}}, progress=False)
    assert other.vae.condition is None


def test_genes_are_matched_by_name(vae):
    adata = simulated("ba", n=20)
    straight = of_cells.matching(vae, adata)
    with pytest.warns(UserWarning, match="another order"):
        turned = of_cells.matching(vae, adata[:, ::-1].copy())
    assert torch.equal(turned.x[:], straight.x[:])
    assert torch.equal(turned.y, straight.y)
    more = anndata.concat([adata, adata[:, :1].copy()[:, [0]]], axis=1, merge="first", index_unique=None)
    more.var_names = [*adata.var_names, "other"]
    with pytest.warns(UserWarning, match="1 genes of the data are not the model's"):
        assert torch.equal(of_cells.matching(vae, more).x[:], straight.x[:])


def test_genes_that_are_missing_are_told(vae):
    few = simulated("ab", n=20)[:, 3:].copy()
    with pytest.raises(ValueError, match=r"3 of the model's 12 genes are not in the data \(g0, g1, g2"):
        of_cells.matching(vae, few)
    with pytest.warns(UserWarning, match="taken as 0"):
        taken = of_cells.matching(vae, few, missing_genes="zero")
    assert not taken.x[:][:, :3].any()
    assert np.array_equal(taken.x[:][:, 3:].numpy(), few.X.toarray())


def test_batches_are_matched_by_name_and_an_unseen_one_is_told(vae):
    only_b = simulated("b", n=10)
    assert of_cells.matching(vae, only_b).y.tolist() == [1] * 10
    with pytest.raises(ValueError, match="not trained on batch c, but on a, b; vaekit.cells.adapt"):
        of_cells.matching(vae, simulated("ac", n=20))
    with pytest.raises(ValueError, match="does not know the names of its genes"):
        of_cells.matching(vaekit.create_vae("single-cell", input_shape=(GENES,)), only_b)


@pytest.mark.parametrize("held", ["sparse", "dense"])
def test_cells_are_what_they_are_by_name_wherever_a_model_takes_them(vae, held):
    only_b = simulated("b", n=20)
    if held == "dense":
        only_b.X = only_b.X.toarray()
    straight = vae.score(of_cells.matching(vae, only_b), samples=10).log_likelihood
    turned = vaekit.data.as_examples(only_b[:, ::-1].copy(), batch="batch")
    assert turned.y.tolist() == [0] * 20  # the only batch there is
    with pytest.warns(UserWarning, match="another order"):
        scored = vae.score(turned, samples=10).log_likelihood
    torch.testing.assert_close(scored, straight)
    with pytest.raises(ValueError, match="not trained on batch c, but on a, b"):
        vae.score(vaekit.data.as_examples(simulated("c", n=5), batch="batch"))
    with pytest.raises(ValueError, match="3 of the model's 12 genes are not in the data"):
        vae.score(vaekit.data.as_examples(only_b[:, 3:].copy(), batch="batch"))


def test_several_conditions_are_found_by_the_names_of_their_columns():
    adata = simulated("ab", n=40)
    adata.obs["age"], adata.obs["reads"] = np.linspace(-1, 1, 40), np.arange(40.0)
    told = {"batch": "batch", "covariates": ["age", "kind", "reads"]}
    vae = of_cells.create_vae(vaekit.data.as_examples(adata, **told), latent_dim=2, likelihood={"counts": "poisson"}, seed=0)
    some = adata[adata.obs["kind"] == "second"].copy()
    straight = vae.score(of_cells.matching(vae, some), samples=5).log_likelihood
    other = vaekit.data.as_examples(some, batch="kind", covariates=["reads", "batch", "age"])
    torch.testing.assert_close(vae.score(other, samples=5).log_likelihood, straight)
    with pytest.raises(ValueError, match=r"told the numbers 'reads' of each cell, these were read with 'batch'.*matching"):
        vae.score(vaekit.data.as_examples(some, batch="batch", covariates=["age", "kind"]))


def test_latents_and_expression_are_written_where_they_belong(vae):
    adata = simulated("ab", n=30)
    of_cells.embed(adata, vae, key="Z")
    cells = of_cells.matching(vae, adata)
    means = vae.encode(cells.x[:]).mean
    np.testing.assert_allclose(adata.obsm["Z"], means.detach(), rtol=1e-5)
    of_cells.normalize(adata, vae, into="shares", size=1.0)
    of_cells.normalize(adata, vae, into="of b", batch="b")
    np.testing.assert_allclose(adata.layers["shares"].sum(1), 1.0, rtol=1e-5)
    expected = torch.softmax(vae.natural_parameters(means, torch.ones(30).long())[:, 0], 1) * 1e4
    np.testing.assert_allclose(adata.layers["of b"], expected.detach(), rtol=1e-4)
    is_b = (adata.obs["batch"] == "b").to_numpy()
    np.testing.assert_allclose(adata.layers["of b"][is_b], 1e4 * adata.layers["shares"][is_b], rtol=1e-4)
    turned = adata[:, ::-1].copy()
    with pytest.warns(UserWarning, match="another order"):
        of_cells.normalize(turned, vae, into="shares", size=1.0)
    np.testing.assert_allclose(turned.layers["shares"][:, ::-1], adata.layers["shares"], rtol=1e-5)


def test_expression_as_of_a_batch_changes_the_batch_and_no_covariate():
    adata = simulated("ab", n=30)
    adata.obs["age"] = np.linspace(-1, 1, 30)
    labels = {"name": "labels", "classes": 2, "names": ["a", "b"], "column": "batch"}
    condition = [{"name": "vector", "size": 1, "names": ["age"]}, labels]
    data = vaekit.data.as_examples(adata, batch="batch")
    vae = of_cells.create_vae(data, latent_dim=2, condition=condition, likelihood={"counts": "poisson"}, seed=0).eval()
    of_cells.normalize(adata, vae, into="b", batch="b", size=1.0)
    cells = of_cells.matching(vae, adata)
    told = torch.stack([torch.linspace(-1, 1, 30), torch.ones(30)], 1)
    expected = torch.softmax(vae.natural_parameters(vae.encode(cells.x[:]).mean, told)[:, 0], 1)
    np.testing.assert_allclose(adata.layers["b"], expected.detach(), rtol=1e-4)


def test_the_genes_that_change_are_found_with_the_size_of_their_change(vae):
    table = of_cells.differential_expression(simulated("ab"), vae, "kind", "second", "first", delta=1.0, draws=2000)
    assert set(table.index[:2]) == {"g0", "g1"}
    assert list(table.index[table["is_changed"]]) == list(table.index[:2])
    truth = np.log2(PROFILES[1] / PROFILES[0])
    np.testing.assert_allclose(table.loc[["g0", "g1"], "log2_change"], truth[:2], atol=0.4)
    other = of_cells.differential_expression(simulated("ab"), vae, "kind", "second", delta=1.0, draws=2000)
    pandas.testing.assert_frame_equal(table, other)  # "all others" are the first here
    turned = of_cells.differential_expression(simulated("ab"), vae, "kind", "first", "second", draws=2000)
    np.testing.assert_allclose(turned.loc[table.index, "log2_change"], -table["log2_change"], atol=0.1)
    with pytest.raises(ValueError, match="no cells whose kind is third; there are: first, second"):
        of_cells.differential_expression(simulated("ab"), vae, "kind", "third")


def test_draws_that_disagree_on_the_direction_are_no_evidence_of_a_change(vae):
    """A group against itself, with a least change that every pair of draws is beyond: half of them are above, half below."""
    table = of_cells.differential_expression(simulated("ab"), vae, "kind", "first", "first", delta=1e-9, draws=2000)
    np.testing.assert_allclose(table["probability"], 0.5, atol=0.05)  # standard error 0.011


def test_the_pseudocount_is_what_genes_come_to_that_were_hardly_counted(vae):
    """Against itself a gene has no change on average; with a pseudocount far above its share it has none in any draw."""
    adata = simulated("ab")
    counts = adata.X.toarray()
    counts[:, 2:4] = 0.0
    counts[0, 2] = 1.0  # of 300 cells: less than 0.01 in each
    adata.X = counts
    call = functools.partial(of_cells.differential_expression, adata, vae, "kind", "first", "second", draws=500)
    shares = _drawn_shares(
        vae,
        of_cells.matching(vae, adata),
        torch.from_numpy((adata.obs["kind"] == "first").to_numpy().nonzero()[0]),
        500,
        vaekit.make_key(0, 0),
    )
    others = _drawn_shares(
        vae,
        of_cells.matching(vae, adata),
        torch.from_numpy((adata.obs["kind"] == "second").to_numpy().nonzero()[0]),
        500,
        vaekit.make_key(0, 1),
    )
    expected = max(np.quantile(part.amax(0)[2:4], 0.9) for part in (shares, others)) / GENES
    pandas.testing.assert_frame_equal(call(), call(pseudocount=expected), check_exact=False, rtol=1e-5)
    assert not call(pseudocount=100.0)["probability"].any()


@pytest.mark.parametrize("options", [{}, {"dim": 3}], ids=["one-hot", "learned"])
@pytest.mark.parametrize("told", [0, None], ids=["decoder", "both"])
def test_an_unseen_batch_is_learned_and_nothing_else_moves(options, told):
    condition = {"name": "labels", "classes": 2, "names": ["a", "b"], "column": "batch", **options}
    encoder = {"hidden": (16,), "dropout": 0.5} if told == 0 else {"name": "mlp", "hidden": (16,)}
    vae = trained(condition=condition, encoder=encoder)
    unseen = simulated("c", seed=5)
    grown = of_cells.adapt(vae, unseen, epochs=30)
    assert grown.condition.names == ("a", "b", "c")
    known, own = simulated("ab", n=30), of_cells.matching(grown, unseen)
    before, after = (of_cells.matching(one, known) for one in (vae, grown))
    torch.testing.assert_close(
        grown.reconstruct(after.x[:], after.y), vae.reconstruct(before.x[:], before.y), rtol=1e-4, atol=1e-4
    )
    for name, value in grown.state_dict().items():
        old = vae.state_dict()[name]
        if old.shape == value.shape:
            assert torch.equal(old, value), name
        else:
            kept = value[: len(old)] if options else value[..., : old.shape[-1]]
            assert torch.equal(kept, old), name
    nll = [float(grown(own.x[:], number, key=vaekit.make_key(0)).reconstruction.detach().mean()) for number in range(3)]
    assert nll[2] < min(nll[:2]) - 1.0
    assert all(parameter.requires_grad for parameter in grown.parameters())
    with pytest.raises(ValueError, match="knows all of batch"):
        of_cells.adapt(vae, known)


def test_an_unseen_batch_beside_covariates_is_put_in_its_place():
    adata = simulated("ab")
    adata.obs["age"] = np.linspace(-1, 1, 300)
    data = vaekit.data.as_examples(adata, batch="batch", covariates=["kind", "age"])
    vae = of_cells.create_vae(data, latent_dim=2, decoder={"hidden": (16,)}, likelihood={"counts": "poisson"}, seed=0).eval()
    unseen = simulated("ac", n=60)
    unseen.obs["age"] = 0.5
    grown = of_cells.adapt(vae, unseen, epochs=1)
    z, rows = torch.randn(4, 2), torch.tensor([[0.0, 1.0, 0.3], [1.0, 0.0, -0.2], [1.0, 1.0, 0.1], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(grown.decode(z, rows), vae.decode(z, rows))
    assert of_cells.matching(grown, unseen).y[:, 0].unique().tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda adata, vae: of_cells.create_vae(adata), TypeError, r"as_examples\(adata, batch=...\) gives, got AnnData"),
        (lambda adata, vae: of_cells.embed(vae, adata), TypeError, "got AnnData; it comes after adata"),
        (lambda adata, vae: of_cells.adapt(adata, vae), TypeError, "got AnnData; it comes after adata"),
        (lambda adata, vae: vae.score(adata), ValueError, r"told 'batch' of each cell.*without; vaekit.cells.matching"),
        (lambda adata, vae: vaekit.fit(vae, adata, epochs=1), ValueError, r"told 'batch' of each cell"),
        (lambda adata, vae: vaekit.data.as_examples(adata, covariates="kind"), TypeError, r"got 'kind'; \['kind'\] is one"),
        (
            lambda adata, vae: vaekit.data.as_examples(adata, batch="kind", covariates=["kind"]),
            ValueError,
            "'kind' is named twice",
        ),
        (lambda adata, vae: vaekit.data.as_examples(adata[:0].copy()), ValueError, "no cells in the data"),
        (
            lambda adata, vae: of_cells.adapt(of_cells.create_vae(vaekit.data.as_examples(adata), latent_dim=2), adata),
            ValueError,
            "knows no batch; make it of cells that were read with batch=",
        ),
    ],
)
def test_a_wrong_call_is_told_what_to_do(vae, call, error, words):
    with pytest.raises(error, match=words):
        call(simulated("ab", n=20), vae)


@pytest.mark.parametrize("change", [np.log1p, lambda x: x / 2.0, lambda x: x - 100.0], ids=["logarithms", "shares", "centred"])
def test_what_are_no_counts_is_told_where_they_may_be(vae, change):
    adata = simulated("ab", n=20)
    adata.layers["counts"], adata.X = adata.X, change(adata.X.toarray())
    read = vaekit.data.as_examples(adata, batch="batch")
    for call in (
        lambda: of_cells.embed(adata, vae),
        lambda: vae.score(read, samples=2),
        lambda: vaekit.fit(of_cells.create_vae(read, latent_dim=2), read, epochs=1, progress=False),
    ):
        with pytest.raises(ValueError, match=r'models counts 0, 1, 2.*layer="counts", the layer of that name'):
            call()
    of_cells.embed(adata, vae, layer="counts")


def test_the_command_trains_on_cells_without_a_word_about_the_model(tmp_path):
    adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (60, 8)).astype(np.float32))
    adata.var_names, adata.obs["batch"] = [f"g{number}" for number in range(8)], ["a", "b"] * 30
    adata.write_h5ad(tmp_path / "cells.h5ad")
    assert command("train", tmp_path / "cells.h5ad", "--read", "batch=batch", *QUICK, "--out", tmp_path / "run") == 0
    vae = vaekit.load(tmp_path / "run" / "best")
    assert vae.likelihood.features == tuple(adata.var_names)
    assert type(vae.likelihood).__name__ == "LibrarySize"

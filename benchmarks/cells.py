"""Single cells: vaekit beside scvi-tools' SCVI on its own terms: the same networks, optimizer, batches and number of epochs.

Both have 128 hidden units, 10 latent dimensions, dropout 0.1 in the encoder, a negative binomial or a zero-inflated one with a
dispersion for each gene, the observed library size, and Adam with eps 0.01 and weight decay 1e-6 as SCVI sets them; the
divergence has its full weight from the first step. "layer" and "batch" are the normalisations; SCVI's batch normalisation has
momentum 0.01 and eps 0.001.

- log p: mean importance-weighted bound of held-out cells, nats, by one formula in float64 for both.
- ARI: k-means of the latents against the cell types. mixing: the share of a cell's 30 neighbours that is of other batches, over
  what it is in all cells: 1 is perfect.
- AUROC: the probability of a change against the genes that were simulated to change, over the first two types.
- transfer: accuracy of the types of an unseen batch, by 15 neighbours in the reference, after it was mapped onto a model that
  tells its encoder the batch and has layer normalisation, for a quarter of the epochs; log p unseen: of its cells then.

"difference" is that of the two within each seed, which has data of its own.

With --seconds nothing but the time of an epoch is measured: both in one process in turn, without what a call of `train` costs
by itself.

benchmarks/cells_witness.py shows that log p is one measure for both.

Data: "iid" is scvi.data.synthetic_iid; "simulated" has types, batches and changes that are known; "pbmc" is scanpy's
pbmc68k_reduced, whose logarithms are taken back to counts (the smallest of each cell is 1).

    python benchmarks/cells.py --data pbmc iid --epochs 100 --seeds 3 --csv cells.csv
    python benchmarks/cells.py --data simulated --epochs 60 --seeds 3 --csv simulated.csv
    python benchmarks/cells.py --seconds
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import header, interleaved, mean_and_deviation, ratios, spread, table, write_csv

try:
    import anndata
    import numpy as np
    import pandas
    import scanpy
    import scvi
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, roc_auc_score
    from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
except ModuleNotFoundError as error:
    sys.exit(f"{error}; install what this benchmark compares with: pip install scvi-tools scanpy 'vaekit[cells]'")

import torch

import vaekit

Array = Any
DRAWS = 100
ADAM = {"eps": 0.01, "weight_decay": 1e-6}
LIKELIHOODS = {"zinb": "zero_inflated_negative_binomial", "nb": "negative_binomial"}


@dataclass
class Problem:
    """Cells of known types, those of an unseen batch, and which genes change between the first two types."""

    known: anndata.AnnData
    unseen: anndata.AnnData | None = None
    changed: Array | None = None


def iid(seed: int) -> Problem:
    scvi.settings.seed = seed
    made = scvi.data.synthetic_iid()
    return Problem(annotated(made.X, made.obs["batch"].astype(str).to_numpy(), made.obs["labels"].astype(str).to_numpy()))


def simulated(seed: int, cells: int = 3000, genes: int = 500, types: int = 5) -> Problem:
    """Negative binomial counts: the profile of a type changes a tenth of the genes, each of three batches has an effect."""
    rng = np.random.default_rng(seed)
    base = rng.gamma(0.6, 1.0, genes) + 0.05
    changes = (rng.random((types, genes)) < 0.1) * rng.normal(0.0, 1.0, (types, genes))
    effects = rng.normal(0.0, 0.4, (3, genes))
    kind, batch = rng.integers(types, size=cells), rng.integers(3, size=cells)
    share = base * np.exp(changes[kind] + effects[batch])
    share /= share.sum(1, keepdims=True)
    mean = share * rng.lognormal(np.log(1500.0), 0.4, (cells, 1))
    theta = rng.gamma(2.0, 2.0, genes) + 0.2
    counts = rng.poisson(mean * rng.gamma(theta, 1.0 / theta, mean.shape)).astype(np.float32)
    made = annotated(counts, np.array(["a", "b", "c"])[batch], np.array([f"type {k}" for k in range(types)])[kind])
    is_changed = np.abs(changes[0] - changes[1]) > 0.25 * np.log(2.0)
    return Problem(made[batch < 2].copy(), made[batch == 2].copy(), is_changed)


def pbmc(seed: int) -> Problem:
    made = scanpy.datasets.pbmc68k_reduced()
    values = np.expm1(made.raw.X.toarray().astype(np.float64))
    counts = (values / np.where(values > 0, values, np.inf).min(1, keepdims=True)).round().astype(np.float32)
    return Problem(annotated(counts, np.full(len(counts), "one"), made.obs["bulk_labels"].astype(str).to_numpy()))


PROBLEMS: dict[str, Callable[[int], Problem]] = {"iid": iid, "simulated": simulated, "pbmc": pbmc}


def annotated(counts: Array, batch: Array, kind: Array) -> anndata.AnnData:
    counts = counts.toarray() if hasattr(counts, "toarray") else np.asarray(counts)
    obs = pandas.DataFrame({"batch": pandas.Categorical(batch), "kind": pandas.Categorical(kind)}).set_index(
        pandas.Index([f"c{i}" for i in range(len(counts))])
    )
    made = anndata.AnnData(counts.astype(np.float32), obs=obs)
    made.var_names = [f"g{i}" for i in range(counts.shape[1])]
    return made


@dataclass
class Vaekit:
    """vaekit with the preset's layer normalisation, or with batch normalisation as SCVI has it by default."""

    likelihood: str
    normalization: str
    tells_encoder: bool = False
    vae: Any = None
    initialize_output_bias: bool = False

    def compose(self, cells: vaekit.data.Cells, seed: int) -> None:
        hidden = {"hidden": (128,), "normalization": self.normalization}
        encoder = {"name": "mlp", "dropout": 0.1, **hidden, **({} if self.tells_encoder else {"condition_dim": 0})}
        counts = {"name": LIKELIHOODS[self.likelihood], "dispersion": "feature"}
        self.vae = vaekit.cells.create_vae(
            cells, encoder=encoder, decoder={"name": "mlp", **hidden}, likelihood={"counts": counts}, seed=seed
        )

    def train(self, adata: anndata.AnnData, epochs: int, seed: int) -> float:
        cells = vaekit.data.as_examples(adata, batch="batch")
        self.compose(cells, seed)
        start = time.perf_counter()
        vaekit.fit(
            self.vae,
            cells,
            epochs=epochs,
            batch_size=128,
            learning_rate=1e-3,
            optimizer={"name": "adam", **ADAM},
            seed=seed,
            device="cpu",
            progress=False,
            initialize_output_bias=self.initialize_output_bias,
        )
        return time.perf_counter() - start

    def latents(self, adata: anndata.AnnData) -> Array:
        vaekit.cells.embed(adata, self.vae, key="Z")
        return adata.obsm["Z"]

    @torch.no_grad()
    def encoded(self, adata: anndata.AnnData) -> tuple[torch.Tensor, torch.Tensor]:
        cells = vaekit.cells.matching(self.vae, adata)
        posterior = self.vae.encode(cells.x[:], cells.y)
        return posterior.mu, (0.5 * posterior.logvar).exp()

    @torch.no_grad()
    def decoded(self, z: torch.Tensor, adata: anndata.AnnData) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        cells = vaekit.cells.matching(self.vae, adata)
        parameters = self.vae.natural_parameters(z, cells.y).double()
        log_mean = parameters[:, 0].log_softmax(1) + cells.x[:].double().sum(1, keepdim=True).log()
        log_theta = self.vae.likelihood.counts.log_theta.double()
        return log_mean, log_theta, parameters[:, 1] if self.likelihood == "zinb" else None

    def changes(self, adata: anndata.AnnData, first: str, second: str) -> Array:
        found = vaekit.cells.differential_expression(adata, self.vae, "kind", first, second)
        return found["probability"].reindex(adata.var_names).to_numpy()

    def adapted(self, adata: anndata.AnnData, epochs: int) -> Vaekit:
        vae = vaekit.cells.adapt(self.vae, adata, epochs=epochs)
        return Vaekit(self.likelihood, self.normalization, self.tells_encoder, vae)


@dataclass
class Scvi:
    """scvi-tools' SCVI, whose encoder is not told the batch unless it has to map an unseen one.

    `prepare` may change the module before it is trained on the cells.
    """

    likelihood: str
    normalization: str
    tells_encoder: bool = False
    model: Any = None
    prepare: Callable[[Any, anndata.AnnData], None] = lambda module, adata: None
    epochs_of_warm_up: int | None = None

    def train(self, adata: anndata.AnnData, epochs: int, seed: int) -> float:
        scvi.settings.seed = seed
        own = adata.copy()
        scvi.model.SCVI.setup_anndata(own, batch_key="batch")
        norms = {
            name: "both" if name.startswith(f"use_{self.normalization}") else "none"
            for name in ("use_batch_norm", "use_layer_norm")
        }
        self.model = scvi.model.SCVI(own, gene_likelihood=self.likelihood, encode_covariates=self.tells_encoder, **norms)
        self.prepare(self.model.module, adata)
        start = time.perf_counter()
        self.model.train(
            max_epochs=epochs,
            accelerator="cpu",
            batch_size=128,
            train_size=1.0,
            plan_kwargs={"n_epochs_kl_warmup": self.epochs_of_warm_up},
            enable_progress_bar=False,
            logger=False,
            enable_checkpointing=False,
        )
        return time.perf_counter() - start

    def _registered(self, adata: anndata.AnnData) -> anndata.AnnData:
        own = adata.copy()
        self.model.adata_manager.transfer_fields(own, extend_categories=False)
        return own

    def latents(self, adata: anndata.AnnData) -> Array:
        return self.model.get_latent_representation(self._registered(adata))

    def encoded(self, adata: anndata.AnnData) -> tuple[torch.Tensor, torch.Tensor]:
        mean, variance = self.model.get_latent_representation(self._registered(adata), return_dist=True)
        return torch.from_numpy(mean), torch.from_numpy(variance).sqrt()

    @torch.no_grad()
    def decoded(self, z: torch.Tensor, adata: anndata.AnnData) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        module = self.model.module.eval()
        levels = list(self.model.adata_manager.get_state_registry("batch").categorical_mapping)
        batch = torch.tensor([levels.index(name) for name in adata.obs["batch"]])[:, None]
        library = torch.from_numpy(adata.X).sum(1, keepdim=True).log()
        px = module.generative(z, library, batch)["px"]
        logits = px.zi_logits.double() if self.likelihood == "zinb" else None
        return px.mu.double().log(), px.theta.double().log(), logits

    def marginal_ll(self, adata: anndata.AnnData, draws: int) -> float:
        each = self.model.get_marginal_ll(self._registered(adata), n_mc_samples=draws, return_mean=False)
        return float(each.mean())  # of all cells; its own is a mean of the means of batches, the last of which is smaller

    def changes(self, adata: anndata.AnnData, first: str, second: str) -> Array:
        found = self.model.differential_expression(
            self._registered(adata),
            groupby="kind",
            group1=first,
            group2=second,
            mode="change",
            batch_correction=True,
            silent=True,
        )
        return found["proba_de"].reindex(adata.var_names).to_numpy()

    def adapted(self, adata: anndata.AnnData, epochs: int) -> Scvi:
        model = scvi.model.SCVI.load_query_data(adata.copy(), self.model)
        model.train(
            max_epochs=epochs,
            accelerator="cpu",
            batch_size=128,
            train_size=1.0,
            plan_kwargs={"weight_decay": 0.0, "n_epochs_kl_warmup": None},
            enable_progress_bar=False,
            logger=False,
            enable_checkpointing=False,
        )
        return Scvi(self.likelihood, self.normalization, self.tells_encoder, model)


KINDS: dict[str, type[Vaekit] | type[Scvi]] = {"vaekit": Vaekit, "scvi-tools": Scvi}


def log_p(contender: Vaekit | Scvi, adata: anndata.AnnData, seed: int) -> float:
    """The mean importance-weighted bound of log p(x), in nats, by the textbook's formula in float64."""
    x = torch.from_numpy(adata.X).double()
    generator = torch.Generator().manual_seed(seed)
    mu, sigma = contender.encoded(adata)
    normal, standard = torch.distributions.Normal(mu.double(), sigma.double()), torch.distributions.Normal(0.0, 1.0)
    weights = []
    for _ in range(DRAWS):
        z = mu + sigma * torch.randn(mu.shape, generator=generator)
        log_mean, log_theta, logits = contender.decoded(z, adata)
        theta = log_theta.exp()
        log_sum = torch.logaddexp(log_theta.expand_as(log_mean), log_mean)
        counted = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1) + theta * (log_theta - log_sum)
        counted = counted + x * (log_mean - log_sum)
        if logits is not None:
            kept = torch.nn.functional.logsigmoid(-logits) + counted
            counted = torch.where(x == 0, torch.logaddexp(torch.nn.functional.logsigmoid(logits), kept), kept)
        ratio = (standard.log_prob(z.double()) - normal.log_prob(z.double())).sum(1)
        weights.append(counted.sum(1) + ratio)
    return float((torch.stack(weights).logsumexp(0) - np.log(DRAWS)).mean())


def mixing(latents: Array, batch: Array, neighbours: int = 30) -> float:
    found = NearestNeighbors(n_neighbors=neighbours + 1).fit(latents).kneighbors(latents, return_distance=False)[:, 1:]
    others = (batch[found] != batch[:, None]).mean()
    expected = 1.0 - sum((batch == one).mean() ** 2 for one in np.unique(batch))
    return float(others / expected)


def divided(adata: anndata.AnnData, seed: int) -> tuple[anndata.AnnData, anndata.AnnData]:
    """Nine tenths, and one."""
    test, train = np.split(np.random.default_rng(seed).permutation(adata.n_obs), [adata.n_obs // 10])
    return adata[np.sort(train)].copy(), adata[np.sort(test)].copy()


def be_quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def scores(problem: Problem, contender: Vaekit | Scvi, epochs: int, seed: int) -> dict[str, float]:
    """All figures of one contender with one seed."""
    trained, held_out = divided(problem.known, seed)
    contender.train(trained, epochs, seed)
    found = {"log p": log_p(contender, held_out, seed)}
    latents, kinds = contender.latents(problem.known.copy()), problem.known.obs["kind"].to_numpy()
    clusters = KMeans(len(np.unique(kinds)), n_init=10, random_state=seed).fit_predict(latents)
    found["ARI"] = adjusted_rand_score(kinds, clusters)
    batch = problem.known.obs["batch"].to_numpy()
    if len(np.unique(batch)) > 1:
        found["mixing"] = mixing(latents, batch)
    if problem.changed is not None:
        found["AUROC"] = roc_auc_score(problem.changed, contender.changes(problem.known.copy(), "type 0", "type 1"))
    if problem.unseen is not None and contender.normalization == "layer":
        told = type(contender)(contender.likelihood, "layer", tells_encoder=True)
        told.train(trained, epochs, seed)
        reference, mapped = told.latents(trained.copy()), told.adapted(problem.unseen.copy(), max(epochs // 4, 1))
        neighbours = KNeighborsClassifier(15).fit(reference, trained.obs["kind"].to_numpy())
        found["transfer"] = neighbours.score(mapped.latents(problem.unseen.copy()), problem.unseen.obs["kind"].to_numpy())
        found["log p unseen"] = log_p(mapped, problem.unseen, seed)
    return found


HEAD = ("data", "likelihood", "normalization", "epochs", "model")
FIGURES = ("log p", "ARI", "mixing", "AUROC", "transfer", "log p unseen")


def seconds_an_epoch(contender: Vaekit | Scvi, adata: anndata.AnnData, epochs: int = 6) -> float:
    """Of training, without what a call costs however long it trains."""
    return (contender.train(adata, epochs + 1, 0) - contender.train(adata, 1, 0)) / epochs


def print_seconds(data: Sequence[str], likelihoods: Sequence[str], normalizations: Sequence[str], rounds: int = 5) -> None:
    rows: list[tuple[object, ...]] = [(*HEAD[:3], *KINDS, "vaekit / scvi-tools")]
    for name, likelihood, normalization in itertools.product(data, likelihoods, normalizations):
        known = PROBLEMS[name](0).known
        contenders = {kind: cls(likelihood, normalization) for kind, cls in KINDS.items()}
        found = interleaved({kind: functools.partial(seconds_an_epoch, each, known) for kind, each in contenders.items()}, rounds)
        ours, theirs = (found[kind] for kind in KINDS)
        figures = (spread(ours, digits=3), spread(theirs, digits=3), spread(ratios(ours, theirs)))
        rows.append((name, likelihood, normalization, *figures))
    print(table(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=tuple(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--likelihood", nargs="+", choices=tuple(LIKELIHOODS), default=["zinb", "nb"])
    parser.add_argument("--normalization", nargs="+", choices=("layer", "batch"), default=["batch", "layer"])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--csv", type=Path, help="the table, with mean and standard deviation over the seeds")
    parser.add_argument("--seconds", action="store_true", help="measure the time of an epoch alone")
    options = parser.parse_args(arguments)
    be_quiet()
    measured = (
        "seconds an epoch: median (quartiles)"
        if options.seconds
        else f"{options.epochs} epochs, {options.seeds} seeds: mean (standard deviation)"
    )
    print(header(), f"scvi-tools {scvi.__version__}; {measured}", sep="\n")
    if options.seconds:
        print_seconds(options.data, options.likelihood, options.normalization)
        return
    rows: list[tuple[object, ...]] = [(*HEAD, *FIGURES)]
    for data, likelihood, normalization in itertools.product(options.data, options.likelihood, options.normalization):
        found: dict[str, list[dict[str, float]]] = {name: [] for name in KINDS}
        for seed in range(options.seeds):
            problem = PROBLEMS[data](seed)
            for name in list(KINDS)[:: 1 if seed % 2 == 0 else -1]:
                found[name].append(scores(problem, KINDS[name](likelihood, normalization), options.epochs, seed))
        for name, each in found.items():
            figures = [mean_and_deviation([one[f] for one in each], 3) if f in each[0] else "" for f in FIGURES]
            rows.append((data, likelihood, normalization, options.epochs, name, *figures))
        pairs = list(zip(*found.values(), strict=True))
        gaps = [mean_and_deviation([a[f] - b[f] for a, b in pairs], 3) if f in pairs[0][0] else "" for f in FIGURES]
        rows.append((data, likelihood, normalization, options.epochs, "difference", *gaps))
        print(*rows[-3:], sep="\n", file=sys.stderr, flush=True)
        write_csv(options.csv, rows)  # what there is, should the rest be cut off
    print(table(rows))


if __name__ == "__main__":
    main()

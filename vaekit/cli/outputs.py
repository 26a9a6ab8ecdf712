"""`vaekit encode`, `impute` and `score`, and the numbers of `reconstruct` and `sample`: what a model makes of data, in files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from vaekit import data, evaluation, runs
from vaekit.cells import expression_of
from vaekit.cli.annotated import AnnotatedCells
from vaekit.cli.console import say
from vaekit.cli.elsewhere import is_whole_table
from vaekit.cli.filled import FileRows, Filling, as_stored, in_units
from vaekit.cli.options import ReadOption, RunArgument, SeedOption, WeightsOption
from vaekit.cli.written import KINDS, TABLES, Arrays, Target, target, write
from vaekit.data.cells import columns_of, is_cells_file, parts_of
from vaekit.evaluation.terms import on_device
from vaekit.inputs import checked_batches, column_names, named_as_trained, reading_of
from vaekit.likelihoods import LibrarySize
from vaekit.modes import evaluation_mode
from vaekit.ops import make_key
from vaekit.vae import VAE

_BATCH = 1000  # examples at a time

DataArgument = Annotated[
    str | None,
    typer.Argument(metavar="[DATA]", help="A dataset's name or path; by default what was held out when the run was trained."),
]
FileOption = Annotated[
    Any, typer.Option("--out", metavar="FILE", parser=target, help=f"Where to write, by the ending of its name: {KINDS}.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")]
SamplesOption = Annotated[int, typer.Option(help="Draws of z for each example, weighted by importance.", min=1)]


def encode(
    run: RunArgument,
    source: DataArgument = None,
    out: FileOption = ...,
    weights: WeightsOption = None,
    reading: ReadOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write the latents of data: the mean of q(z | x), and where it is known its standard deviation."""
    out.check(overwrite, (*TABLES, ".npy", ".npz", ".h5ad"))
    vae = runs.saved_model(run, weights)
    examples = read(run, vae, source, reading)
    names = _numbered("z", math.prod(vae.latent_shape))
    columns = {"mean": names, "standard_deviation": [f"{name} standard deviation" for name in names]}
    cells = cells_of(vae, run, source, examples, {"mean": "obsm/X_vaekit", "standard_deviation": "obsm/X_vaekit_deviation"})
    write(out, _encoded(vae, examples), columns, "mean", len(examples), (math.nan, math.nan), cells)
    _say_where(out, len(examples))


def impute(
    run: RunArgument,
    source: DataArgument = None,
    out: FileOption = ...,
    draws: Annotated[
        int | None,
        typer.Option(help="Write so many draws of what is missing instead of its mean: of a table a row for each.", min=1),
    ] = None,
    samples: SamplesOption = 500,
    weights: WeightsOption = None,
    reading: ReadOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Fill missing values, and leave all others as they are."""
    out.check(overwrite, (*TABLES, ".npy", ".npz", "/"))
    vae = runs.saved_model(run, weights)
    examples = read(run, vae, source, reading)
    filling = _filling(run, source, _options(run, vae, source, reading), examples) if out.is_table else None
    sizes: list[Tensor] = []

    def parts() -> Iterator[Arrays]:
        row = 0
        for part in evaluation.imputations(vae, examples, draws=draws, samples=samples, seed=seed):
            sizes.append(part.effective_sample_size)
            each = part.x[:, None] if part.draws is None else part.draws.transpose(0, 1).contiguous()  # [B, M, ...]
            arrays = as_stored(examples, row, each)
            in_rows: Arrays = filling(row, each) if filling else {"x": arrays.reshape(-1, *arrays.shape[2:])}
            if part.draws is None:
                yield in_rows
            elif out.is_table or out.kind == "/":
                numbers = torch.cartesian_prod(torch.arange(row, row + len(each)), torch.arange(each.shape[1]))
                if taken := {"row", "draw"} & set(in_rows):
                    raise ValueError(
                        f"--draws writes the columns row and draw, but DATA has {taken.pop()!r} too; rename it there"
                    )
                yield {"row": numbers[:, 0].numpy(), "draw": numbers[:, 1].numpy(), **in_rows}
            else:
                yield {"x": arrays, "effective_sample_size": part.effective_sample_size.numpy()}
            row += len(each)

    count = len(examples) * (draws or 1) if out.is_table or out.kind == "/" else len(examples)
    columns = {"x": column_names(vae, examples)}
    write(out, parts() if filling else _in_units(vae, parts(), out), columns, "x", count, limits_of(vae))
    size = torch.cat(sizes)
    _say_where(out, len(examples))
    say(
        f"effective sample size {float(size.nanmedian()):.1f} of {samples} (median), {float(size.nan_to_num(0.0).min()):.1f} at "
        "least; more --samples where it is small",
        error=True,
    )


def score(
    run: RunArgument,
    source: DataArgument = None,
    out: FileOption = ...,
    elements: Annotated[
        bool, typer.Option("--elements", help="Score each element as well, of a table each column: its nll, its surprise.")
    ] = False,
    share: Annotated[
        float | None,
        typer.Option(
            help="Mark as anomalies what scores below this share of the data that was held out when the run was trained: 0.05."
        ),
    ] = None,
    samples: SamplesOption = 500,
    weights: WeightsOption = None,
    reading: ReadOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Write how probable each example is: log p(x) by the importance-weighted bound, in nats."""
    out.check(overwrite, (*TABLES, ".npy", ".npz", ".h5ad"))
    vae = runs.saved_model(run, weights)
    examples = read(run, vae, source, reading)
    limit = None
    if share is not None:
        limit = evaluation.score(vae, runs.held_out_data(run), samples=samples, seed=seed).threshold(share)

    def parts() -> Iterator[Arrays]:
        for part in evaluation.scores(vae, examples, elements=elements, samples=samples, seed=seed):
            fields = {name: value for name, value in part._asdict().items() if value is not None}
            if limit is not None:
                fields["is_anomaly"] = part.log_likelihood < limit
            yield {name: value.numpy() for name, value in fields.items()}

    names = column_names(vae, examples)
    columns = {"element_nll": [f"{name} nll" for name in names], "surprise": [f"{name} surprise" for name in names]}
    of_cells = ("log_likelihood", "effective_sample_size", "is_anomaly")
    of_genes = {"element_nll": "layers/vaekit_nll", "surprise": "layers/vaekit_surprise"}
    cells = cells_of(vae, run, source, examples, {name: f"obs/vaekit_{name}" for name in of_cells} | of_genes)
    write(out, parts(), columns, "log_likelihood", len(examples), (math.nan, math.nan), cells)
    _say_where(out, len(examples))
    if limit is not None:
        say(f"anomalies have a log p(x) below {limit:.4f} nats", error=True)


def write_reconstructions(vae: VAE, run: runs.Where, source: str | None, examples: data.Examples, out: Target) -> None:
    """All examples reconstructed; of cells, the normalised expression as well."""
    cells = cells_of(vae, run, source, examples, {"x": "layers/vaekit_reconstruction", "expression": "layers/vaekit"})

    def parts() -> Iterator[Arrays]:
        for batch in on_device(vae, checked_batches(vae, examples, _BATCH)):
            arrays = {"x": vae.reconstruct(batch.x, batch.condition)}
            if out.kind == ".h5ad" and isinstance(vae.likelihood, LibrarySize):
                arrays["expression"] = expression_of(vae, batch)
            yield {name: values.cpu().numpy() for name, values in arrays.items()}

    columns = {"x": column_names(vae, examples)}
    write(out, _in_units(vae, parts(), out), columns, "x", len(examples), limits_of(vae), cells)
    _say_where(out, len(examples))


def write_samples(vae: VAE, count: int, rows: Tensor | None, draw: bool, seed: int, out: Target) -> None:
    """`count` samples, of a conditional model for each of its conditions."""
    condition = None if rows is None else rows.repeat_interleave(count, 0)
    total = count if condition is None else len(condition)
    made = vae.sample(total, condition, draw=draw, key=make_key(seed)).cpu().numpy()
    genes = _genes_of(vae)
    cells = None if genes is None else AnnotatedCells({"x": "X"}, genes, obs=_described(vae, condition))
    write(out, _in_units(vae, [{"x": made}], out), {"x": column_names(vae, None)}, "x", total, limits_of(vae), cells)
    _say_where(out, total)


def read(run: runs.Where, vae: VAE, source: str | None, reading: Sequence[str] | None) -> data.Examples:
    """DATA as --read says, or what was held out; with the model's classes and genes.

    Raises:
        ValueError: --read without DATA, or one that is no OPTION=VALUE.
    """
    options = _options(run, vae, source, reading)
    return named_as_trained(vae, runs.held_out_data(run) if source is None else data.load_test(source, **options))


def _options(run: Any, vae: VAE, source: str | None, reading: Sequence[str] | None) -> dict[str, Any]:
    """The options by which DATA is read, or what was held out."""
    options: dict[str, Any] = {}
    for each in reading or []:
        name, equals, text = each.partition("=")
        if source is None or not name or not equals:
            raise ValueError(f"--read takes OPTION=VALUE, label=kind for example, and is for DATA, got {each!r}")
        try:
            options[name] = json.loads(text)
        except (ValueError, RecursionError):
            options[name] = text
    path = runs.held_out_source(run) if source is None else source
    if data.is_table_source(path) and is_whole_table(run):
        raise ValueError(
            f"{run} holds a vaekit.Table, whose model takes rows that it has encoded, with an indicator of what is missing; "
            "in Python, vaekit.Table.load(folder) reads it, and has impute, score, encode and sample for frames"
        )
    as_before = {} if path is None else runs.reading_of(run, str(path))
    if data.is_table_source(path):
        as_before = {**reading_of(vae), **as_before}  # a model may be without its run
    if (is_cells_file(path) and vae.condition is None) or as_before.get("batch") or as_before.get("covariates"):
        as_before = {name: value for name, value in as_before.items() if name != "label"}  # new cells need not have types
    return {**as_before, **options}


def _filling(run: Any, source: str | None, options: dict[str, Any], examples: data.Examples) -> Filling | None:
    """What fills the rows of the file that the examples are from, where that is a table."""
    path = runs.held_out_source(run) if source is None else Path(source)
    return Filling(FileRows(path, options), examples) if path is not None and data.is_table_source(path) else None


def cells_of(
    vae: VAE, run: runs.Where, source: str | None, examples: data.Examples, places: dict[str, str]
) -> AnnotatedCells | None:
    """What an .h5ad file of these examples is about; None where the model knows no genes."""
    genes = _genes_of(vae)
    path = runs.held_out_source(run) if source is None else Path(source)
    if genes is None or path is None or not is_cells_file(path):
        return None if genes is None else AnnotatedCells(places, genes)
    return AnnotatedCells(places, genes, path, None if examples.rows is None else examples.rows.numpy())


def _genes_of(vae: VAE) -> tuple[str, ...] | None:
    return vae.likelihood.features if isinstance(vae.likelihood, LibrarySize) else None


def _described(vae: VAE, condition: Tensor | None) -> dict[str, np.ndarray[Any, Any]]:
    """What cells that were made up are told, by the columns' names: the names of classes, and numbers."""
    if condition is None or vae.condition is None:
        return {}
    columns, described = iter(condition.reshape(len(condition), -1).unbind(1)), {}
    for part in parts_of(vae.config()["condition"]):
        for name in columns_of(part):
            values = next(columns).numpy()
            described[name] = np.array(part["names"])[values.astype(np.int64)] if part["name"] == "labels" else values
    return described


def _in_units(vae: VAE, parts: Iterable[Arrays], out: Target) -> Iterable[Arrays]:
    """The parts with each column of x in its own unit, where a table is written and the model knows the table's schema."""
    schema = getattr(vae.likelihood, "schema", None)
    if schema is None or not out.is_table:
        return parts
    return (
        {**{k: v for k, v in arrays.items() if k != "x"}, **in_units(schema, torch.from_numpy(arrays["x"]))} for arrays in parts
    )


def limits_of(vae: VAE) -> tuple[float, float]:
    """The values that are black and white in a picture."""
    return vae.likelihood.support.lowest, vae.likelihood.support.highest


@torch.no_grad()
def _encoded(vae: VAE, examples: data.Examples) -> Iterator[Arrays]:
    for batch in on_device(vae, checked_batches(vae, examples, _BATCH)):
        with evaluation_mode(vae):
            posterior = vae.encode(batch.x, batch.condition)
        arrays = {"mean": posterior.mean}
        if posterior.variances is not None:
            arrays["standard_deviation"] = posterior.variances.sqrt()
        yield {name: value.cpu().numpy() for name, value in arrays.items()}


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}{number}" for number in range(count)]


def _say_where(out: Target, count: int) -> None:
    if out.path is not None:
        say(f"{count:,} examples in {out.path}")

"""`vaekit evaluate`, `reconstruct`, `sample` and `plot`: what a run has learned, in numbers and in pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from vaekit import conditions, data, divergences, evaluation, plots, runs
from vaekit.cli import outputs
from vaekit.cli.console import say, table
from vaekit.cli.current_folder import import_matplotlib
from vaekit.cli.elsewhere import inside
from vaekit.cli.options import DataOption, FolderArgument, ReadOption, RunArgument, SeedOption, WeightsOption
from vaekit.cli.written import KINDS, target
from vaekit.inputs import check_examples, named_as_trained
from vaekit.modes import evaluation_mode
from vaekit.ops import make_key
from vaekit.plots import catalogue
from vaekit.plots.drawing import save_figure
from vaekit.training import History, NonFiniteLossError
from vaekit.vae import VAE

PictureOrNumbersOption = Annotated[
    Any,
    typer.Option(
        "--out",
        metavar="FILE",
        parser=target,
        help=f"Where to write the picture; by default in RUN. Or numbers, by the ending of its name: {KINDS}.",
    ),
]


def evaluate(
    run: RunArgument,
    source: DataOption = None,
    weights: WeightsOption = None,
    batch_size: Annotated[int, typer.Option(help="Examples at a time.")] = 500,
    seed: SeedOption = 0,
    samples: Annotated[
        int, typer.Option(help="Draws for each example for the importance-weighted bound of log p(x); 0 leaves it out.")
    ] = 0,
) -> None:
    """Print loss, reconstruction and KL on held-out data, the error of reconstructions, and which latent dimensions are used."""
    vae = runs.saved_model(run, weights)
    test = named_as_trained(vae, runs.held_out_data(run, source))
    terms = evaluation.evaluate(vae, test, batch_size=batch_size, seed=seed)
    say(table([(name, f"{value:.4f}") for name, value in terms.items()]))
    if bad := [name for name, value in terms.items() if not math.isfinite(value)]:
        raise NonFiniteLossError(f"{', '.join(bad)} of the model in {run} on this data: not finite")
    say(f"nats per example, means over {len(test)} examples")
    if samples:
        bound = evaluation.importance_weighted_bound(vae, test, num_samples=samples, batch_size=batch_size, seed=seed)
        say(
            f"log p(x) at least {bound.log_likelihood:.4f} nats (standard error {bound.standard_error:.4f}, "
            f"effective sample size {bound.effective_sample_size:.1f} of {samples})"
        )
    _say_errors(evaluation.reconstruction_error(vae, test, batch_size=batch_size))
    if len(test) > 1 and _has_divergence_by_dimension(vae, test):
        latents = evaluation.latent_statistics(vae, test, batch_size=batch_size)
        collapsed = f"; collapsed: {', '.join(latents.collapsed)}" if latents.collapsed else ""
        say(f"{int(latents.active.sum())} of {latents.active.numel()} latent dimensions are active{collapsed}")


def reconstruct(
    run: RunArgument,
    given: outputs.DataArgument = None,
    source: DataOption = None,
    count: Annotated[
        int | None, typer.Option(help="How many held-out examples; 5 by default, and in a file of numbers all.", min=1)
    ] = None,
    weights: WeightsOption = None,
    reading: ReadOption = None,
    out: PictureOrNumbersOption = None,
    overwrite: outputs.OverwriteOption = False,
) -> None:
    """Picture held-out examples and their reconstructions, or write these as numbers."""
    if given is not None and source is not None:
        raise ValueError(f"the data is named twice, {given} and --data {source}; leave one of them out")
    source = source if given is None else given
    is_picture = out is None or not out.kind
    if not is_picture:
        out.check(overwrite)
    vae = runs.saved_model(run, weights)
    test = outputs.read(run, vae, source, reading)
    if not is_picture:
        some = test if count is None else test.take(catalogue.spread_rows(test, count))
        outputs.write_reconstructions(vae, run, source, some, out)
        return
    import_matplotlib()
    count = 5 if count is None else count
    rows = catalogue.spread_rows(test, count)
    check_examples(vae, test, "test", rows)
    figure = plots.reconstructions(vae, test.x[rows], catalogue.conditions_of(vae, test, rows))
    say(save_figure(figure, out.path if out else inside(run, "reconstructions.png")))


def sample(
    run: RunArgument,
    count: Annotated[
        int | None, typer.Option(help="How many, 16 by default; of a conditional model in each row, 8 by default.", min=1)
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VALUE",
            help="A row for this condition: a label, or a vector like 0.5,1,-2; repeatable. All labels by default.",
        ),
    ] = None,
    draw: Annotated[bool, typer.Option("--draw", help="Draw from the likelihood as well, instead of taking its mean.")] = False,
    weights: WeightsOption = None,
    seed: SeedOption = 0,
    out: PictureOrNumbersOption = None,
    overwrite: outputs.OverwriteOption = False,
) -> None:
    """Picture new examples that the model makes up, a table's by column beside held-out rows; or write them as numbers."""
    is_picture = out is None or not out.kind
    if not is_picture:
        out.check(overwrite)
    vae = runs.saved_model(run, weights)
    rows = None if condition is None else _parsed_conditions(vae, condition)
    if not is_picture:
        outputs.write_samples(vae, 16 if count is None else count, rows, draw, seed, out)
        return
    import_matplotlib()
    held_out = _held_out_table(run, vae)
    if held_out is None:
        figure = plots.samples(vae, count, rows, draw=draw, key=make_key(seed))
    elif count is None and rows is None:
        figure = plots.marginals(vae, held_out, key=make_key(seed))
    else:
        raise ValueError(
            "the picture of a table shows as many samples as there are held-out rows, with their conditions; --count and "
            "--condition are for rows in a file, --out samples.csv"
        )
    say(save_figure(figure, out.path if out else inside(run, "samples.png")))


def _held_out_table(run: runs.Where, vae: VAE) -> data.Examples | None:
    """The held-out rows of a run whose columns have names; None of another one, or where no file says what it was trained on."""
    if len(vae.input_shape) != 1 or runs.held_out_source(run) is None:
        return None
    examples = named_as_trained(vae, runs.held_out_data(run))
    return examples if catalogue.is_named_table(vae, examples) else None


def plot(run: FolderArgument, source: DataOption = None, weights: WeightsOption = None) -> None:
    """Draw all pictures of a run again."""
    import_matplotlib()
    vae = runs.saved_model(run, weights)
    test = named_as_trained(vae, runs.held_out_data(run, source))
    subject = catalogue.Subject(vae, test)
    check_examples(vae, test, "test", torch.cat([subject.few, subject.many]).unique())
    draw_pictures(run, vae, test, runs.read_history(run))


def draw_pictures(
    folder: Path, vae: VAE, test: data.Examples, history: History | None, indent: str = "", only: Sequence[str] | None = None
) -> None:
    """Write all pictures that fit the model, or those of them that are named, into the folder, and say where each is."""
    for name, figure in catalogue.fitting(catalogue.Subject(vae, test, history), only):
        say(f"{indent}{save_figure(figure, folder / f'{name}.png')}")


def _say_errors(errors: dict[str, float]) -> None:
    if "rmse" in errors:
        say(
            f"reconstructions are off by {errors['rmse']:.4g} (root mean square), {errors['mae']:.4g} (mean), in the data's units"
        )
        return
    say("errors of reconstructions; classes: the share of wrong ones; others: in the data's units")
    say(table([(name, f"{value:.4g}") for name, value in errors.items()], indent="  "))


def _has_divergence_by_dimension(vae: VAE, test: data.Examples) -> bool:
    """Whether the divergence of the model's posterior from its prior is a sum over latent dimensions."""
    first = torch.zeros(1, dtype=torch.int64)
    with evaluation_mode(vae), torch.no_grad():
        posterior = vae.encode(test.x[first], catalogue.conditions_of(vae, test, first))
    return divergences.known_by_dimension(posterior, vae.prior)


def _parsed_conditions(vae: VAE, texts: Sequence[str]) -> torch.Tensor:
    """What "3", or "0.5,1,-2", says, for each row of a picture: labels [R], or vectors [R, K]."""
    if vae.told is None:
        raise ValueError("--condition was given, but neither the model nor its prior is told one")
    try:
        return torch.stack([vae.told.parsed(text) for text in texts])
    except (ValueError, OverflowError, RuntimeError) as error:
        is_label = isinstance(vae.told, conditions.Labels)
        form = "one label, --condition 3" if is_label else "as many numbers as the model's conditions have, --condition 0.5,1,-2"
        raise ValueError(
            f"--condition takes {form} for example, once for each row of the picture; got {', '.join(texts)}"
        ) from error

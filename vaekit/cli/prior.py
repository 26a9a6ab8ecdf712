"""`vaekit fit-prior`: a prior over the codes of a trained model, in a folder of its own with that model."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from vaekit import prior_runs, reporting, runs
from vaekit.cli import signals
from vaekit.cli.console import say
from vaekit.cli.current_folder import import_matplotlib
from vaekit.cli.look import draw_pictures
from vaekit.cli.options import DataOption, FolderArgument, WeightsOption, named_path, with_flags_of
from vaekit.cli.torchrun import place_or_hand_over
from vaekit.cli.train import fitted, say_losses, say_what_is_left
from vaekit.prior_runs import PriorRun
from vaekit.training import History
from vaekit.training.prior_fitting import DEFAULT_PRIOR, PriorOptions

_PICTURES = ("loss", "samples", "marginals")  # which another prior changes


@with_flags_of(PriorOptions, without=("initialize_output_bias",))
def fit_prior(
    context: typer.Context,
    run: FolderArgument,
    prior: Annotated[str | None, typer.Option(help=f"The prior; {DEFAULT_PRIOR} by default. See `vaekit list priors`.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PART.OPTION=VALUE",
            help="Any option of the prior or of the fit, as often as you like: --set prior.width=64 --set prior.condition=labels "
            "--set optimizer.weight_decay=0.1. `vaekit list priors autoregressive_codes` shows what a prior takes.",
        ),
    ] = None,
    source: DataOption = None,
    weights: WeightsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            parser=named_path,
            help="For the model with its new prior, with {n} in its name a new one of the next number; RUN/prior-{n} by default.",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=named_path,
            help="Go on with a fit that was interrupted or killed, or for more --epochs; the rest is as it was.",
        ),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show progress: a bar, or a line an epoch where stderr is no terminal.")] = True,
    **fit_options: Any,
) -> None:
    """Fit a prior to a trained model, so that its samples look like the data; leave the model with it, losses and pictures.

    The networks stay as they are. The loss is the bound of -log p(x), in nats: reconstruction, and the length of the codes.
    """
    if resume is not None and out is not None:
        raise ValueError("--resume goes on with a fit in its own folder: without --out")
    given = [*([] if prior is None else [f"prior={prior}"]), *(assignments or [])]
    config = None if resume is None else runs.run_file_of(resume)
    settings = prior_runs.merged_settings(run, weights, config, given, {"data": source, **fit_options})
    place = place_or_hand_over(settings.get("devices", 1), context.obj)
    import_matplotlib()
    fitting = PriorRun.prepare(settings, progress and not place.rank)
    with signals.as_interrupts() as interruption:
        if place.rank:  # the first process alone says, writes and draws anything
            fitted(partial(fitting.fit, resume, False, resume is not None), interruption)
            return
        into = prior_runs.folder_within(run) if out is None else out
        with runs.claimed_folder(into, fitting) if resume is None else nullcontext(resume) as folder:
            name = fitting.settings["prior"]
            say(f"fitting {name if isinstance(name, str) else name['name']} to the model in {fitting.settings['model']}")
            say(f"on {len(fitting.train):,} examples, and {len(fitting.test):,} held out")
            history = fitted(partial(fitting.fit, folder, progress, resume is not None), interruption)
        _say_what_is_there(fitting, run, folder, history, interruption)


def _say_what_is_there(
    fitting: PriorRun, run: Path, folder: Path, history: History | None, interruption: signals.Interruption
) -> None:
    """Of a fit that has ended: losses, pictures, and how to go on where it was interrupted; then ends the command."""
    if history is not None and history.interrupted:
        say_what_is_left(folder, history, interruption, ["fit-prior", str(run), "--resume"])
    if history is None or history.epochs:
        if history is not None:
            say_losses(history)
        draw_pictures(folder, runs.saved_model(folder), fitting.test, history, indent="  ", only=_PICTURES)
        say(f"  {reporting.report(folder, data=fitting.test)}")
    say(f"everything is in {folder}")
    if history is not None and history.interrupted:
        raise typer.Exit(interruption.exit_code)

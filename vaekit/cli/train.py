"""`vaekit train`: a model from data, its weights, losses and pictures in a folder."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import typer

from vaekit import reporting, runs, specs
from vaekit.cli import signals
from vaekit.cli.console import fail, say, table
from vaekit.cli.current_folder import import_matplotlib
from vaekit.cli.look import draw_pictures
from vaekit.cli.options import (
    ArrayOption,
    LabelOption,
    LayoutOption,
    ReadOption,
    ValidationOption,
    assignments_of,
    named_path,
    with_flags_of,
)
from vaekit.cli.torchrun import place_or_hand_over
from vaekit.data import names, readable
from vaekit.layout import LAST
from vaekit.plots.pictures import describe_latents
from vaekit.training import FitOptions, History, Terminated, record
from vaekit.training.signals import BY_HAND

H = TypeVar("H", bound=History | None)

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        parser=named_path,
        help="The run's folder, with {n} in its name a new one of the next number; a new one under runs/ by default.",
    ),
]


@with_flags_of(FitOptions)
def train(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help=f"{', '.join(names())}, or a path: {readable()}; mnist5k by default."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help=f"The model to start from; {runs.DEFAULT_PRESET} by default. See `vaekit list presets`.")
    ] = None,
    latent_dim: Annotated[int | None, typer.Option(help="How many latent dimensions; channels where they are spatial.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PART.OPTION=VALUE",
            help="Any option of any part, as often as you like: --set encoder=conv --set encoder.hidden=[64] --set loss.beta=4. "
            '--set condition=labels makes the model conditional, --set \'condition=["labels", "vector"]\' on the columns of y. '
            "`vaekit list encoders mlp` shows what a part takes.",
        ),
    ] = None,
    reading: ReadOption = None,
    label: LabelOption = None,
    validation: ValidationOption = None,
    layout: LayoutOption = None,
    array: ArrayOption = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="RUN.JSON", parser=named_path, help="A whole run, as every run folder holds one."),
    ] = None,
    out: OutOption = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            parser=named_path,
            help="Go on with a run that was interrupted or killed, or train it for more --epochs; the rest is as it was.",
        ),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show progress: a bar, or a line an epoch where stderr is no terminal.")] = True,
    **fit_options: Any,
) -> None:
    """Train a model; leave weights, losses and pictures.

    Without anything else, the dense autoencoder 784-2000-256-2 learns 4,500 handwritten digits. Options given here win over
    --set, --set over --config, --config over the preset.
    """
    values = {"data": source, "validation": validation, "preset": preset, "latent_dim": latent_dim, **fit_options}
    if resume is not None and (config is not None or out is not None):
        raise ValueError("--resume goes on with a run in its own folder and with its own run.json: without --config and --out")
    config = config if resume is None else runs.run_file_of(resume)
    assigned = assignments_of(assignments, reading, label, layout, array)
    settings = runs.merged_settings(config, assigned, values, resume is not None)
    place = place_or_hand_over(settings.get("devices", 1), context.obj)
    import_matplotlib()
    run = runs.Run.prepare(settings, progress and not place.rank)
    with signals.as_interrupts() as interruption:
        if place.rank:  # the first process alone says, writes and draws anything
            fitted(partial(run.fit, resume, False, resume is not None), interruption)
            return
        with runs.claimed_folder(out, run) if resume is None else nullcontext(resume) as folder:
            _say_what_is_trained(run, progress)
            history = fitted(partial(run.fit, folder, progress, resume is not None), interruption)
        _say_what_is_there(run, folder, history, interruption)


def _say_what_is_there(run: runs.Run, folder: Path, history: History, interruption: signals.Interruption) -> None:
    """Of a run that has ended: losses, pictures, and how to go on where it was interrupted; then ends the command."""
    if history.interrupted:
        say_what_is_left(folder, history, interruption, ["train", "--resume"])
    if history.epochs:
        say_losses(history)
        draw_pictures(folder, runs.saved_model(folder), run.test, history, indent="  ")
        say(f"  {reporting.report(folder, data=run.test)}")
    say(f"everything is in {folder}")
    if history.interrupted:
        raise typer.Exit(interruption.exit_code)


def fitted(fit: Callable[[], H], interruption: signals.Interruption) -> H:
    """What `fit` gives; a signal is noted as what has interrupted it."""
    with interruption.left_to_fit():
        try:
            history = fit()
        except Terminated as ended:
            interruption.exit_code = int(ended.code or 0)
            return cast(H, ended.history)
    if history is not None and history.interrupted and history.reason not in ("", BY_HAND):  # a limit of the run's own
        interruption.exit_code = 0
    return history


def _say_what_is_trained(run: runs.Run, progress: bool) -> None:
    names = {kind: specs.spec_of(kind, getattr(run.vae, kind))["name"] for kind in ("encoder", "decoder", "likelihood")}
    parameters = sum(p.numel() for p in run.vae.parameters())
    say(
        f"training {names['encoder']} encoder, {names['decoder']} decoder, {names['likelihood']} likelihood: "
        f"{parameters:,} parameters, {describe_latents(run.vae)}"
    )
    if run.train.schema is not None:
        say(str(run.train.schema))
    say(f"on {run.settings['data']}: {len(run.train):,} examples, and {len(run.test):,} held out")
    if not progress:  # which says it too
        say(f"training {run.where()}")


def say_what_is_left(folder: Path, history: History, interruption: signals.Interruption, again: Sequence[str]) -> None:
    """Of a run that was interrupted, and that the command `again` and the folder go on with; where nothing is, it ends."""
    if not record.is_trained(folder):
        fail("interrupted before the first step: nothing is left of the run", interruption.exit_code)
    epochs = f"{history.epochs} epoch{'' if history.epochs == 1 else 's'}"
    by = f" by {history.reason}" if history.reason else ""
    say(f"interrupted{by} after {epochs}; the weights of this moment are in {folder / LAST}", error=True)
    say(f"vaekit {shlex.join([*again, str(folder)])} goes on with it", error=True)


def say_losses(history: History) -> None:
    """The terms of the best epoch."""
    best = history.best_epoch
    terms = [term for term in history if not term.startswith("val_")]
    rows = [(term, f"{history[term][best]:.2f}", f"{history['val_' + term][best]:.2f}") for term in terms]
    say(table([("", "train", "test"), *rows]))
    say(f"nats per example, epoch {best + 1} of {history.epochs}, the best one; {sum(history.seconds):.0f} s")

"""`vaekit train`: a model from data, its weights, losses and pictures in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vaekit import runs, specs
from vaekit.cli import signals
from vaekit.cli.console import fail, say, table
from vaekit.cli.current_folder import import_matplotlib
from vaekit.cli.look import draw_pictures
from vaekit.cli.options import named_path, with_flags_of
from vaekit.cli.torchrun import place_or_hand_over
from vaekit.layout import LAST
from vaekit.plots.pictures import describe_latents
from vaekit.training import FitOptions, History, record


@with_flags_of(FitOptions)
def train(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="mnist5k, mnist, fashion_mnist, kmnist, a folder of IDX files or of shards (x-000.npy, ...), a "
            ".npy or .npz file; mnist5k by default.",
        ),
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
            "--set condition=labels makes the model conditional. "
            "`vaekit list encoders mlp` shows what a part takes.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="RUN.JSON", parser=named_path, help="A whole run, as every run folder holds one."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", parser=named_path, help="The run's folder; a new one under runs/ by default.")
    ] = None,
    progress: Annotated[
        bool, typer.Option(help="Show how far it is, on stderr: a bar, or a line an epoch where that is no terminal.")
    ] = True,
    **fit_options: Any,
) -> None:
    """Train a model; leave weights, losses and pictures.

    Without anything else, the dense autoencoder 784-2000-256-2 learns 4,500 handwritten digits. Options given here win over
    --set, --set over --config, --config over the preset.
    """
    values = {"data": source, "preset": preset, "latent_dim": latent_dim, **fit_options}
    settings = runs.merged_settings(config, assignments or [], values)
    place = place_or_hand_over(settings.get("devices", 1), context.obj)
    import_matplotlib()
    run = runs.Run.prepare(settings, progress and not place.rank)
    if place.rank:
        _take_part(run)
        return
    with signals.as_interrupts() as interruption:
        with runs.claimed_folder(out, run) as folder:
            _say_what_is_trained(run)
            if not progress:  # which says it too
                say(f"training {run.where()}")
            history = run.fit(folder, progress)
        if history.interrupted:
            if not record.is_trained(folder):
                fail("interrupted before the first step: nothing is left of the run", interruption.exit_code)
            _say_interrupted(history, folder)
        if history.epochs:
            _say_losses(history)
            draw_pictures(folder, runs.saved_model(folder), run.test, history, indent="  ")
        say(f"everything is in {folder}")
        if history.interrupted:
            raise typer.Exit(0 if history.reason else interruption.exit_code)


def _take_part(run: runs.Run) -> None:
    """Train, in a process that is not the first: that one alone says, writes and draws anything."""
    with signals.as_interrupts():
        run.fit(None, progress=False)


def _say_interrupted(history: History, folder: Path) -> None:
    epochs = f"{history.epochs} epoch{'' if history.epochs == 1 else 's'}"
    by = f" by {history.reason}" if history.reason else ""
    say(f"interrupted{by} after {epochs}; the weights of this moment are in {folder / LAST}", error=True)


def _say_what_is_trained(run: runs.Run) -> None:
    names = {kind: specs.spec_of(kind, getattr(run.vae, kind))["name"] for kind in ("encoder", "decoder", "likelihood")}
    parameters = sum(p.numel() for p in run.vae.parameters())
    say(
        f"training {names['encoder']} encoder, {names['decoder']} decoder, {names['likelihood']} likelihood: "
        f"{parameters:,} parameters, {describe_latents(run.vae)}"
    )
    say(f"on {run.settings['data']}: {len(run.train):,} examples, and {len(run.test):,} held out")


def _say_losses(history: History) -> None:
    """The terms of the best epoch."""
    best = history.best_epoch
    terms = [term for term in history if not term.startswith("val_")]
    rows = [(term, f"{history[term][best]:.2f}", f"{history['val_' + term][best]:.2f}") for term in terms]
    say(table([("", "train", "test"), *rows]))
    say(f"nats per example, epoch {best + 1} of {history.epochs}, the best one; {sum(history.seconds):.0f} s")

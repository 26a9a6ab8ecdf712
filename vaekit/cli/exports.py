"""`vaekit export`: a model in files that run without vaekit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaekit import exporting, runs
from vaekit.checks import checked_word
from vaekit.cli.console import say
from vaekit.cli.elsewhere import inside
from vaekit.cli.options import RunArgument, WeightsOption, named_path
from vaekit.cli.outputs import OverwriteOption


def export(
    run: RunArgument,
    to: Annotated[
        str,
        typer.Option(metavar="|".join(exporting.ENDINGS), help="onnx, for onnxruntime and its like; torch, for torch.export."),
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", parser=named_path, help="By default RUN/onnx or RUN/torch."),
    ] = None,
    weights: WeightsOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write encoder, decoder and sampler as files that run without vaekit, for batches of any size."""
    ending = exporting.ENDINGS[checked_word("--to", to, tuple(exporting.ENDINGS))]
    folder = inside(run, to) if out is None else out
    there = [file for name in exporting.PARTS if (file := folder / f"{name}{ending}").exists()]
    if there and not overwrite:
        raise ValueError(f"{there[0]} is there already; choose another --out, or replace it with --overwrite")
    vae = runs.saved_model(run, weights)
    files = exporting.export(vae, folder, to)
    for file in files.values():
        say(file)
    if "sampler" not in files:
        say(f"without a sampler: {type(vae.prior).__name__} draws more than standard normal noise", error=True)

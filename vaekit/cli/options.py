"""The arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def named_path(text: str) -> Path:
    """A path; an empty name, which a shell makes of an unset variable, would be the current folder."""
    if not text.strip():
        raise typer.BadParameter("the name is empty; '.' is the current folder")
    if text == "-":
        raise typer.BadParameter("'-' is not a file; './-' is one of that name")
    return Path(text)


RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", parser=named_path, help="A folder made by `vaekit train`, or one with a saved model.")
]
DataOption = Annotated[
    str | None, typer.Option("--data", metavar="DATA", help="A dataset's name or path; by default what the run was trained on.")
]
WeightsOption = Annotated[
    str | None, typer.Option("--weights", metavar="best|last", help="Which weights of the run to take; best by default.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", parser=named_path, help="Where to write the picture; by default in RUN."),
]
SeedOption = Annotated[int, typer.Option(help="Fixes the noise.")]

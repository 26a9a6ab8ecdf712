"""`vaekit report`: one or several runs as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaekit import data, reporting, runs
from vaekit.cli.console import say
from vaekit.cli.options import DataOption, named_path


def report(
    run: Annotated[
        list[Path], typer.Argument(metavar="RUN...", parser=named_path, help="Folders of runs; several are compared.")
    ],
    source: DataOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=named_path, help="The page; by default report.html in the first run.")
    ] = None,
) -> None:
    """Write a report of runs: one page of HTML that needs no network, with figures, warnings, pictures and settings."""
    test = None if source is None else data.load_test(source, **runs.reading_of(run[0], source))
    say(reporting.report(*run, data=test, out=out))

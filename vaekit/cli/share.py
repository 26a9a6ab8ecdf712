"""`vaekit push`: a run with its card on the Hugging Face hub, or in the folder that would be there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from vaekit import data, runs, sharing
from vaekit.cli.console import say, table
from vaekit.cli.options import DataOption, FolderArgument, WeightsOption, named_path
from vaekit.hub import HubAddress
from vaekit.sharing.folder import CARD_FILE


def push(
    run: FolderArgument,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository, made unless it is there.")],
    license: Annotated[str | None, typer.Option(metavar="NAME", help="The model's licence, as the hub writes it: mit.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A tag; repeatable.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="What the hub calls the data: ylecun/mnist; repeatable.")
    ] = None,
    source: DataOption = None,
    weights: WeightsOption = None,
    pictures: Annotated[bool, typer.Option(help="Whether pictures, which show held-out examples, go along.")] = True,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="What a new repository is, or one that is there has to be.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="The branch, made unless it is there; the main one by default.")
    ] = None,
    message: Annotated[str, typer.Option(metavar="TEXT", help="Of the commit.")] = "Push a model of vaekit",
    pull_request: Annotated[bool, typer.Option("--pull-request", help="Propose it instead.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which files would be pushed, and show the card; push nothing.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", parser=named_path, help="Write the folder that would be pushed; push nothing."),
    ] = None,
) -> None:
    """Push a run's model with its card (data, numbers, pictures, how to load) to the Hugging Face hub, as HF_TOKEN's owner."""
    test = None if source is None else data.load_test(source, **runs.reading_of(run, source))
    card: dict[str, Any] = {
        "license": license,
        "tags": tag or (),
        "datasets": dataset or (),
        "data": test,
        "pictures": pictures,
        "weights": weights,
        "revision": revision,
    }
    if out is not None or dry_run:
        if out is not None and out.exists() and any(out.iterdir()):
            raise ValueError(f"{out} holds something already; choose another --out")
        with tempfile.TemporaryDirectory() as home:
            folder = sharing.write(run, Path(home, "model") if out is None else out, repository, **card)
            say(table([(file.name, f"{file.stat().st_size:,} bytes") for file in sorted(folder.iterdir())]))
            say(f"would be pushed to {repository}" if out is None else f"in {out}; nothing was pushed")
            if dry_run:
                say((folder / CARD_FILE).read_text(encoding="utf-8"))
        return
    say(sharing.push_to_hub(run, repository, commit_message=message, private=private, create_pr=pull_request, **card))
    say(f'vaekit.load("{HubAddress(repository, revision)}") loads it')

"""The arguments and options that several commands share."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from vaekit import addresses
from vaekit.addresses import Address
from vaekit.settings import READING

C = TypeVar("C", bound=Callable[..., None])


def named_path(text: str) -> Path:
    """A path; an empty name, which a shell makes of an unset variable, would be the current folder."""
    if not text.strip():
        raise typer.BadParameter("the name is empty; '.' is the current folder")
    if text == "-":
        raise typer.BadParameter("'-' is not a file; './-' is one of that name")
    return Path(text)


def fraction_or_name(text: str) -> float | str:
    """A number, or the text as it is."""
    try:
        return float(text)
    except ValueError:
        return text


def run_or_address(text: str) -> Path | Address:
    """The folder of a run or of a model, or a model elsewhere."""
    return addresses.parsed(text) or named_path(text)


FolderArgument = Annotated[
    Path, typer.Argument(metavar="RUN", parser=named_path, help="A folder made by `vaekit train`, or one with a saved model.")
]
RunArgument = Annotated[
    Any,
    typer.Argument(
        metavar="RUN",
        parser=run_or_address,
        help="A folder made by `vaekit train`, or one with a saved model; or hf://OWNER/NAME on the Hugging Face hub, or "
        "zoo://NAME, see `vaekit zoo`.",
    ),
]
DataOption = Annotated[
    str | None, typer.Option("--data", metavar="DATA", help="A dataset's name or path; by default what the run was trained on.")
]
ReadOption = Annotated[
    list[str] | None,
    typer.Option(
        "--read",
        metavar="OPTION=VALUE",
        help="An option of what reads DATA, as often as you like: short for --set reading.OPTION=VALUE.",
    ),
]
LabelOption = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="The column of a table that is y: labels. Short for --read label=COLUMN.")
]
ValidationOption = Annotated[
    Any,
    typer.Option(
        parser=fraction_or_name,
        metavar="FRACTION|COLUMN|FILE",
        help="What is held out of data without a test set: a fraction, 0.1 by default; the column of a table that says so; a "
        "file. --read group=COLUMN holds out whole groups, --read time=COLUMN the last rows.",
    ),
]
LayoutOption = Annotated[
    str | None,
    typer.Option(
        metavar="auto|NCHW|NHWC|NHW|NCL|NC", help="What the axes of DATA are; seen from the shape where it leaves no doubt."
    ),
]
ArrayOption = Annotated[
    list[str] | None,
    typer.Option(
        "--array",
        metavar="x=NAME",
        help="What the examples in DATA are called, and with y=NAME the labels, x_test=NAME and y_test=NAME a test set.",
    ),
]
WeightsOption = Annotated[
    str | None, typer.Option("--weights", metavar="best|last", help="Which weights of the run to take; best by default.")
]
SeedOption = Annotated[int, typer.Option(help="Fixes the noise.")]


def assignments_of(
    given: list[str] | None, options: list[str] | None, label: str | None, layout: str | None, arrays: list[str] | None
) -> list[str]:
    """All of --set, with the options of reading as "reading.layout=NHWC": their own flags win over --read, that over --set.

    Raises:
        ValueError: an --array that is not ROLE=NAME.
    """
    named = [array.partition("=") for array in arrays or []]
    if wrong := next((array for array, (role, _, name) in zip(arrays or [], named, strict=True) if not (role and name)), None):
        raise ValueError(f"--array takes x=NAME, y=NAME, x_test=NAME or y_test=NAME, got {wrong!r}")
    said = {"label": label, "layout": layout, **{f"arrays.{role}": name for role, _, name in named}}
    return [
        *(given or []),
        *(f"{READING}.{option}" for option in options or []),
        *(f"{READING}.{option}={json.dumps(value)}" for option, value in said.items() if value is not None),
    ]


def with_flags_of(record: type, without: Sequence[str] = ()) -> Callable[[C], C]:
    """A decorator that gives a command a flag for each option of a dataclass; the command gets those that were given.

    An option `gradient_clip: float | None` with the metadata {"help": ...} is the flag --gradient-clip. Of an option of several
    types the flag has the first that can be typed, of a sequence its entries, one at a time; what has none is left to --set.

    Args:
        record: a dataclass. The command takes its options as **keywords, each None where its flag was not given.
        without: the options that are no flags.
    """

    def decorate(command: C) -> C:
        own = inspect.signature(command, eval_str=True)
        parameters = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        signature = own.replace(parameters=[*parameters, *(flag for flag in _flags(record) if flag.name not in without)])
        vars(command)["__signature__"] = signature
        command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return command

    return decorate


def _flags(record: type) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(record)
    for option in fields(record):
        hint, usual = hints[option.name], option.default
        is_sequence = get_origin(hint) is Sequence
        kind: Any = _typed(get_args(hint)[0] if is_sequence else hint)
        if kind is None:
            continue
        if is_sequence:
            entries: Any = option.default
            kind, usual = GenericAlias(list, (kind,)), ", ".join(map(str, entries))
        usual = "" if usual is None or kind is bool else f" {usual} by default."
        annotation: Any = Annotated[kind | None, typer.Option(help=f"{option.metadata['help']}{usual}")]
        yield inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _typed(hint: Any) -> Any:
    """The first type of an option that can be typed; None where there is none."""
    return next((kind for kind in get_args(hint) or (hint,) if kind in (bool, int, float, str)), None)

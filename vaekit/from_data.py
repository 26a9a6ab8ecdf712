"""What a run's settings have from its data: how many labels there are, how long vectors are, and what cells are called."""

from __future__ import annotations

import itertools
from typing import Any

from vaekit import data, presets


def named_by(cells: data.Cells, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with what cells know: the condition that their columns are, and genes' names where a library is shared out."""
    named = dict(settings)
    if cells.condition is not None:
        named.setdefault("condition", cells.condition)
    preset = presets.registry.create(settings["preset"]) if "preset" in settings else {}
    given = settings.get("likelihood", {})
    likelihood = {"name": given} if isinstance(given, str) else given
    of_preset = preset.get("likelihood", {})
    if likelihood.get("name", of_preset.get("name") if isinstance(of_preset, dict) else of_preset) == "library_size":
        named["likelihood"] = {"features": list(cells.genes), **likelihood}
    return named


def condition_of(part: Any, train: data.Examples, test: data.Examples, column: str | None = None) -> Any:
    """The condition with what the data says of it: how many labels there are and their names, or how long the vectors are."""
    part = {"name": "several", "parts": part} if isinstance(part, list) else part
    spec: Any = {"name": part} if isinstance(part, str) else part
    if not isinstance(spec, dict):
        return part
    if train.y is None:
        raise ValueError(
            "the model is to be conditional, but the data has no labels or vectors: a .npz file with x and y has, and a table "
            "whose column is named, --label COLUMN"
        )
    dimensions = {"labels": 1, "inferred_labels": 1, "vector": 2, "several": 2}.get(str(spec.get("name")))
    if dimensions is not None and train.y.ndim != dimensions:
        form = "a vector for each example, y[:, None] for a single number"
        form = "one whole number for each example" if dimensions == 1 else form
        raise ValueError(f"the condition {spec['name']!r} needs {form}, but the data's y has the shape {tuple(train.y.shape)}")
    if spec.get("name") in ("labels", "inferred_labels"):
        highest = max(int(part.y.max()) for part in (train, test) if part.y is not None)
        classes = max(highest + 1, 1, *(len(part.label_names or ()) for part in (train, test)))
        named = {} if train.label_names is None else {"names": list(train.label_names)}
        return {"classes": classes, **named, **({} if column is None else {"column": column}), **spec}
    if spec.get("name") == "vector":
        return {"size": train.y.shape[1], **spec}
    if spec.get("name") == "several" and isinstance(spec.get("parts"), list):
        return {**spec, "parts": _conditions_of(spec["parts"], train, test)}
    return spec


def _conditions_of(parts: list[Any], train: data.Examples, test: data.Examples) -> list[Any]:
    """Several conditions, each with what its columns of y say of it; one vector without a size has the columns that are left.

    Raises:
        ValueError: there is not a column for each.
    """
    assert train.y is not None
    specified: list[dict[str, Any]] = [{"name": part} if isinstance(part, str) else dict(part) for part in parts]
    given = [1 if spec.get("name") == "labels" else spec.get("size") for spec in specified]
    left = train.y.shape[1] - sum(size or 0 for size in given) if given.count(None) == 1 else 0
    sizes: list[int] = [size or left for size in given]
    if min(sizes) < 1 or sum(sizes) != train.y.shape[1]:
        raise ValueError(
            f"the conditions {', '.join(str(spec.get('name')) for spec in specified)} do not share out the {train.y.shape[1]} "
            "columns of the data's y: labels take one each, a vector as many as its size"
        )
    ends = list(itertools.accumulate(sizes))
    for spec, size, end in zip(specified, sizes, ends, strict=True):
        if spec["name"] == "labels":
            highest = max(int(part.y[:, end - 1].max()) for part in (train, test) if part.y is not None)
            spec.setdefault("classes", max(highest + 1, 1))
        elif spec["name"] == "vector":
            spec["size"] = size
    return specified

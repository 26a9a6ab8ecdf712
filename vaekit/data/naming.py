"""What the arrays in a file are called, and which of them are examples and labels.

The names are those of NumPy's and Keras' archives (x_train), MedMNIST (train_images), dSprites (imgs, latents_classes) and
scikit-learn (data, target).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from vaekit.data.arrays import parts_of
from vaekit.data.readers import Parts

_SPLITS = (  # (examples, labels) of training, with "train" in place of which a test set has "test", or else "val"
    ("x_train", "y_train"),
    ("X_train", "y_train"),
    ("train_images", "train_labels"),
    ("train_x", "train_y"),
    ("train_data", "train_labels"),
)
_WHOLE = (  # (examples, what labels may be called beside them)
    ("x", ("y",)),
    ("X", ("y", "Y")),
    ("images", ("labels", "label", "y", "target", "targets")),
    ("imgs", ("latents_classes", "labels", "y")),
    ("data", ("target", "targets", "labels", "label", "y")),
    ("image", ("label", "labels")),
    ("features", ("labels", "label", "target", "targets")),
)
ROLES = ("x", "y", "x_test", "y_test")


class Chosen(NamedTuple):
    """The names of arrays in a file; None where there is none."""

    x: str
    y: str | None = None
    x_test: str | None = None
    y_test: str | None = None


def choose(
    names: Collection[str], arrays: Mapping[str, str] | None, where: str, outlines: Callable[[], Mapping[str, str]]
) -> Chosen:
    """Which arrays are examples and labels: those that were said, or else those of known names, or the only one.

    Args:
        names: of all arrays.
        arrays: role -> name, roles being of `ROLES`; what it leaves out is not read.
        where: they are, for messages.
        outlines: gives name -> dtype and shape, in words, for messages.

    Raises:
        ValueError: no known names; a name that is not there, or a role that there is not. Lists names and shapes.

    Example:
        >>> choose(["imgs", "latents_classes", "metadata"], None, "dsprites.npz", dict)
        Chosen(x='imgs', y='latents_classes', x_test=None, y_test=None)
    """
    if arrays is not None:
        return _said(names, arrays, where, outlines)
    for x, y in _SPLITS:
        for part in ("test", "val"):
            held_out, labels = x.replace("train", part), y.replace("train", part)
            if x in names and held_out in names:
                return Chosen(x, y if y in names else None, held_out, labels if labels in names else None)
    for x, candidates in _WHOLE:
        if x in names:
            return Chosen(x, next((y for y in candidates if y in names), None))
    if len(names) == 1:
        return Chosen(next(iter(names)))
    raise ValueError(
        f"{where} has to hold x_train and x_test, or x, or arrays of another known name; it holds: {_listed(outlines())}. "
        'arrays={"x": NAME, "y": NAME} says which are examples and labels (--array x=NAME --array y=NAME)'
    )


def _said(names: Collection[str], arrays: Mapping[str, str], where: str, outlines: Callable[[], Mapping[str, str]]) -> Chosen:
    if not isinstance(arrays, Mapping) or "x" not in arrays or set(arrays) - set(ROLES):
        raise ValueError(f"arrays takes the names of x and, where there are any, of {', '.join(ROLES[1:])}, got {arrays!r}")
    for role, name in arrays.items():
        if name not in names:
            near = difflib.get_close_matches(str(name), list(names), n=1)
            raise ValueError(
                f"{where} has no array {name!r} for {role}; it holds: {_listed(outlines())}"
                + (f". Did you mean {near[0]!r}?" if near else "")
            )
    return Chosen(**arrays)


def _listed(outlines: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {outline}" for name, outline in outlines.items()) or "nothing"


def outline_of(array: Any) -> str:
    """The dtype and shape of an array, in words.

    Example:
        >>> import numpy as np
        >>> outline_of(np.zeros((3, 2), np.uint8))
        'uint8 [3, 2]'
    """
    return f"{str(array.dtype).removeprefix('torch.')} {list(array.shape)}"


def parts_named(chosen: Chosen, get: Callable[[str], Any], where: str, layout: str) -> Parts:
    """Training and test examples of chosen arrays, each of which `get` gives by its name."""
    x, y, x_test, y_test = (None if name is None else get(name) for name in chosen)
    return parts_of((x, y), None if x_test is None else (x_test, y_test), layout=layout, name=f"{where}: {chosen.x}")

"""A positive parameter beside the location, such as a scale: fixed, learned as one number, or the decoder's for each element."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def checked_log(option: str, how: str, name: str, value: float | None, default: float) -> float:
    """The logarithm of the value that a positive parameter keeps or starts from.

    Args:
        option, how: the option that says where the parameter comes from, and what was given for it.
        name, value: the option that gives its value, and what was given for it.
        default: the value where none was given.

    Raises:
        TypeError: a value that is not a number.
        ValueError: another word for `how`; a value that is not positive and finite, or one that "element" would ignore.

    Example:
        >>> checked_log("variance", "shared", "sigma", None, 1.0)
        0.0
    """
    if how not in ("fixed", "shared", "element"):
        raise ValueError(f'{option} has to be "fixed", "shared" or "element", got {how!r}')
    if how == "element" and value is not None:
        raise ValueError(f'with {option}="element" the decoder gives every {option}; leave {name} out')
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} has to be a number, got {value!r}")
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} has to be positive and finite, got {value}")
    return math.log(value)


def learned_log(how: str, start: float) -> nn.Parameter | None:
    """The one learned number of "shared", None otherwise."""
    return nn.Parameter(torch.tensor(start)) if how == "shared" else None


def log_of(how: str, decoded: Iterator[Tensor], learned: Tensor | None, start: float, like: Tensor) -> Tensor:
    """The parameter's logarithm: the decoder's next tensor, like `like`, or one number [] that broadcasts with it."""
    if how == "element":
        return next(decoded)
    return like.new_full((), start) if learned is None else learned.to(like.dtype)

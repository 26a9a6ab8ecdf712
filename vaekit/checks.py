"""Checks of options at the boundary, with one wording for each mistake: whole numbers, numbers, flags and words."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any


def is_number(value: Any) -> bool:
    """Whether `value` is a real number, Python's or numpy's; True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def checked_number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float | None = None,
    most: float = math.inf,
    below: float | None = None,
) -> float:
    """`value` as a finite float within the given limits.

    Args:
        name: of the option, for the message.
        least, most: limits that belong to the range.
        above, below: limits that do not.

    Raises:
        TypeError: something that is not a number.
        ValueError: NaN, infinity, or a number outside the range.

    Example:
        >>> checked_number("dropout", 0.5, least=0.0, below=1.0)
        0.5
        >>> checked_number("dropout", 1.5, least=0.0, below=1.0)
        Traceback (most recent call last):
        ValueError: dropout has to be a finite number of at least 0 and below 1, got 1.5
    """
    if not is_number(value):
        raise TypeError(f"{name} has to be a number, got {value!r}")
    fits = math.isfinite(value) and least <= value <= most
    if fits and (above is None or value > above) and (below is None or value < below):
        return float(value)
    lower = f"above {above:g}" if above is not None else f"of at least {least:g}" if least > -math.inf else ""
    upper = f"below {below:g}" if below is not None else f"at most {most:g}" if most < math.inf else ""
    limits = " and ".join(limit for limit in (lower, upper) if limit)
    raise ValueError(f"{name} has to be a finite number{' ' if limits else ''}{limits}, got {value!r}")


def checked_size(name: str, value: int, least: int = 1) -> int:
    """`value` as an int, or a ValueError that names the option; whole numbers of numpy and torch count.

    Example:
        >>> import numpy
        >>> checked_size("latent_dim", numpy.int64(2))
        2
        >>> checked_size("latent_dim", 2.0)
        Traceback (most recent call last):
        ValueError: latent_dim has to be a whole number of at least 1, got 2.0
    """
    whole = whole_number(value)
    if whole is None or whole < least:
        raise ValueError(whole_number_wanted(name, value, least))
    return whole


def whole_number(value: Any) -> int | None:
    """`value` as an int; None where it is not one, nor one of numpy's or torch's. True and False are not."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def whole_number_wanted(name: str, value: Any, least: int | None) -> str:
    """What is said of a value that is no whole number, or one below `least`."""
    return f"{name} has to be a whole number{'' if least is None else f' of at least {least}'}, got {value!r}"


def checked_sizes(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """`values` as a tuple, or a ValueError that names the option."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise ValueError(f"{name} has to be a sequence of whole numbers, (256, 64) for example, got {values!r}")
    return tuple(checked_size(f"every entry of {name}", value) for value in values)


def checked_flag(name: str, value: bool) -> bool:
    """`value`, or a TypeError that names the option: "no", or a list, would count as True."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} has to be True or False, got {value!r}")
    return value


def checked_word(name: str, value: str, words: Sequence[str]) -> str:
    """`value`, or a ValueError that names the option, lists the words that it takes and suggests a near one."""
    if value not in words:
        near = difflib.get_close_matches(str(value), words, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} has to be one of {', '.join(map(repr, words))}, got {value!r}{hint}")
    return value

"""Options that have to be whole numbers, of at least 1 as a rule, or True or False: one message for all of them."""

from __future__ import annotations

from collections.abc import Sequence


def checked_size(name: str, value: int, least: int = 1) -> int:
    """`value`, or a ValueError that names the option."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} has to be a whole number of at least {least}, got {value!r}")
    return value


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

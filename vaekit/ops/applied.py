"""`torch.autograd.Function.apply`, which torch leaves untyped."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function


def applied(function: type[Function], *arguments: Any) -> Tensor:
    """What `function.apply(*arguments)` gives, of a function with one result."""
    result: Tensor = function.apply(*arguments)
    return result


def all_applied(function: type[Function], *arguments: Any) -> tuple[Tensor, ...]:
    """What `function.apply(*arguments)` gives, of a function with several results."""
    results: tuple[Tensor, ...] = function.apply(*arguments)
    return results

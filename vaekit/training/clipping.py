"""Gradients that are too large are made smaller: all of them together, by their norm, or each element by its value.

R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", 2013, arXiv:1211.5063, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vaekit.checks import checked_number
from vaekit.training.shards import is_part, local, norm

_KINDS = ("norm", "value")


def check(gradient_clip: Any) -> None:
    """Refuse what is neither None, a number, {"norm": ...} nor {"value": ...}.

    Raises:
        TypeError, ValueError: it is not, or not above 0.
    """
    _kind_and_limit(gradient_clip)


class Clip:
    """Clips the gradients of a model in place.

    Args:
        gradient_clip: the largest norm that a gradient keeps, as a number or {"norm": ...}; {"value": ...} is the largest size
            that an element keeps; None clips nothing.
        together: lists of parameters, each with one norm.

    Example:
        >>> weight = torch.zeros(2, requires_grad=True)
        >>> weight.grad = torch.tensor([3.0, -4.0])
        >>> list(Clip({"value": 3.5}, [[weight]])()), weight.grad
        ([], tensor([ 3.0000, -3.5000]))
        >>> norms = list(Clip(1.0, [[weight]])())
        >>> round(float(weight.grad.norm()), 5)
        1.0
    """

    def __init__(self, gradient_clip: float | Mapping[str, float] | None, together: Sequence[Sequence[Tensor]]) -> None:
        self._kind, self._limit = _kind_and_limit(gradient_clip)
        self._together = together

    def __call__(self) -> Iterator[Tensor]:
        """Clip; gives the norm of each gradient before, where that is what it is clipped by."""
        for parameters in () if self._kind is None else self._together:
            moving = [p for p in parameters if p.grad is not None]  # torch's functions fail where there is none
            if not moving:
                continue
            if is_part(moving[0]):
                yield from self._clip_parts([p.grad for p in moving if p.grad is not None])
            elif self._kind == "norm":
                yield torch.nn.utils.clip_grad_norm_(moving, self._limit)
            else:
                torch.nn.utils.clip_grad_value_(moving, self._limit)

    def _clip_parts(self, gradients: Sequence[Tensor]) -> Iterator[Tensor]:
        """Clip gradients that are divided among processes, as torch's functions clip whole ones."""
        own = [local(gradient) for gradient in gradients]
        if self._kind == "norm":
            before = norm(gradients)
            factor = (self._limit / (before + 1e-6)).clamp(max=1.0)
            for gradient in own:
                gradient.mul_(factor)
            yield before
        else:
            for gradient in own:
                gradient.clamp_(-self._limit, self._limit)


def _kind_and_limit(gradient_clip: Any) -> tuple[str | None, float]:
    if gradient_clip is None:
        return None, math.inf
    if not isinstance(gradient_clip, Mapping):
        return "norm", checked_number("gradient_clip", gradient_clip, above=0.0)
    if len(gradient_clip) != 1 or not gradient_clip.keys() <= set(_KINDS):
        raise ValueError(
            f'gradient_clip has to be a number, the largest norm, or {{"norm": 1.0}} or {{"value": 0.5}}, got {gradient_clip!r}'
        )
    ((kind, limit),) = gradient_clip.items()
    return kind, checked_number(f"gradient_clip: {kind}", limit, above=0.0)

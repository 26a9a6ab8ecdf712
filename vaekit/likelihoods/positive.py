"""Positive parameters beside the location, such as a scale: fixed, learned as one number, or the decoder's for each element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.checks import checked_number, checked_word
from vaekit.likelihoods.base import Likelihood
from vaekit.ops.reference import compute_dtype


class Positive:
    """Where a positive parameter comes from, and the logarithm that it keeps or starts from.

    Args:
        option, source: the option that says where the parameter comes from, and what was given for it: "fixed"; "shared", one
            learned number for all elements; "element", from the decoder for each element.
        name, value: the option that gives its value, and what was given for it.
        default: the value where none was given.
        power: of the parameter of which the logarithm is taken: 2 for a variance that is given as a standard deviation.

    Raises:
        TypeError: a value that is not a number.
        ValueError: another word for `source`; a value that is not positive and finite, or one that "element" would ignore.

    Example:
        >>> Positive("variance", "shared", "sigma", None, 1.0).start
        0.0
    """

    def __init__(self, option: str, source: str, name: str, value: float | None, default: float, power: float = 1.0) -> None:
        self.source = checked_word(option, source, ("fixed", "shared", "element"))
        if source == "element" and value is not None:
            raise ValueError(f'with {option}="element" the decoder gives every {option}; leave {name} out')
        self.start = power * math.log(checked_number(name, default if value is None else value, above=0.0))


def split(parameters: Tensor, others: int, shared: Tensor | None, start: float) -> tuple[list[Tensor], Tensor]:
    """The others of [B, P, *S], each [B, *S], and the logarithm of one positive parameter, the same or broadcasting with it.

    Args:
        parameters: as the decoder gives them: the first of the others, the positive one if P is larger than `others`, the rest.
        others: how many there are.
        shared: the logarithm where all elements share it.
        start: the logarithm where it is neither shared nor the decoder's.

    Example:
        >>> split(torch.zeros(5, 2, 3), 2, None, 1.5)[1]
        tensor(1.5000)
    """
    first, *rest = parameters.unbind(1)
    if len(rest) == others:
        return [first, *rest[1:]], rest[0]
    return [first, *rest], first.new_full((), start) if shared is None else shared


class DispersedLikelihood(Likelihood):
    """A likelihood with positive parameters beside others.

    What is learned of one that is "shared" is a parameter [] of the module, its logarithm. It has the exact start in every dtype:
    a model that is made double before it has learned anything starts from the float64 number.

    Args:
        missing: "refuse" or "ignore" NaN in the data.
        others: how many parameters of an element the decoder gives besides.
        positives: each under the name of what is learned of it, in the order in which the decoder gives them.
    """

    def __init__(self, missing: str, others: int = 1, **positives: Positive) -> None:
        super().__init__(missing)
        self._positives = positives
        self.parameters_per_element = others + sum(positive.source == "element" for positive in positives.values())
        for name, positive in positives.items():
            is_learned = positive.source == "shared"
            self.register_parameter(name, nn.Parameter(torch.tensor(positive.start)) if is_learned else None)

    @property
    def learned(self) -> dict[str, nn.Parameter]:
        """The learned logarithms by name."""
        return {name: getattr(self, name) for name in self._positives if getattr(self, name) is not None}

    def learn_by_column(self, columns: int) -> None:
        """Learn a number for each entry of the data's last dimension, [columns], instead of one for all of them."""
        for name, parameter in self.learned.items():
            self.register_parameter(name, nn.Parameter(parameter.detach().repeat(columns)))

    def _split(self, parameters: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The others of [B, P, *S], each [B, *S], and the positive ones' logarithms, the same or broadcasting with it.

        The decoder gives the first of the others first, then the positive ones, and then the rest.
        """
        first, *rest = parameters.unbind(1)
        logs = []
        for name, positive in self._positives.items():
            if positive.source == "element":
                logs.append(rest.pop(0))
            elif positive.source == "shared":
                logs.append(getattr(self, name).to(first))
            else:
                logs.append(first.new_full((), positive.start))
        return [first, *rest], logs

    def _operator_options(self, parameters: Tensor) -> tuple[Any, ...]:
        """The logarithm of the one positive number: what is learned, or None, and what is kept or started from."""
        ((name, positive),) = self._positives.items()
        learned: Tensor | None = getattr(self, name)
        return None if learned is None else learned.to(compute_dtype(parameters.dtype)), positive.start

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> DispersedLikelihood:
        """As torch's, which casts and moves; what has learned nothing yet starts exactly in the new dtype too."""
        at_start = [
            name
            for name, parameter in self.learned.items()
            if not parameter.is_meta and bool((parameter == self._positives[name].start).all())
        ]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name in at_start:
                getattr(self, name).fill_(self._positives[name].start)
        return self

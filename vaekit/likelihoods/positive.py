"""Positive parameters beside the location, a scale for example: fixed, one learned, one for each feature or for each element."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.checks import checked_number, checked_sizes, checked_word
from vaekit.likelihoods.base import Likelihood, MissingSpec
from vaekit.ops.reference import compute_dtype


class Positive:
    """Where a positive parameter comes from, and the logarithm that it keeps or starts from.

    Args:
        option, source: the option that says where the parameter comes from, and what was given for it: "fixed"; "shared", one
            learned number for all elements; "feature", one for each feature of the data, which is an element of an example;
            "element", from the decoder for each element.
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
        self.source = checked_word(option, source, ("fixed", "shared", "feature", "element"))
        if source == "element" and value is not None:
            raise ValueError(f'with {option}="element" the decoder gives every {option}; leave {name} out')
        self.option, self.start = option, power * math.log(checked_number(name, default if value is None else value, above=0.0))


def split(parameters: Tensor, others: int, shared: Tensor | None, start: float) -> tuple[list[Tensor], Tensor]:
    """The others of [B, P, *S], each [B, *S], and the logarithm of one positive parameter, the same or broadcasting with it.

    Args:
        parameters: as the decoder gives them: the first of the others, the positive one if P is larger than `others`, the rest.
        others: how many there are.
        shared: the logarithm where it is learned, of all elements [] or of each feature.
        start: the logarithm where it is neither shared nor the decoder's.

    Example:
        >>> split(torch.zeros(5, 2, 3), 2, None, 1.5)[1]
        tensor(1.5000)
    """
    first, *rest = parameters.unbind(1)
    if len(rest) == others:
        return [first, *rest[1:]], rest[0]
    return [first, *rest], first.new_full((), start) if shared is None else shared


def _new_parameter(positive: Positive) -> nn.Parameter | None:
    """What holds the logarithm of what is learned; of features, lazy until the data's shape is known."""
    if positive.source == "feature":
        lazy: nn.Parameter = nn.UninitializedParameter()  # type: ignore[assignment]  # which is one, but for torch's stubs
        return lazy
    return nn.Parameter(torch.tensor(positive.start)) if positive.source == "shared" else None


class DispersedLikelihood(Likelihood):
    """A likelihood with positive parameters beside others.

    What is learned is a parameter of the module, the logarithm: [] of one that is "shared"; of one of each "feature" it has the
    shape of an example, once that is known. It has the exact start in every dtype: a model that is made double before it has
    learned anything starts from the float64 number.

    Args:
        missing: "refuse" or "ignore" NaN in the data, or ignore with options, as of `Likelihood`.
        others: how many parameters of an element the decoder gives besides.
        positives: each under the name of what is learned of it, in the order in which the decoder gives them.
    """

    def __init__(self, missing: MissingSpec, others: int = 1, **positives: Positive) -> None:
        super().__init__(missing)
        self._positives = positives
        self.parameters_per_element = others + sum(positive.source == "element" for positive in positives.values())
        for name, positive in positives.items():
            self.register_parameter(name, _new_parameter(positive))

    @property
    def learned(self) -> dict[str, nn.Parameter]:
        """The learned logarithms by name; those of features are lazy until the data's shape is known."""
        return {name: getattr(self, name) for name in self._positives if getattr(self, name) is not None}

    def learn_by_column(self, columns: int) -> None:
        """Learn a number for each of the columns that the likelihood serves, [columns], instead of one for all of them."""
        for name, positive in self._positives.items():
            if positive.source == "shared":
                self.register_parameter(name, nn.Parameter(getattr(self, name).detach().repeat(columns)))

    def set_data_shape(self, shape: Sequence[int]) -> None:
        """As every likelihood's.

        Example:
            >>> from vaekit.likelihoods import Gaussian
            >>> likelihood = Gaussian(variance="feature", sigma=2.0)
            >>> likelihood.set_data_shape((3,))
            >>> likelihood.logvar.exp().tolist()
            [4.0, 4.0, 4.0]
        """
        of_features = [name for name, positive in self._positives.items() if positive.source == "feature"]
        if not of_features:
            return
        shape = checked_sizes("the shape of an example", shape)
        if self.data_shape not in (None, shape):
            raise ValueError(
                f"{type(self).__name__} learns a number for each feature of examples {self.data_shape}, not {shape}; make a "
                "likelihood of its own for each shape of data"
            )
        self.data_shape = shape
        for name in of_features:
            parameter = getattr(self, name)
            if isinstance(parameter, nn.UninitializedParameter):
                parameter.materialize(shape)
                nn.init.constant_(parameter, self._positives[name].start)

    def _split(self, parameters: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The others of [B, P, *S], each [B, *S], and the positive ones' logarithms, the same or broadcasting with it.

        The decoder gives the first of the others first, then the positive ones, and then the rest.
        """
        first, *rest = parameters.unbind(1)
        logs = []
        for name, positive in self._positives.items():
            if positive.source == "element":
                logs.append(rest.pop(0))
            elif positive.source == "fixed":
                logs.append(first.new_full((), positive.start))
            else:
                logs.append(self._known(name).to(first))
        return [first, *rest], logs

    def _known(self, name: str) -> Tensor:
        """What is learned under this name."""
        parameter: Tensor = getattr(self, name)
        if isinstance(parameter, nn.UninitializedParameter):
            option = self._positives[name].option
            raise ValueError(
                f'{type(self).__name__} with {option}="feature" learns a {option} for each feature of the data and does not know '
                "its shape: compose a model with it, or call set_data_shape, with (30,) for a table of 30 columns"
            )
        return parameter

    def _operator_options(self, parameters: Tensor) -> tuple[Any, ...]:
        """The logarithm of the one positive number: what is learned, or None, and what is kept or started from."""
        ((name, positive),) = self._positives.items()
        is_learned = getattr(self, name) is not None
        return self._known(name).to(compute_dtype(parameters.dtype)) if is_learned else None, positive.start

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> DispersedLikelihood:
        """As torch's, which casts and moves; what has learned nothing yet starts exactly in the new dtype too."""
        at_start = [
            name
            for name, parameter in self.learned.items()
            if not isinstance(parameter, nn.UninitializedParameter)
            and not parameter.is_meta
            and bool((parameter == self._positives[name].start).all())
        ]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name in at_start:
                getattr(self, name).fill_(self._positives[name].start)
        return self

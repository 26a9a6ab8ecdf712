"""What a conditional model is told of each example besides x, and how its networks see it.

K. Sohn, H. Lee, X. Yan, "Learning Structured Output Representation using Deep Conditional Generative Models", NeurIPS 2015.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.data.conversion import MISSING
from vaekit.ops.dispatch import is_traced
from vaekit.registry import Part, Registry


class Condition(Part, nn.Module, ABC):
    """c in q(z | x, c) and p(x | z, c): from what a person gives to what the encoder and the decoder get, [B, dim].

    The prior does not depend on it: p(z | c) = p(z).

    One that may be missing has `infers`, finitely many values, `all_values`, and says how probable each is: `log_prior` and
    `log_posterior`.

    Attributes:
        dim: E, the size of what the networks get; their option `condition_dim`.
        given_as: what a person gives, in words, for messages.
        columns: how many columns of y it takes where it stands beside other conditions; None where it cannot.
        infers: whether it may be missing for some examples and is then inferred from x; the objective has to be one that does.
        input_shape: what `log_posterior` reads, the encoder's input_shape; None for a condition that is told no x.
    """

    dim: int
    given_as: str
    columns: int | None = None
    infers: bool = False
    input_shape: tuple[int, ...] | None = None
    __call__: Callable[..., Tensor]

    @abstractmethod
    def forward(self, condition: Tensor) -> Tensor:
        """What a person gives, [B] or [B, K], as the networks get it: float [B, dim]."""

    @abstractmethod
    def as_rows(self, condition: Any, count: int) -> Tensor:
        """What a person gives for `count` examples as a tensor [count] or [count, K]; one value stands for all of them.

        Raises:
            TypeError, ValueError: something else, or another number of them.
        """

    @abstractmethod
    def check(self, condition: Tensor) -> None:
        """Raise ValueError, saying what was seen, if a value [B] or [B, K] is none that `forward` takes; synchronises."""

    def as_tensor(self, condition: Any) -> Tensor:
        """What was given as a tensor, or a ValueError where nothing was."""
        if condition is None:
            raise ValueError(f"the model is conditional, but no condition was given; it is {self.given_as}")
        return torch.as_tensor(condition)

    def of_columns(self, columns: Tensor) -> Tensor:
        """Its columns of what several conditions are given, floats [B, columns], as what `forward` takes.

        Raises:
            ValueError: values that cannot be such a condition; looked at on the CPU alone, where that costs nothing.
        """
        return columns

    def placed(self, condition: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """[B] or [B, K] on the device; vectors in the weights' dtype, which keeps of them what the networks can see."""
        return condition.to(device, dtype if condition.is_floating_point() else condition.dtype)

    def is_missing(self, condition: Tensor) -> Tensor:
        """Which values, [B] or [B, K], are missing: bool [B]; those with -1 in them, where the condition `infers`."""
        missing = condition == MISSING
        return missing if missing.ndim == 1 else missing.any(1)

    def log_prior(self) -> Tensor:
        """log p(c) of `all_values`, [V], nats, of a condition that `infers`."""
        raise NotImplementedError(f"{type(self).__name__} does not say how probable its values are")

    def log_posterior(self, x: Tensor) -> Tensor:
        """log q(c | x) of `all_values`, [B, V], nats, of what the encoder reads of x, of a condition that `infers`."""
        raise NotImplementedError(f"{type(self).__name__} does not infer its values from x")

    def values(self, device: torch.device) -> Tensor:
        """`all_values` on a device, [V] or [V, K].

        Raises:
            TypeError: there is no end of them.
        """
        values = self.all_values()
        if values is None:
            raise TypeError(f"{type(self).__name__} has no end of values: its all_values() is None")
        return values.to(device)

    def numbers(self, condition: Tensor) -> Tensor:
        """Which of `all_values` each value is, [B] or [B, K] -> int64 [B]; 0 where it is missing."""
        values = self.values(condition.device)
        equal = condition.unsqueeze(1) == values
        equal = equal if equal.ndim == 2 else equal.all(2)
        return equal.to(torch.int64).argmax(1)

    def completed(self, x: Tensor, condition: Tensor) -> Tensor:
        """The condition, [B] or [B, K], with the most probable value where it is missing; x as the encoder reads it."""
        missing = self.is_missing(condition)
        if condition.device.type == "cpu" and not is_traced() and not missing.any():  # where looking costs nothing
            return condition
        with torch.no_grad():
            guessed = self.values(condition.device)[self.log_posterior(x).argmax(1)].to(condition.dtype)
        return torch.where(missing.view(-1, *(1,) * (condition.ndim - 1)), guessed, condition)

    def parsed(self, text: str) -> Tensor:
        """One value, [] or [K], of what a person types, "0.5,1,-2" for example.

        Raises:
            ValueError: something else.
        """
        return torch.tensor([float(number) for number in text.split(",")])

    def all_values(self) -> Tensor | None:
        """Every value there is, for a picture with a row for each; None where there is no end of them."""
        return None

    def label(self, condition: Tensor) -> str:
        """One value, [] or [K], as a label in a picture."""
        values = [f"{value:.3g}" for value in condition.reshape(-1).tolist()]
        return ", ".join(values if len(values) <= 4 else [*values[:3], "..."])


registry: Registry[Condition] = Registry("condition", "vaekit.conditions", Condition)

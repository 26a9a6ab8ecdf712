"""What a conditional model is told of each example besides x, and how its networks see it.

K. Sohn, H. Lee, X. Yan, "Learning Structured Output Representation using Deep Conditional Generative Models", NeurIPS 2015.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.registry import Part, Registry


class Condition(Part, nn.Module, ABC):
    """c in q(z | x, c) and p(x | z, c): from what a person gives to what the encoder and the decoder get, [B, dim].

    The prior does not depend on it: p(z | c) = p(z).

    Attributes:
        dim: E, the size of what the networks get; their option `condition_dim`.
        given_as: what a person gives, in words, for messages.
        columns: how many columns of y it takes where it stands beside other conditions; None where it cannot.
    """

    dim: int
    given_as: str
    columns: int | None = None
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

"""What every distance between pictures and their reconstructions offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from vaekit.registry import Part, Registry
from vaekit.schedules import Schedule, checked_schedule


class Distance(Part, nn.Module, ABC):
    """How far reconstructions are from their originals, for each example; a term of the objective `perceptual`.

    One of one's own gives `forward`, takes the option weight, and hands it to `super().__init__`.

    Args:
        weight: of the term: a number, a `vaekit.schedules.Schedule` of the step, or its spec.

    Raises:
        TypeError: something else than a weight.
        ValueError: a negative one.

    Example:
        >>> import torch
        >>> class Edges(Distance):
        ...     "The L1 distance of horizontal differences."
        ...     def __init__(self, weight=1.0):
        ...         super().__init__(weight)
        ...     def forward(self, made, x):
        ...         return (made.diff(dim=-1) - x.diff(dim=-1)).abs().flatten(1).mean(1)
        >>> Edges()(torch.zeros(2, 1, 3, 3), torch.eye(3).expand(2, 1, 3, 3))
        tensor([0.6667, 0.6667])
    """

    __call__: Callable[..., Tensor]

    def __init__(self, weight: float | Schedule | Mapping[str, Any] = 1.0) -> None:
        super().__init__()
        self.weight = checked_schedule("weight", weight)

    @abstractmethod
    def forward(self, made: Tensor, x: Tensor) -> Tensor:
        """The distances of reconstructions `made` [B, *S] from their originals x [B, *S]: [B], 0 where they are equal.

        The mean over an example's elements rather than a sum, where it has to choose: the objective takes it times their number.
        """


registry: Registry[Distance] = Registry("distance", "vaekit.distances", Distance)

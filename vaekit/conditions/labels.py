"""A condition that is one of several classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaekit.checks import checked_size
from vaekit.conditions.base import Condition, registry


@registry.register("labels")
class Labels(Condition):
    """One of K classes, given as its number, 0 to K - 1.

    The networks get a one-hot vector of K numbers, or a learned vector for each class: take those where K is large. Under
    torch.compile and on a GPU nobody looks whether a number is one of the classes; `fit` and `evaluate` do before they begin.

    Args:
        classes: K.
        dim: the size of the learned vectors, drawn from N(0, 1) at first; None for one-hot ones, of the size K.

    Raises:
        ValueError: a size that is not a whole number of at least 1.

    Example:
        >>> Labels(classes=3)(torch.tensor([2, 0]))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
        >>> Labels(classes=1000, dim=16)(torch.tensor([2, 0])).shape
        torch.Size([2, 16])
    """

    def __init__(self, classes: int, dim: int | None = None) -> None:
        super().__init__()
        self.classes = checked_size("classes", classes)
        self.dim = self.classes if dim is None else checked_size("dim", dim)
        self.given_as = f"a class number from 0 to {self.classes - 1} for each example, integers [batch]"
        self.vectors = None if dim is None else nn.Parameter(torch.randn(self.classes, self.dim))
        self.register_buffer("_one", torch.ones(()), persistent=False)  # in the model's dtype and on its device
        self._one: Tensor

    def forward(self, condition: Tensor) -> Tensor:
        condition = condition.long()
        if condition.device.type == "cpu" and not torch.compiler.is_compiling():  # where looking costs nothing
            self.check(condition)
        if self.vectors is None:
            return F.one_hot(condition, self.classes).to(self._one.dtype)
        return F.embedding(condition, self.vectors)

    def as_rows(self, condition: Any, count: int) -> Tensor:
        labels = self.as_tensor(condition)
        if labels.ndim > 1:
            hint = "y[:, 0] takes the numbers" if labels.shape[1] == 1 else "y.argmax(1) takes them of one-hot rows"
            raise ValueError(f"the condition is {self.given_as}; got the shape {tuple(labels.shape)}: {hint}")
        if not labels.numel():  # torch takes the numbers of an empty list for floats
            labels = labels.long()
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"the condition is {self.given_as}; got {labels.dtype}: labels.long() where they are whole numbers")
        if labels.numel() == 1:
            labels = labels.reshape(()).expand(count)
        if labels.shape != (count,):
            raise ValueError(f"the condition is {self.given_as}; got the shape {tuple(labels.shape)} for {count} example(s)")
        return labels.to(self._one.device).long()

    def check(self, condition: Tensor) -> None:
        outside = (condition < 0) | (condition >= self.classes)
        if outside.any():
            raise ValueError(
                f"the condition is {self.given_as}; got {int(condition[outside][0])}. Number the classes from 0 on, and set the "
                "condition's option classes to how many there are"
            )

    def all_values(self) -> Tensor:
        return torch.arange(self.classes)

    def label(self, condition: Tensor) -> str:
        return str(int(condition))

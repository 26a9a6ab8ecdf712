"""A condition that is one of several classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaekit.checks import checked_size
from vaekit.conditions.base import Condition, registry
from vaekit.data.conversion import MISSING


@registry.register("labels")
class Labels(Condition):
    """One of K classes, given as its number, 0 to K - 1, or as its name where the classes have names.

    The networks get a one-hot vector of K numbers, or a learned vector for each class: take those where K is large. Under
    torch.compile and on a GPU nobody looks whether a number is one of the classes; `fit` and `evaluate` do before they begin.

    Args:
        classes: K.
        dim: the size of the learned vectors, drawn from N(0, 1) at first; None for one-hot ones, of the size K.
        names: of the classes in the order of their numbers, kept with the model.
        column: the column of a table that says which class an example is of, kept with the model.

    Raises:
        ValueError: a size that is not a whole number of at least 1; another number of names than of classes, or a name twice.

    Example:
        >>> Labels(classes=3)(torch.tensor([2, 0]))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
        >>> Labels(classes=1000, dim=16)(torch.tensor([2, 0])).shape
        torch.Size([2, 16])
        >>> Labels(classes=2, names=["london", "rome"]).as_rows("rome", 3)
        tensor([1, 1, 1])
    """

    columns = 1

    def __init__(
        self, classes: int, dim: int | None = None, names: Sequence[str] | None = None, column: str | None = None
    ) -> None:
        super().__init__()
        self.classes = checked_size("classes", classes)
        self.dim = self.classes if dim is None else checked_size("dim", dim)
        self.given_as = f"a class number from 0 to {self.classes - 1} for each example, integers [batch]"
        self.names, self.column = None if names is None else tuple(map(str, names)), column
        if self.names is not None and (len(self.names) != self.classes or len(set(self.names)) != self.classes):
            raise ValueError(f"names has to have a different name for each of the {self.classes} classes, got {list(self.names)}")
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

    def as_tensor(self, condition: Any) -> Tensor:
        """As every condition's; names as the numbers of the classes.

        Raises:
            ValueError: a name that none of the classes has.
        """
        texts = None if condition is None or isinstance(condition, Tensor) else np.asarray(condition)
        if self.names is None or texts is None or not texts.size or not isinstance(texts.reshape(-1)[0], str):
            return super().as_tensor(condition)
        numbers = {name: number for number, name in enumerate(self.names)}
        unknown = sorted({str(name) for name in texts.reshape(-1)} - set(numbers))
        if unknown:
            raise ValueError(f"there is no class {unknown[0]!r}; the classes are {', '.join(self.names)}")
        return torch.tensor([numbers[str(name)] for name in texts.reshape(-1)]).reshape(texts.shape)

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
        if outside.any() and not self.infers and (condition[outside] == MISSING).all():
            raise ValueError(
                f"the condition is {self.given_as}; it is missing ({MISSING}) in {int(outside.sum())} of {len(condition)} "
                'examples. The condition "inferred_labels" with the loss "semi_supervised" learns from examples without a label '
                "too; or leave them out"
            )
        if outside.any():
            raise ValueError(
                f"the condition is {self.given_as}; got {int(condition[outside][0])}. Number the classes from 0 on, and set the "
                "condition's option classes to how many there are"
            )

    def of_columns(self, columns: Tensor) -> Tensor:
        numbers = columns[:, 0]
        if numbers.device.type == "cpu" and not torch.compiler.is_compiling() and not (numbers == numbers.trunc()).all():
            number = float(numbers[numbers != numbers.trunc()][0])
            raise ValueError(f"a column of the condition is {self.given_as}; got {number:g} in it")
        return numbers.long()

    def parsed(self, text: str) -> Tensor:
        return self.as_tensor(text) if self.names is not None and text in self.names else torch.tensor(int(text))

    def all_values(self) -> Tensor:
        return torch.arange(self.classes)

    def label(self, condition: Tensor) -> str:
        return str(int(condition)) if self.names is None else self.names[int(condition)]

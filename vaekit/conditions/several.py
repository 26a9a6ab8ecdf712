"""Several conditions at once: a batch and a donor, an age and a dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.conditions.base import Condition, registry

_MOST_CLASSES = 1 << 24  # whose numbers float32 tells apart


@registry.register("several")
class Several(Condition):
    """Several conditions at once, given as the columns of one table: a class's number or a vector's numbers for each, in order.

    The networks get what each of them makes of its columns, one behind the other. `create_vae(condition=[...])` makes one of a
    list.

    Args:
        parts: the conditions, each a registered name, {"name": ..., option: ...} or an object.

    Raises:
        TypeError, ValueError, UnknownNameError: a condition that does not exist, or that takes no columns; none at all; classes
            whose numbers a column of float32 cannot tell apart.

    Example:
        >>> both = Several([{"name": "labels", "classes": 2}, {"name": "vector", "size": 2}])
        >>> both(torch.tensor([[1.0, 0.5, -3.0], [0.0, 0.0, 2.0]]))
        tensor([[ 0.0000,  1.0000,  0.5000, -3.0000],
                [ 1.0000,  0.0000,  0.0000,  2.0000]])
    """

    columns: int

    def __init__(self, parts: Sequence[str | Mapping[str, Any] | Condition]) -> None:
        super().__init__()
        if isinstance(parts, (str, Mapping)) or not isinstance(parts, Sequence) or not parts:
            raise TypeError(f"several conditions have to be a list of one or more, got {parts!r}")
        self.parts = nn.ModuleList(registry.build(part) for part in parts)
        for part in self:
            if part.columns is None:
                raise ValueError(
                    f"the condition {type(part).__name__} cannot stand beside others: its class does not say how many columns of "
                    "y it takes (columns)"
                )
            if getattr(part, "classes", 0) > _MOST_CLASSES:
                raise ValueError(f"beside others a condition has at most {_MOST_CLASSES:,} classes")
        self._sizes = [int(part.columns or 0) for part in self]
        self.columns, self.dim = sum(self._sizes), sum(part.dim for part in self)
        each = "; ".join(f"{size} of {part.given_as}" for size, part in zip(self._sizes, self, strict=True))
        self.given_as = f"{self.columns} column(s) of numbers, [batch, {self.columns}]: {each}"
        self.register_buffer("_one", torch.ones(()), persistent=False)  # in the model's dtype
        self._one: Tensor

    def __iter__(self) -> Any:
        return iter(self.parts)

    def forward(self, condition: Tensor) -> Tensor:
        given = (part.placed(columns, columns.device, self._one.dtype) for part, columns in self._each(condition))
        return torch.cat([part(columns) for part, columns in zip(self, given, strict=True)], dim=1)

    def as_rows(self, condition: Any, count: int) -> Tensor:
        rows = self.as_tensor(condition)
        if rows.is_complex() or rows.dtype == torch.bool:
            raise TypeError(f"the condition is {self.given_as}; got {rows.dtype}")
        rows = rows if rows.is_floating_point() else rows.float()
        if rows.ndim == 1:
            rows = rows.unsqueeze(0) if rows.numel() else rows.new_empty(0, self.columns)
        if rows.ndim == 2 and rows.shape[0] == 1:
            rows = rows.expand(count, -1)
        if rows.shape != (count, self.columns):
            raise ValueError(f"the condition is {self.given_as}; got the shape {tuple(rows.shape)} for {count} example(s)")
        return rows

    def placed(self, condition: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """On the device, in the dtype that they have: bfloat16 has no 257, which is the number of a class."""
        return condition.to(device)

    def check(self, condition: Tensor) -> None:
        for part, columns in self._each(condition):
            part.check(columns)

    def parsed(self, text: str) -> Tensor:
        texts = text.split(",")
        if len(texts) != self.columns:
            raise ValueError(f"{len(texts)} values for {self.columns} columns")
        starts = torch.tensor([0, *self._sizes]).cumsum(0).tolist()
        each = (
            part.parsed(",".join(texts[start : start + size]))
            for part, start, size in zip(self, starts, self._sizes, strict=False)
        )
        return torch.cat([value.reshape(-1).float() for value in each])

    def label(self, condition: Tensor) -> str:
        values = self._each(condition[None])
        return "; ".join(part.label(value[0]) for part, value in values)

    def _each(self, condition: Tensor) -> list[tuple[Any, Tensor]]:
        """Each part with its columns, as it takes them."""
        columns = condition.split(self._sizes, dim=1)
        return [(part, part.of_columns(own)) for part, own in zip(self, columns, strict=True)]

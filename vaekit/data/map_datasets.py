"""Converter of torch's map-style datasets, torchvision's for example, whose items are x, (x, y) or {"x": x, "y": y}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from vaekit.data.arrays import examples_of
from vaekit.data.examples import Examples, as_examples
from vaekit.data.readers import converter
from vaekit.data.row_file import row_numbers

X, Y = ("x", "image", "img", "pixel_values"), ("y", "label", "labels")  # what datasets call examples and labels
_TARGETS = ("targets", "labels", "_labels")  # where torchvision's datasets keep all labels


class DatasetRows:
    """The examples of a dataset as an array [N, *S] whose rows are read when they are indexed.

    Attributes:
        shape: [N, *S].
        dtype: of the values.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        first, again = _array(_field(dataset[0], 0, X)), _array(_field(dataset[0], 0, X))
        if first.shape != again.shape or not np.array_equal(first, again, equal_nan=first.dtype.kind == "f"):
            raise TypeError(
                f"{type(dataset).__name__} gives other values each time, as one that augments does; put it into a "
                "torch.utils.data.DataLoader"
            )
        self.shape: tuple[int, ...] = (len(dataset), *first.shape)
        self.dtype: np.dtype[Any] = first.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """A copy of the rows at an integer, a slice, integers [B] or a mask bool [N]."""
        rows = row_numbers(index, len(self), f"the {type(self.dataset).__name__}")
        values = np.empty((rows.size, *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows.reshape(-1).tolist()):
            value = _array(_field(self.dataset[row], 0, X))
            if value.shape != self.shape[1:]:
                raise ValueError(
                    f"example {row} of the {type(self.dataset).__name__} has the shape {value.shape}, the first one has "
                    f"{self.shape[1:]}; resize them in its transform"
                )
            values[place] = value
        return values.reshape((*rows.shape, *self.shape[1:]))


def _is_dataset(data: Any) -> bool:
    is_map = isinstance(data, Dataset) and not isinstance(data, (IterableDataset, Examples))
    return is_map and hasattr(data, "__len__") and len(data) > 0


@converter("map-style datasets of torch", _is_dataset)
def of_dataset(dataset: Any, *, layout: str = "auto") -> Examples:
    """Examples of a dataset. x is read when it is used; y at once, from `targets` or `labels` where it has them."""
    if isinstance(dataset, TensorDataset):
        return as_examples(dataset.tensors[0] if len(dataset.tensors) == 1 else dataset.tensors[:2], layout=layout)
    x, count = DatasetRows(dataset), len(dataset)
    y = next((found for name in _TARGETS if (found := getattr(dataset, name, None)) is not None and _size(found) == count), None)
    if y is None and _field(dataset[0], 1, Y) is not None:
        y = [_number(_field(dataset[row], 1, Y)) for row in range(count)]
    names, examples = getattr(dataset, "classes", None), examples_of(x, y, layout=layout, name=type(dataset).__name__)
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return examples
    return examples.with_label_names(names)


def _size(values: Any) -> int:
    return len(values) if hasattr(values, "__len__") else -1


def _field(item: Any, place: int, names: tuple[str, ...]) -> Any:
    """The x or the y of an item; None where it has no y."""
    if isinstance(item, Mapping):
        return next((item[name] for name in names if name in item), None)
    if isinstance(item, (tuple, list)):
        return item[place] if place < len(item) else None
    return item if place == 0 else None


def _number(value: Any) -> Any:
    return value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value


def _array(value: Any) -> npt.NDArray[Any]:
    if value is None:
        raise TypeError(f"a dataset has to give x, (x, y) or a mapping with one of: {', '.join(X)}")
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)

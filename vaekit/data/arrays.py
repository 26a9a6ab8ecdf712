"""Examples of arrays and tensors, in memory or on disk: their axes, and what their bytes mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.masked import MaskedTensor

from vaekit.data.axes import form_of
from vaekit.data.conversion import check_real, divisor_of, floats, labels, plain
from vaekit.data.examples import Examples
from vaekit.data.labels import named_labels
from vaekit.data.mapped import MappedArray
from vaekit.data.readers import Parts, converter
from vaekit.data.row_file import RowFile

LARGEST_FLOATS = 1 << 28  # numbers: larger arrays of bytes stay bytes, a quarter of the memory, and become floats batch by batch


def examples_of(
    x: Any,
    y: Any = None,
    *,
    layout: str = "auto",
    divisor: float | None = None,
    label_names: Sequence[str] | None = None,
    name: str = "x",
) -> Examples:
    """Examples of an array or tensor [N, *S], in memory or left on disk.

    Args:
        x: a tensor, an array, or what reads rows of one where it is indexed (a `RowFile` for example).
        y: labels [N], numbers or text, vectors [N, K], or None.
        layout: of `vaekit.data.axes.LAYOUTS`.
        divisor: of the values; by default 255 for bytes, unless all of them are 0 or 1.
        label_names: of the labels; those of text are the words.
        name: of x, for messages.

    Raises:
        TypeError, ValueError: as `as_examples`; a layout that does not fit.
    """
    if isinstance(x, Tensor) and not isinstance(x, MaskedTensor):
        x = plain(x, "data")
    stored = x.data if isinstance(x, np.ma.MaskedArray) else x
    if not isinstance(stored, Tensor):
        check_real(stored.dtype)
    if len(x.shape) == 0:
        raise ValueError(f"data has to have the shape [examples, ...], got {tuple(x.shape)}; {name} is a single number")
    form = form_of(tuple(x.shape), str(x.dtype).endswith("uint8"), layout, name)
    divisor = divisor_of(x) if divisor is None else divisor
    is_in_memory = isinstance(stored, (Tensor, np.ndarray)) and not isinstance(stored, np.memmap)
    is_large = isinstance(stored, np.ndarray) and stored.dtype.itemsize == 1 and stored.size > LARGEST_FLOATS
    numbered, names = (labels(y), label_names) if label_names is not None else named_labels(y)
    if is_in_memory and not is_large:
        return Examples(floats(x, divisor, form), numbered, label_names=names)
    return Examples(MappedArray(x, divisor=divisor, form=form), numbered, label_names=names)


def parts_of(train: tuple[Any, Any], test: tuple[Any, Any] | None, *, layout: str = "auto", name: str = "x") -> Parts:
    """Training and test examples of (x, y) each, whose bytes mean the same in both."""
    if test is None:
        return examples_of(*train, layout=layout, name=name), None
    divisor = max(divisor_of(train[0]), divisor_of(test[0]))
    first, second = (examples_of(x, y, layout=layout, divisor=divisor, name=name) for x, y in (train, test))
    return first, second.numbered_as(first.label_names)


@converter("tensors and arrays", lambda data: isinstance(data, (Tensor, np.ndarray, RowFile)))
def _of_array(x: Any, *, layout: str = "auto") -> Examples:
    return examples_of(x, layout=layout)

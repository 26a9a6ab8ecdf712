"""Arrays and tensors of many kinds, converted to plain tensors: floats [N, *S] and labels int64 [N].

Masked elements, of NumPy's or torch's masked arrays, are missing: NaN among floats, -1 among labels. Values that would lose
their meaning are refused, with advice on how to convert them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.masked import MaskedTensor

from vaekit.data.axes import arranged

MISSING = -1  # a label that is not there

_GREY_LEVELS = 255.0
_FIRST_BLOCK, _BLOCK = 1 << 12, 1 << 22  # bytes that are looked at at once


def divisor_of(x: Any) -> float:
    """255 for bytes, which are grey levels; 1 for other numbers, and for bytes that are all 0 or 1.

    Rows are looked at until one holds another number: in grey levels the first few, of 0 and 1 all of them.

    Args:
        x: a tensor, an array, or what reads rows of one where it is indexed.

    Example:
        >>> divisor_of(np.array([[0, 255]], np.uint8)), divisor_of(np.array([[0, 1]], np.uint8)), divisor_of(np.array([[255.0]]))
        (255.0, 1.0, 1.0)
    """
    if x.dtype not in (np.uint8, torch.uint8):
        return 1.0
    row_bytes = max(1, math.prod(x.shape[1:]))
    start, count = 0, max(1, _FIRST_BLOCK // row_bytes)
    while start < x.shape[0]:
        block = x[start : start + count]
        if isinstance(block, MaskedTensor):
            block = block.get_data()[block.get_mask()]
        elif isinstance(block, np.ma.MaskedArray):
            block = block.compressed()
        if math.prod(block.shape) and int(block.max()) > 1:
            return _GREY_LEVELS
        start, count = start + count, max(1, _BLOCK // row_bytes)
    return 1.0


def check_real(dtype: np.dtype[Any]) -> None:
    """Raise TypeError unless an array's dtype is one of real numbers."""
    if dtype.kind not in "fiub":
        advice = "; x.astype(np.float32) converts objects that are numbers" if dtype.kind == "O" else ""
        raise TypeError(f"data has to be real numbers, got an array of {dtype}{advice}")


def plain(x: Tensor, name: str) -> Tensor:
    """A dense tensor that requires no gradient; for a masked tensor, its values whether masked or not.

    Raises:
        TypeError: a nested, sparse or quantized tensor; says how to convert it.
        ValueError: a tensor on the device "meta", which has no values.
    """
    if isinstance(x, MaskedTensor):
        x = x.get_data()
    if x.is_nested:
        raise TypeError(
            f"{name} is a nested tensor, whose rows differ in length; torch.nested.to_padded_tensor(x, math.nan) pads them"
        )
    if x.layout is not torch.strided:
        raise TypeError(f"{name} is a sparse tensor ({x.layout}); x.to_dense() converts it")
    if x.is_quantized:
        raise TypeError(f"{name} is a quantized tensor ({x.dtype}); x.dequantize() converts it")
    if x.device.type == "meta":
        raise ValueError(f"{name} is on the device meta, where tensors have no values")
    if x.is_inference() and not torch.is_inference_mode_enabled():
        return x.clone()  # autograd cannot save inference tensors for backward
    return x.detach() if x.requires_grad else x


def floats(x: Tensor | npt.NDArray[Any], divisor: float | None = None, form: str = "") -> Tensor:
    """Values as floats, NaN where they are masked: float32, or the dtype of a floating-point tensor.

    Integers and booleans keep their values, rounded to float32, but for the divisor. Arrays are copied.

    Args:
        x: the values [N, *S].
        divisor: of integers; by default `divisor_of` them.
        form: what `vaekit.data.axes.arranged` makes of the axes.

    Raises:
        TypeError: values that are not real numbers, or a tensor that is not dense.
        ValueError: finite values beyond float32's range.
    """
    if isinstance(x, Tensor):
        values = plain(x, "data")
        if values.is_complex():
            raise TypeError("data has to be real numbers, got a complex tensor")
        if not values.is_floating_point():
            values = values.float() / (divisor_of(values) if divisor is None else divisor)
        values = values.masked_fill(~x.get_mask(), math.nan) if isinstance(x, MaskedTensor) else values
        return arranged(values, form).contiguous() if form else values
    check_real(x.dtype)
    return torch.from_numpy(float32(arranged(x, form))) / (divisor_of(x) if divisor is None else divisor)


def float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A new, contiguous float32 array of the values, NaN where they are masked.

    Raises:
        ValueError: finite values beyond float32's range.
    """
    try:
        with np.errstate(over="raise"):
            filled = values.filled(0) if isinstance(values, np.ma.MaskedArray) else values
            converted = np.array(filled, dtype=np.float32, order="C")
    except FloatingPointError as error:
        raise ValueError("the data holds numbers beyond the range of float32, 3.4e38; rescale it") from error
    if isinstance(values, np.ma.MaskedArray):
        converted[np.ma.getmaskarray(values)] = math.nan
    return converted


def labels(y: Any) -> Tensor | None:
    """Labels, whole numbers of any dtype, as int64 [N]; real numbers as floats [N, 1]; vectors as floats [N, K].

    Whole numbers of shape [N, 1], in a dtype of whole numbers, are labels [N]. Labels that are masked, NaN or None are missing:
    -1, as in scikit-learn.

    Raises:
        TypeError: a tensor that is not dense.
        ValueError: another shape; a label outside int64's range, a number of a vector that is missing, one of real numbers that
            is, or labels that all are. Names the first such example.
    """
    if y is None:
        return None
    if isinstance(y, (list, tuple)) and any(isinstance(row, np.ma.MaskedArray) for row in y):
        y = _joined(np.ma.array, y)  # np.asarray would drop the masks
    y = filled(y)
    check_none_missing(y)
    values = plain(y, "labels").cpu() if isinstance(y, Tensor) else _joined(np.asarray, y)
    if values.ndim not in (1, 2):
        raise ValueError(f"labels have to have the shape [examples], vectors [examples, size], got {tuple(values.shape)}")
    if values.ndim == 2:
        if values.is_complex() if isinstance(values, Tensor) else values.dtype.kind not in "fiub":
            raise ValueError(f"labels that are vectors have to be real numbers, got {values.dtype}")
        if values.shape[1] == 1 and not _is_floating_point(values):
            values = values[:, 0]
        elif isinstance(values, Tensor):
            return values if values.is_floating_point() else values.float()
        else:
            return torch.from_numpy(float32(values))
    if isinstance(values, Tensor):
        values = (values.double() if values.is_floating_point() else values).numpy()  # NumPy has no bfloat16
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values != np.trunc(values)).any():
        return torch.from_numpy(float32(values))[:, None]
    values = with_missing_numbers(values)
    _check_whole(values)
    return torch.from_numpy(values.astype(np.int64))


def with_missing_numbers(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Labels [N] with -1 where they are None, or NaN among whole numbers: what is missing.

    Raises:
        ValueError: all are.
    """
    if values.dtype.kind not in "fO":
        return values
    missing = np.isnan(values) if values.dtype.kind == "f" else np.array([value is None or value != value for value in values])
    if not missing.any():
        return values
    if missing.all():
        raise ValueError(f"the labels are missing in all {len(values)} examples; leave y out")
    return np.where(missing, MISSING, values)


def filled(y: Any) -> Any:
    """Masked labels [N] with -1 where they are masked, or NaN among floats; everything else as it is."""
    if isinstance(y, MaskedTensor) and y.ndim == 1:
        return torch.where(y.get_mask(), y.get_data(), math.nan if y.is_floating_point() else MISSING)
    if isinstance(y, np.ma.MaskedArray) and y.ndim == 1 and y.dtype.kind in "iufb" and np.ma.getmaskarray(y).any():
        is_floating = y.dtype.kind == "f"
        return np.where(np.ma.getmaskarray(y), math.nan if is_floating else MISSING, y.data.astype("f8" if is_floating else "i8"))
    return y


def _is_floating_point(values: Tensor | npt.NDArray[Any]) -> bool:
    return values.is_floating_point() if isinstance(values, Tensor) else values.dtype.kind == "f"


def _joined(join: Callable[[Any], npt.NDArray[Any]], y: Any) -> npt.NDArray[Any]:
    try:
        return join(y)
    except ValueError as error:
        raise ValueError(f"labels have to be one number, or one vector of the same size, for each example: {error}") from error


def check_none_missing(y: Any) -> None:
    """Raise ValueError if a label [N], or an entry of a vector [N, K], is masked; names the first such example."""
    if isinstance(y, MaskedTensor):
        missing = ~y.get_mask().detach().cpu().numpy()
    elif isinstance(y, np.ma.MaskedArray):
        missing = np.ma.getmaskarray(y)
    else:
        return
    rows = missing.reshape(len(missing), -1).any(1).nonzero()[0]
    if len(rows):
        raise ValueError(
            f"labels are missing (masked) in {len(rows)} of {len(missing)} examples, first in example {rows[0]}; "
            "leave those examples out"
        )


def _check_whole(values: npt.NDArray[Any]) -> None:
    """Raise ValueError unless all labels [N] are whole numbers within int64's range; names the first example that is not."""
    if values.dtype.kind == "f":
        wide = values if values.dtype.itemsize > 8 else values.astype(np.float64)
        fits = (wide == np.trunc(wide)) & (wide >= -(2.0**63)) & (wide < 2.0**63)
    elif values.dtype.kind == "u":
        fits = values.astype(np.uint64) <= np.uint64(2**63 - 1)
    elif values.dtype.kind == "O":  # NumPy's fallback for integers beyond 64 bits, and pandas' for missing ones
        fits = np.array([isinstance(value, Integral) and -(2**63) <= int(value) < 2**63 for value in values])
    else:
        fits = np.full(values.shape, values.dtype.kind in "ib")
    if fits.all():
        return
    first = int(np.argmin(fits))
    raise ValueError(
        f"labels have to be whole numbers within int64's range, got {values.dtype} {values[first]!s} in example {first}"
    )

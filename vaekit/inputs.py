"""Checks that data passes before a model sees it: shape, dtype, infinity, NaN, the likelihood's support, the condition."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.data import Batch, Examples
from vaekit.vae import VAE

_ELEMENTS_AT_ONCE = 1 << 24  # to bound the temporaries of a check


def check_examples(vae: VAE, examples: Examples, name: str) -> None:
    """Raise if examples do not fit the model: their shape, infinity, NaN, the likelihood's support, the condition.

    Examples in a file are read once for it.

    Raises:
        TypeError: another dtype than the weights have.
        ValueError: names `name`, the first bad example, or the range that was seen.
    """
    if tuple(examples.x.shape[1:]) != vae.input_shape:
        expected = ", ".join(map(str, vae.input_shape))
        raise ValueError(
            f"{name}: the model takes examples of shape ({expected}), the data has ({', '.join(map(str, examples.x.shape[1:]))})"
        )
    if examples.x.dtype != (dtype := next(vae.parameters()).dtype):
        raise TypeError(
            f"{name}: x is {examples.x.dtype}, the model's weights are {dtype}; convert one, x.to({dtype}) for example"
        )
    if vae.condition is not None and examples.y is None:
        raise ValueError(
            f"{name}: the model is conditional: give the condition of each example as well, (x, y) instead of x, or a .npz file "
            "with x and y"
        )
    rows = max(1, _ELEMENTS_AT_ONCE // math.prod(vae.input_shape))
    for start in range(0, len(examples), rows):
        x = examples.x[start : start + rows]
        condition = None if vae.condition is None or examples.y is None else examples.y[start : start + len(x)]
        check_values(vae, Batch(x, condition), name, examples.numbers(torch.arange(start, start + len(x))))


def check_values(vae: VAE, batch: Batch, name: str, numbers: Tensor | None = None) -> None:
    """Raise if a value of x [B, *S] is infinite, outside the likelihood's support, or NaN where the likelihood refuses that.

    Or if the condition is not what the model takes.

    Args:
        numbers: int64 [B], by which a person knows the examples; 0 to B - 1 by default.
    """
    x = batch.x
    ignores_missing = vae.likelihood.missing == "ignore"
    usable = (~x.isinf() if ignores_missing else x.isfinite()).flatten(1).all(1)
    if not usable.all():
        bad = (~usable).nonzero().flatten()
        first = int(bad[0])
        is_missing = not ignores_missing and bool(x[first].isnan().any())
        raise ValueError(
            f"{name}: sample {first if numbers is None else int(numbers[first])} holds {'NaN' if is_missing else 'infinity'} "
            f"({len(bad)} such sample(s) of {len(x)} looked at); remove or fill them first"
            + (', or leave missing values out with the likelihood\'s option missing="ignore"' if is_missing else "")
        )
    try:
        vae.likelihood.check(x)
        if vae.condition is not None:
            vae.condition.check(vae.condition.as_rows(batch.condition, len(x)))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error

"""What tells one dataset from another: its sizes and dtypes, and the hash of some of its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vaekit.data.examples import Examples
from vaekit.weights import little_endian

_ROWS = 64

_WORDS = {
    "kind": "the kind of data",
    "examples": "the number of examples",
    "x": "x",
    "y": "y",
    "rows": f"the values in {_ROWS} rows",
    "loader": "the loader",
    "batch_size": "the loader's batch_size",
    "sampler": "the loader's sampler",
    "drop_last": "the loader's drop_last",
}


def fingerprint_of(examples: Examples) -> dict[str, Any]:
    """Plain data that are the same for the same examples, in memory or on disk.

    Values are hashed in 64 rows spread evenly from the first to the last, so that it costs as little for a file that does not fit
    into memory; a change in the rows between them is not seen. All NaN count as the same.

    Example:
        >>> made = fingerprint_of(Examples(torch.zeros(5, 3)))
        >>> made["examples"], made["x"], made["y"]
        (5, 'float32 [3]', None)
    """
    count, y = len(examples), examples.y
    index = spread_rows(count)
    parts = [examples.x[index], examples.numbers(index)] + ([] if y is None else [y[index.to(y.device)]])
    return {
        "kind": "examples",
        "examples": count,
        "x": _outline(examples.x.dtype, examples.x.shape[1:]),
        "y": None if y is None else _outline(y.dtype, y.shape[1:]),
        "rows": hash_of(parts, 16).hexdigest(),
    }


def spread_rows(count: int) -> Tensor:
    """The numbers of up to 64 of so many rows, from the first to the last."""
    # Not torch.linspace, which rounds to float32.
    numbers = {place * (count - 1) // (_ROWS - 1) for place in range(_ROWS)} if count else ()
    return torch.tensor(sorted(numbers), dtype=torch.int64)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How the fingerprint of the data of a run differs from that of the data at hand, in words; "" if it does not.

    Args:
        before: the fingerprint that was stored.
        now: the fingerprint of the data at hand.

    Example:
        >>> one, other = (fingerprint_of(Examples(torch.zeros(count, 3))) for count in (5, 4))
        >>> differences(one, other)
        'the number of examples was 5 and is 4; the values in 64 rows differ'
    """
    told = []
    for name in dict.fromkeys((*before, *now)):
        one, other = before.get(name), now.get(name)
        if one != other and not (name == "rows" and _begin_alike(one, other)):
            what = _WORDS.get(name, name)
            told.append(f"{what} differ" if name == "rows" and one and other else f"{what} was {one} and is {other}")
    return "; ".join(told)


def _begin_alike(one: Any, other: Any) -> bool:
    """Whether two samples of a loader's rows, one of which may be longer, or could not be taken, show no difference."""
    samples = [[] if sample is None else sample for sample in (one, other)]
    return all(isinstance(sample, list) for sample in samples) and all(a == b for a, b in zip(*samples, strict=False))


def hash_of(tensors: list[Tensor], size: int) -> Any:
    """A hash, `size` bytes long, of the dtypes, shapes and values of tensors; all NaN count as the same."""
    made = hashlib.blake2b(digest_size=size)
    for tensor in tensors:
        value = tensor.masked_fill(tensor.isnan(), torch.nan) if tensor.is_floating_point() else tensor
        made.update(_outline(value.dtype, value.shape).encode())
        made.update(little_endian(value))
    return made


def _outline(dtype: torch.dtype, shape: torch.Size) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"

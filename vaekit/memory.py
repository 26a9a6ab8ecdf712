"""A bound on the memory of the tensors that some code makes, kept before each of them is made; and memory that is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map


def check_room(count: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a number of samples of a shape that do not fit into memory, before anything is computed.

    Raises:
        MemoryError: there is no room.
    """
    try:
        torch.empty((count, *shape), dtype=dtype, device=device)
    except (RuntimeError, TypeError) as error:  # too many bytes, and more than 64 bits
        size = count * math.prod(shape) * dtype.itemsize / 2**30
        raise MemoryError(
            f"there is no room for {count:,} samples of the shape {shape}, {size:,.0f} GiB; take fewer at a time"
        ) from error


_MOST_LEARNED = (32 << 20) - (64 << 10)  # bytes; glibc's DEFAULT_MMAP_THRESHOLD_MAX with room for what it adds


def keep_freed_blocks() -> None:
    """Have glibc keep up to 64 MiB that are freed, for what is allocated next, instead of giving them back to the system.

    Gradients are freed in each step and allocated again in the next. If their pages were given back, each would cost a fault when
    it is written again, altogether up to a fifth of a step. glibc learns from what is freed: mallopt(3) says so of
    M_MMAP_THRESHOLD, which follows the largest block that was freed, up to 32 MiB, and takes M_TRIM_THRESHOLD to twice its size.
    The block here is never touched, and takes no memory. Elsewhere this does nothing.
    """
    torch.empty(_MOST_LEARNED, dtype=torch.uint8)


class MemoryBoundError(Exception):
    """The next operation would have gone beyond the bound."""


class MemoryBound(TorchDispatchMode):
    """Within it, operations may make `tensors` tensors of `size` bytes altogether; the first that would make more is refused.

    What an operation is going to make is learned from running it on the meta device, which has shapes and no memory. One that
    cannot run there, because its result's shape depends on values, is counted once it has run. What has been freed counts as
    well. The bound holds for the calling thread.

    Args:
        size: in bytes.
        tensors: how many, for modules and their Python objects take memory as well.

    Attributes:
        refused: what was refused, in words; None as long as nothing was.

    Raises:
        MemoryBoundError: from within, at the operation that is refused and all after it.

    Example:
        >>> with MemoryBound(1_000_000, tensors=10):
        ...     small = torch.zeros(100)
        ...     large = torch.zeros(10**12)
        Traceback (most recent call last):
        vaekit.memory.MemoryBoundError: a tensor of the shape (1000000000000,), of 4000000000000 bytes
    """

    def __init__(self, size: int, tensors: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size, self.tensors = size, tensors
        self.refused: str | None = None

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True  # False, torch's default, keeps other threads from compiling: it is noted for the process, not the thread

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, torch's default, imports its compiler at the first operation: a second and a half, and 70 MB

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if not _makes_tensors(func):
            return func(*args, **kwargs)
        try:
            foreseen = func(*tree_map(_on_meta, args), **tree_map(_on_meta, kwargs))
        except Exception:  # the operation says itself what is wrong with it
            foreseen = None
        if foreseen is not None:
            self._count(foreseen)
        result = func(*args, **kwargs)
        if foreseen is None:
            self._count(result)
        return result

    def _count(self, made: Any) -> None:
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor):
                size = tensor.numel() * tensor.element_size()
                self.size -= size
                self.tensors -= 1
                if self.size < 0:
                    self.refused = self.refused or f"a tensor of the shape {tuple(tensor.shape)}, of {size} bytes"
                elif self.tensors < 0:
                    self.refused = self.refused or "too many tensors"
        if self.refused:
            raise MemoryBoundError(self.refused)


def _makes_tensors(func: Any) -> bool:
    """Whether the operation returns a tensor with memory of its own, rather than a view of one of its arguments, or a number."""
    return any(returned.alias_info is None and "Tensor" in str(returned.type) for returned in func._schema.returns)


def _on_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return torch.device("meta") if isinstance(value, torch.device) else value

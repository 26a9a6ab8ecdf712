"""Batches as a loader streams them, in its order and of its sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from vaekit.data.batch import Batch
from vaekit.data.batches import EMPTY, Batches
from vaekit.data.conversion import check_none_missing, check_real, filled, float32, floats, plain
from vaekit.data.sampled import sample_of
from vaekit.data.whole import smallest_of


class Stream(Batches):
    """Batches as a loader makes them, in its order and of its sizes; iterated over once per epoch.

    Masked values become NaN, but torch's default `collate_fn` drops the masks of `numpy.ma` before they get here: fill them with
    NaN in the dataset.

    Nothing is read ahead here: a loader that does so has workers of its own.

    Args:
        loader: any iterable of batches, such as a `DataLoader`. A batch is x, a tuple or list that begins with x, a mapping with
            "x", or a `Batch`; x is a floating-point tensor [B, *S], or an array, which becomes a float32 tensor.
        conditional: whether a batch carries its condition too: what follows x, or "y".

    Attributes:
        size: the number of examples in an epoch, or in this process's share of it where the loader gives a share; None where the
            loader does not know it.
        is_checked: False: the values of a batch have to be checked whenever it comes.
        why_not_compared: why its `fingerprint` says nothing of the examples' values, in words; "" where it does.
        can_resume: whether the loader can go on from the middle of an epoch: it has state_dict and load_state_dict, as
            `torchdata.stateful_dataloader.StatefulDataLoader` and the `IterableDataset` of Hugging Face do. It goes on as exactly
            as that state says: Hugging Face's leaves out what waits in a buffer of `shuffle` (with a buffer_size above 1).

    Raises:
        TypeError: while iterating, a batch of another kind; says how to convert it.
        ValueError: an empty loader; while iterating, a batch without x or y, or with missing labels.

    Example:
        >>> stream = Stream([torch.rand(2, 3), torch.rand(1, 3)])
        >>> [len(batch.x) for batch in stream], stream.size, stream.can_resume
        ([2, 1], None, False)
    """

    is_checked = is_indexed = False

    def __init__(self, loader: Iterable[Any], conditional: bool = False) -> None:
        self._conditional = conditional
        self._loader: Any = loader
        size = getattr(loader, "batch_size", None)
        self.batch_size = size if isinstance(size, int) else None
        self.keeps_workers = bool(getattr(loader, "persistent_workers", False))
        self.why_not_compared = ""
        sampler, batch_sampler, dataset = (getattr(loader, name, None) for name in ("sampler", "batch_sampler", "dataset"))
        if 0 in (_length(dataset), _length(loader)):
            raise ValueError(EMPTY)
        drawing = [getattr(batch_sampler, "sampler", None), sampler, dataset]  # the first that there is decides how many
        self.size = next((length for one in drawing if (length := _length(one)) is not None), None)
        self._shuffling = {id(one): one for one in (loader, batch_sampler, *drawing)}.values()
        self.can_resume = all(callable(getattr(loader, name, None)) for name in ("state_dict", "load_state_dict"))

    @property
    def smallest(self) -> int | None:
        """The number of examples in the smallest batch, which a `DataLoader` that makes its batches itself tells; or None."""
        loader = self._loader
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or self.size is None:
            return None
        size = self.batch_size
        return size if size is None or loader.drop_last else smallest_of(self.size, size)

    def one(self) -> Batch:
        return as_batch(self._loader.collate_fn([self._loader.dataset[0]]), self._conditional)

    def some(self, count: int) -> None:
        return None

    def numbers(self, index: Tensor) -> None:
        return None

    def all_checked(self) -> None:
        pass

    def epoch(self, number: int, state: Any = None) -> Iterator[Batch]:
        """The batches of one epoch, all of them or those that come after a state.

        The loader is told the number of the epoch where it, its samplers or its dataset have a `set_epoch`: without it
        `torch.utils.data.DistributedSampler` and the `IterableDataset` of Hugging Face give every epoch the same order.

        Args:
            number: of the epoch, 0 for the first.
            state: what `state_dict` gave in this epoch, to go on from there; or what it gave at the end of the epoch before, from
                which a loader with a random generator of its own goes on to this one. None: the loader is as it is.

        Raises:
            TypeError: a state for a loader that cannot be resumed.
        """
        for one in self._shuffling:
            if callable(set_epoch := getattr(one, "set_epoch", None)):
                set_epoch(number)
        if state is not None:
            self._check_that_it_can_resume()
            self._loader.load_state_dict(state)
        return iter(self)

    def state_dict(self) -> Any:
        """The loader's place after the last batch that was handed out, in its own words; `vaekit.plain.pack` stores it.

        Before the first batch of an epoch a loader may draw from torch's global generator for it, what it would have drawn for
        that batch: seed the generator first.

        Raises:
            TypeError: the loader cannot be resumed.
        """
        self._check_that_it_can_resume()
        return self._loader.state_dict()

    def _check_that_it_can_resume(self) -> None:
        if not self.can_resume:
            raise TypeError(
                f"a {type(self._loader).__name__} has no state_dict and load_state_dict, and cannot go on from the middle of an "
                "epoch; torchdata.stateful_dataloader.StatefulDataLoader can"
            )

    def fingerprint(self, is_first: bool = True) -> dict[str, Any]:
        loader = self._loader
        sample = sample_of(loader) if is_first else None
        self.why_not_compared = "" if sample is None else sample.why_not
        return {
            "kind": "loader",
            "loader": type(loader).__name__,
            "examples": _length(getattr(loader, "dataset", None)),
            "batch_size": self.batch_size,
            "sampler": type(loader.sampler).__name__ if isinstance(loader, DataLoader) else None,
            "drop_last": loader.drop_last if isinstance(loader, DataLoader) else None,
            "rows": None if sample is None or sample.why_not else sample.hashes,
        }

    def generators(self) -> list[Tensor]:
        """The states of the random generators that the loader was given, which go on from epoch to epoch."""
        return [generator.get_state() for generator in self._generators()]

    def set_generators(self, states: list[Tensor]) -> None:
        """Go on from what `generators` gave."""
        for generator, state in zip(self._generators(), states, strict=True):
            generator.set_state(state)

    def _generators(self) -> list[torch.Generator]:
        found = [getattr(one, "generator", None) for one in self._shuffling]
        return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())

    @property
    def length(self) -> int | None:
        return _length(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        self._draw_for_workers_that_stay()
        for item in self._loader:
            yield as_batch(item, self._conditional)

    def _draw_for_workers_that_stay(self) -> None:
        """Let a `DataLoader` whose workers have not ended with the last epoch shuffle as any other does.

        Before it shuffles, it draws a seed for the workers that it starts, and nothing where they are there already.
        """
        # torch's own name; if that goes, such a loader shuffles otherwise.
        if self.keeps_workers and getattr(self._loader, "_iterator", None) is not None:
            torch.empty((), dtype=torch.int64).random_(generator=self._loader.generator)


def as_batch(item: Any, conditional: bool = False) -> Batch:
    """What a loader gives, x, (x, ...) or {"x": x}, as a batch; of a conditional model (x, y, ...) or {"x": x, "y": y}.

    Raises:
        TypeError, ValueError: as iterating over a `Stream` does.

    Example:
        >>> as_batch([torch.zeros(5, 3), torch.arange(5)], conditional=True).condition
        tensor([0, 1, 2, 3, 4])
    """
    return Batch(_checked_x(_field(item, "x")), _checked_y(_field(item, "y")) if conditional else None)


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:
        return None


def _field(item: Any, name: str) -> Any:
    """The x or y of a loader's batch, a tensor or an array.

    Raises:
        TypeError: it is neither.
        ValueError: a mapping without it.
    """
    if isinstance(item, Batch):
        item = (item.x, item.condition)
    if isinstance(item, Mapping):
        if name not in item:
            raise ValueError(f'a loader\'s batch that is a mapping needs the key "{name}", it has: {", ".join(map(str, item))}')
        value = item[name]
    elif isinstance(item, (tuple, list)) and len(item) > (place := 0 if name == "x" else 1):
        value = item[place]
    else:
        value = item if name == "x" else None
    if not isinstance(value, (Tensor, np.ndarray)):
        why = ", because the model is conditional" if name == "y" else ""
        forms = 'x, (x, ...) or {"x": x}' if name == "x" else '(x, y) or {"x": x, "y": y}'
        advice = "; torch.tensor(x) makes a tensor of lists of numbers" if isinstance(value, (float, int, list)) else ""
        raise TypeError(f"a loader has to give {forms} with a tensor {name}{why}, got {type(value).__name__}{advice}")
    return value


def _checked_x(x: Tensor | npt.NDArray[Any]) -> Tensor:
    """x of a loader's batch as a dense tensor, NaN where it is masked.

    Raises:
        TypeError: not floating-point, or not dense.
        ValueError: no batch dimension.
    """
    if isinstance(x, np.ndarray):
        check_real(x.dtype)
        is_floating, convert = x.dtype.kind == "f", "x.astype('float32')"
    else:
        is_floating, convert = x.is_floating_point(), "x.float()"
    if not is_floating:
        advice = f"{convert} / 255 converts grey levels" if x.dtype in (torch.uint8, np.uint8) else f"{convert} converts integers"
        if isinstance(x, Tensor) and x.is_complex():
            advice = "x.real, x.imag and x.abs() are real"
        raise TypeError(f"a loader has to give floating-point numbers, got {x.dtype}; {advice}, in the dataset or in collate_fn")
    if x.ndim < 2:
        advice = "; a torch.utils.data.DataLoader makes batches of examples, x[None] is a batch of one" if x.ndim else ""
        raise ValueError(f"a loader has to give x of the shape [batch, ...], got {tuple(x.shape)}{advice}")
    return torch.from_numpy(float32(x)) if isinstance(x, np.ndarray) else floats(x)


def _checked_y(y: Tensor | npt.NDArray[Any]) -> Tensor:
    """y of a loader's batch as a dense tensor, -1 where a label is masked; its dtype and values are the condition's to check.

    Raises:
        TypeError: not dense.
        ValueError: missing values of vectors.
    """
    y = filled(y)
    check_none_missing(y)
    if isinstance(y, np.ndarray):
        check_real(y.dtype)
        return torch.from_numpy(float32(y) if y.dtype.kind == "f" else y.astype(np.int64))
    return plain(y, "y in a loader's batch")

"""Batches: of examples held whole, in any order, or as a loader streams them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from vaekit.checks import checked_size
from vaekit.data.ahead import read_ahead
from vaekit.data.batch import Batch
from vaekit.data.conversion import check_none_missing, check_real, float32, floats, plain
from vaekit.data.examples import Examples, as_examples
from vaekit.data.fingerprint import fingerprint_of
from vaekit.data.sampled import sample_of
from vaekit.data.sharding import share
from vaekit.data.tables import is_table


class Whole:
    """Batches of examples held whole, which can be taken in any order and any number of times.

    Of examples on disk, the next batch is read by a thread while the present one is used.

    Args:
        examples: at least one.
        batch_size: the number of examples in a batch, over all processes; the last batch may have fewer.
        conditional: whether a batch carries its condition too, the examples' y.

    Attributes:
        examples: the examples.
        size: the number of examples.
        batch_size: the number of examples in a batch.
        keeps_workers: False: no process draws anything.
        why_not_compared: "": the values of examples are compared.
        is_checked: whether all values have been checked (by `vaekit.inputs`); until then, those of a batch have to be when it
            comes.

    Raises:
        ValueError: no examples; a batch_size below 1.

    Example:
        >>> whole = Whole(as_examples(torch.arange(5.0)[:, None]), batch_size=2)
        >>> [batch.x.flatten().tolist() for batch in whole.in_order(torch.tensor([4, 2, 0, 1, 3]), start=1)]
        [[0.0, 1.0], [3.0]]
    """

    keeps_workers: Final = False
    why_not_compared: Final = ""

    def __init__(self, examples: Examples, batch_size: int, conditional: bool = False) -> None:
        self.examples, self.batch_size, self._conditional = examples, checked_size("batch_size", batch_size), conditional
        self.size: int = len(examples)
        self.is_checked = False
        if not self.size:
            raise ValueError(_EMPTY)

    def __iter__(self) -> Iterator[Batch]:
        return self.in_order(None)

    def in_order(self, order: Tensor | None, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The batches from number `start` on.

        Args:
            order: int64 [N], the rows of the examples in the order they come in; None keeps their own order.
            start: the number of the first batch; the batches before it are skipped.
            rank: the process that asks. It gets its `share` of every batch, which may be empty.
            world: the number of processes.

        Raises:
            ValueError: an order of another length, a negative start, or an invalid rank.
        """
        if order is not None and order.shape != (self.size,):
            raise ValueError(f"order has to have the shape ({self.size},), one row for each example, got {tuple(order.shape)}")
        checked_size("start", start, least=0)
        share(0, rank, world)  # an invalid rank fails here, not at the first batch
        batches = self._in_order(order, start, rank, world)
        return batches if isinstance(self.examples.x, Tensor) else read_ahead(batches)

    @property
    def smallest(self) -> int:
        """The number of examples in the smallest batch."""
        return _smallest(self.size, self.batch_size)

    def one(self) -> Batch:
        """A batch of the first example."""
        return next(Whole(self.examples, 1, self._conditional)._in_order(None, 0, 0, 1))

    def _in_order(self, order: Tensor | None, start: int, rank: int, world: int) -> Iterator[Batch]:
        x, y = self.examples.x, self.examples.y if self._conditional else None
        for first in range(start * self.batch_size, self.size, self.batch_size):
            part = share(min(self.batch_size, self.size - first), rank, world)
            rows = slice(first + part.start, first + part.stop)
            if order is None:
                yield Batch(x[rows], None if y is None else y[rows], torch.arange(rows.start, rows.stop))
            else:
                yield self.at(order[rows])

    def at(self, index: Tensor) -> Batch:
        """The examples in these rows, int64 [B], as a batch."""
        x, y = self.examples.x, self.examples.y if self._conditional else None
        chosen = x.index_select(0, index.to(x.device)) if isinstance(x, Tensor) else x[index]
        return Batch(chosen, None if y is None else y[index.to(y.device)], index)

    def numbers(self, index: Tensor) -> Tensor:
        """The numbers of the examples at `index` int64 [B] in the file or array they came from."""
        return self.examples.numbers(index)

    def fingerprint(self, is_first: bool = True) -> dict[str, Any]:
        """Plain data that are the same for the same examples, in each process; see `vaekit.data.differences`."""
        return fingerprint_of(self.examples)


class Stream:
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

    is_checked: Final = False

    def __init__(self, loader: Iterable[Any], conditional: bool = False) -> None:
        self._conditional = conditional
        self._loader: Any = loader
        self.why_not_compared = ""
        sampler, batch_sampler, dataset = (getattr(loader, name, None) for name in ("sampler", "batch_sampler", "dataset"))
        if 0 in (_length(dataset), _length(loader)):
            raise ValueError(_EMPTY)
        drawing = [getattr(batch_sampler, "sampler", None), sampler, dataset]  # the first that there is decides how many
        self.size: int | None = next((length for one in drawing if (length := _length(one)) is not None), None)
        self._shuffling = {id(one): one for one in (loader, batch_sampler, *drawing)}.values()
        self.can_resume: bool = all(callable(getattr(loader, name, None)) for name in ("state_dict", "load_state_dict"))

    @property
    def smallest(self) -> int | None:
        """The number of examples in the smallest batch, which a `DataLoader` that makes its batches itself tells; or None."""
        loader = self._loader
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or self.size is None:
            return None
        size = self.batch_size
        return size if size is None or loader.drop_last else _smallest(self.size, size)

    def one(self) -> Batch:
        """A batch of one example, of a loader whose `smallest` is known."""
        return as_batch(self._loader.collate_fn([self._loader.dataset[0]]), self._conditional)

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
        """Plain data that tell one loader from another; see `vaekit.data.differences`.

        Args:
            is_first: whether this is the first process of a run. Another's loader may have examples of its own: only their number
                is compared, and their values are not read.
        """
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
    def keeps_workers(self) -> bool:
        """Whether processes that draw at random go on from epoch to epoch, with generators that nobody can reach."""
        return bool(getattr(self._loader, "persistent_workers", False))

    @property
    def batch_size(self) -> int | None:
        """The number of examples in a batch; None where the loader does not say."""
        size = getattr(self._loader, "batch_size", None)
        return size if isinstance(size, int) else None

    @property
    def length(self) -> int | None:
        """The number of batches in an epoch; None where the loader does not know it."""
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


def as_batches(data: Any, batch_size: int, conditional: bool = False) -> Whole | Stream:
    """Batches of data of any kind: a `Whole` of examples, or a `Stream` of a loader.

    Args:
        data: anything `as_examples` takes, or an iterable of batches such as a `DataLoader`; see `Stream`.
        batch_size: for whole examples; a loader has its own.
        conditional: whether a batch carries its condition too.

    Raises:
        TypeError: data of another kind.
        ValueError: no examples, or a batch_size below 1.

    Example:
        >>> [len(batch.x) for batch in as_batches(torch.rand(5, 3), batch_size=2)]
        [2, 2, 1]
    """
    checked_size("batch_size", batch_size)
    is_loader = isinstance(data, (DataLoader, IterableDataset))
    if is_loader or (isinstance(data, Iterable) and not isinstance(data, Dataset) and not _is_whole(data)):
        return Stream(data, conditional)
    return Whole(as_examples(data), batch_size, conditional)


_EMPTY = "the dataset is empty: there is nothing to train on or to evaluate"


def _smallest(size: int, batch_size: int) -> int:
    return min(size, size % batch_size or batch_size)


def _is_whole(data: Any) -> bool:
    """Whether `as_examples` should accept or refuse the data, rather than a `Stream` iterate over it."""
    array_like = hasattr(data, "__array__") or hasattr(data, "toarray")
    return array_like or is_table(data) or isinstance(data, (Examples, Tensor, tuple, Mapping, str))


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
        raise TypeError(f"a loader has to give {forms} with a tensor {name}{why}, got {type(value).__name__}")
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
    """y of a loader's batch as a dense tensor; its dtype and values are for the model's condition to check.

    Raises:
        TypeError: not dense.
        ValueError: missing values.
    """
    check_none_missing(y)
    if isinstance(y, np.ndarray):
        check_real(y.dtype)
        return torch.from_numpy(float32(y) if y.dtype.kind == "f" else y.astype(np.int64))
    return plain(y, "y in a loader's batch")

"""What each step of a run sees: which examples, in which order, with which noise.

All of it is a function of the seed and the step: no generator is carried along, so that any step can be taken again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from vaekit import plain
from vaekit.checks import checked_size
from vaekit.data import Batch, Batches, Stream, Whole, moved
from vaekit.divided import Portion, portions_of_examples, portions_of_stream
from vaekit.evaluation.terms import size_of_all
from vaekit.gathering import Ranks
from vaekit.ops import philox, streams
from vaekit.seeding import Seeds, seeds_of

_KEYS_AT_ONCE = 256


def step_key(seed: int, step: int | Tensor, device: str | torch.device = "cpu") -> Tensor:
    """The noise of an optimizer step in `vaekit.fit`, for loops of one's own: fold_in(fold_in(make_key(seed), 0), step).

    Layers that draw from torch's global generators, dropout for example, do so in `fit` after torch.manual_seed of the first word
    of fold_in(step key, 2), for each step; NumPy's and Python's have seeds of their own, see `vaekit.ops.streams`.

    Args:
        seed: of the run.
        step: the number of steps before it; an int64 tensor [*S] gives the keys of many, which costs little more than one.
        device: where the key is made.

    Returns:
        int64 [2], or [*S, 2].

    Example, what `fit(vae, x, epochs=2, batch_size=20, seed=0)` does, bit for bit on the same device:
        >>> import vaekit
        >>> vae, x, step = vaekit.create_vae(input_shape=(4,), latent_dim=2, seed=0), torch.rand(50, 4), 0
        >>> adam = vaekit.optimizers.build("adam", vae, 1e-3)  # a torch.optim.Adam, with the objective's own parameter groups
        >>> for epoch in range(2):
        ...     for rows in vaekit.epoch_order(0, epoch, len(x)).split(20):
        ...         terms = vae(x[rows], key=vaekit.step_key(0, step), step=step, index=rows, dataset_size=len(x))
        ...         terms.objective.backward()
        ...         adam.step()
        ...         adam.zero_grad()
        ...         step += 1
    """
    return philox.fold_in(philox.fold_in(philox.make_key(seed, device=device), streams.Run.STEPS), step)


def epoch_order(seed: int, epoch: int, size: int) -> Tensor:
    """The order in which `vaekit.fit` takes whole examples in an epoch: int64 [size], for loops of one's own.

    It is torch.randperm under a generator whose seed is the first word of fold_in(fold_in(make_key(seed), 1), epoch).

    Raises:
        TypeError, ValueError: a seed that is not a whole number of 64 bits, or a size below 0.

    Example:
        >>> sorted(epoch_order(0, 0, 5).tolist())
        [0, 1, 2, 3, 4]
    """
    key = philox.fold_in(philox.fold_in(philox.make_key(seed), streams.Run.ORDER), epoch)
    checked_size("size", size, least=0)
    return torch.randperm(size, generator=torch.Generator().manual_seed(_seed(key)))


@dataclass(frozen=True)
class Part:
    """What goes through the model at once.

    Attributes:
        batch: the examples, those that this process has.
        row_start: the number of its first example among those of the step.
        is_checked: whether its values have been checked: before the run, or in an earlier epoch.
        counts: how many examples each process has; one number where this process has them all.
    """

    batch: Batch
    row_start: int
    is_checked: bool
    counts: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of examples that all processes have."""
        return sum(self.counts)


@dataclass(frozen=True)
class Step:
    """What one optimizer step sees.

    Attributes:
        number: 0, 1, ... over the whole run.
        key: int64 [2], the noise of all its examples, on the device.
        parts: at least one.
        dataset_size: the number of examples in the dataset, where it is known.
    """

    number: int
    key: Tensor
    parts: tuple[Part, ...]
    dataset_size: int | None

    @property
    def count(self) -> int:
        """The number of examples, over all processes."""
        return sum(part.count for part in self.parts)


class Plan:
    """The steps of a run.

    The key of a step is its `step_key`. Whole examples come in `epoch_order`; a stream gives what it gives. What draws from
    the global generators of torch, NumPy or Python, a loader that shuffles or a layer with dropout, gets them seeded for each
    epoch and each step, by keys that are derived as `vaekit.ops.streams` says.

    With several processes each step is the same as with one, and each process gets its part of it: see `vaekit.divided`. What
    layers draw from the global generators is the one thing that differs, as each process draws numbers of its own.

    Args:
        batches: the training data.
        seed: of the run.
        device: where keys are made and batches go.
        accumulate: the number of batches in a step; the last step of an epoch takes what is left.
        reseed: seeds the global generators; called before an epoch's loader is asked for its batches, and before each step's
            batches are fetched. None leaves them alone.
        ranks: the processes of the run; None for this one alone.

    Attributes:
        say: told, in words, how a loader's batches are divided among several processes.
        can_resume: whether a run can go on from the middle of an epoch: every process can say where its loader is.
    """

    def __init__(
        self,
        batches: Batches,
        seed: int,
        device: torch.device,
        accumulate: int = 1,
        reseed: Callable[[Seeds], None] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.batches, self._seed = batches, seed
        self._loader_state: Any = None  # with which the next epoch begins
        self._is_cut_short = self._is_within = False
        self._is_over = False  # the loader of this process in this epoch, where those of others may not be
        self._is_shared_out = False
        self._device, self._accumulate, self._reseed, self._ranks = device, accumulate, reseed, ranks or Ranks()
        self.say: Callable[[str], None] = lambda text: None
        self._size: tuple[int | None] | None = None  # of the shards of all processes, when it has been asked for
        self._loader_key = philox.fold_in(philox.make_key(seed), streams.Run.LOADER)
        self.can_resume = batches.is_indexed or all(self._ranks.gather(batches.can_resume))

    @property
    def size(self) -> int | None:
        """The number of examples in an epoch; None where a loader does not know it."""
        return self.batches.size

    def expected_steps(self, epochs: int) -> int | None:
        """The number of steps in so many epochs, by what a loader says of its length; None where it says nothing.

        Of several processes with loaders of their own, which all take part until the last has ended, the longest counts.
        """
        lengths = self._ranks.gather(self.batches.length)
        known = [length for length in lengths if length is not None]
        return epochs * -(-max(known) // self._accumulate) if len(known) == len(lengths) else None

    def state_dict(self) -> dict[str, Any]:
        """Where a loader is that can say so, and the generators of another, in each process; whole examples need no state.

        Every process has to ask for it.
        """
        if not isinstance(self.batches, Stream):
            return {}
        own: dict[str, Any] = {"loader": None, "is_over": self._is_over, "generators": []}
        if self.can_resume and not self._is_cut_short:
            own["loader"] = self.batches.state_dict() if self._loader_state is None else self._loader_state
        else:
            own["generators"] = self.batches.generators()
        of_each = [own]
        if self._ranks.world > 1:
            of_each = [plain.from_text(text) for text in self._ranks.gather(plain.to_text(own, "loader"))]
        return {"of_each": of_each, "is_within": self._is_within, "is_shared_out": self._is_shared_out}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next epoch, or go on with it, where `state_dict` was.

        Raises:
            ValueError: within an epoch of which each of so many processes had batches of its own, and there are more or fewer.
        """
        if not isinstance(self.batches, Stream):
            return
        of_each, world, rank = state["of_each"], self._ranks.world, self._ranks.rank
        is_for_all = state["is_shared_out"] or len(of_each) == 1  # any of them is the place of every loader
        if not is_for_all and len(of_each) != world:
            if state["is_within"]:
                raise ValueError(
                    f"the run ended within an epoch of {len(of_each)} processes, each with batches of its own, and where those "
                    f"loaders were says nothing to {world}: go on with {len(of_each)} processes; at the end of an epoch their "
                    "number may change"
                )
            return  # another division of the data, which begins at its beginning
        own = of_each[0 if is_for_all else rank]
        self._loader_state, self._is_over, self._is_within = own["loader"], own["is_over"], state["is_within"]
        if own["generators"]:
            self.batches.set_generators(own["generators"])

    def cut_short(self) -> None:
        """The epoch has ended where it is: the next one begins at the loader's beginning, not at that place."""
        self._loader_state, self._is_cut_short, self._is_within = None, True, False

    def order(self, epoch: int) -> Tensor:
        """The rows of the examples, int64 [N], in the order in which they come in an epoch."""
        assert isinstance(self.batches, Whole)
        return epoch_order(self._seed, epoch, self.batches.size)

    def steps(self, epoch: int, first: int, batch: int = 0) -> Iterator[Step]:
        """The steps of an epoch.

        Args:
            epoch: 0, 1, ...
            first: the number of the first of these steps in the run.
            batch: the number of the batch in the epoch with which it begins; a loader is at that place already.
        """
        self._is_cut_short = False
        self._is_over = self._is_over and self._is_within
        self._seed_generators(*seeds_of(philox.fold_in(self._loader_key, epoch)[None]))
        # A loader whose place is stored must not be ahead of the run.
        ahead = self.batches.is_indexed or not self.batches.can_resume
        source = moved(self._portions(epoch, batch), self._device, ahead=ahead)
        is_checked = self.batches.is_checked or (self.batches.is_indexed and epoch > 0)
        for number, (key, layers, fetching) in enumerate(self._keys(first), start=first):
            if not self.batches.is_indexed:
                self._seed_generators(fetching)  # of all processes alike, which may load the same batch
            parts, before, size = [], 0, self.size
            for portion in islice(source, self._accumulate):
                start = before + portion.row_start
                parts.append(Part(portion.batch, start, is_checked, portion.counts))
                before += sum(portion.counts)
                size = size if portion.is_shared_out else self._size_of_all()
            if not parts:
                self._is_within = False
                return
            self._is_within = True
            self._seed_generators(layers)  # after what the loader has drawn, so that the step alone can be taken again
            yield Step(number, key, tuple(parts), size)

    def _portions(self, epoch: int, batch: int) -> Iterator[Portion]:
        if isinstance(self.batches, Whole):
            return portions_of_examples(self.batches, self._ranks, self.order(epoch), batch)
        if self._is_over:  # here, but not in all processes; with its state the next epoch begins
            return self._told(portions_of_stream(iter(()), self._ranks))
        assert isinstance(self.batches, Stream)
        state, self._loader_state = self._loader_state, None
        return self._told(portions_of_stream(self._own(self.batches.epoch(epoch, state)), self._ranks))

    def _own(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches that this process gets; when there are no more, that is noted."""
        yield from batches
        self._is_over = True

    def _told(self, portions: Iterator[Portion]) -> Iterator[Portion]:
        """The portions; the first of all is told of."""
        for portion in portions:
            self._is_shared_out = portion.is_shared_out
            if self._ranks.world > 1:
                self.say(
                    f"the {self._ranks.world} processes read the same batches, and each takes its share of every one"
                    if portion.is_shared_out
                    else f"each of the {self._ranks.world} processes reads batches of its own"
                )
                self.say = lambda text: None
            yield portion

    def _size_of_all(self) -> int | None:
        if self._size is None:
            self._size = (size_of_all(self.batches, self._ranks),)
        return self._size[0]

    def _keys(self, step: int) -> Iterator[tuple[Tensor, Seeds, Seeds]]:
        """The key of each step from `step` on, on the device, the seeds for its layers, and those for what a loader draws for it.

        They are made many at a time.
        """
        while True:
            keys = step_key(self._seed, torch.arange(step, step + _KEYS_AT_ONCE))
            fetching = seeds_of(_layers_keys(keys, 0))
            layers = seeds_of(_layers_keys(keys, self._ranks.rank)) if self._ranks.rank else fetching
            yield from zip(keys.to(self._device).unbind(0), layers, fetching, strict=True)
            step += _KEYS_AT_ONCE

    def _seed_generators(self, seeds: Seeds) -> None:
        if self._reseed is not None:
            self._reseed(seeds)


def _seed(key: Tensor) -> int:
    return int(key[0])


def layers_seeds(key: Tensor, part: int = 0) -> Seeds:
    """The seeds of the global generators during the step with this key: of what layers such as dropout draw.

    Args:
        key: int64 [2], of the step.
        part: 0 for the first of a run's processes; see `vaekit.ops.streams.Step` for the others.
    """
    return seeds_of(_layers_keys(key, part)[None])[0]


def _layers_keys(keys: Tensor, rank: int) -> Tensor:
    of_first = philox.fold_in(keys, streams.Step.LAYERS)
    return philox.fold_in(of_first, rank) if rank else of_first

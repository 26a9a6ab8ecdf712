"""How the batches of a run are divided among its processes.

Examples that are held whole, and loaders that give every process the same batches, are shared out: the batch is that of one
process, and each takes its `vaekit.data.share`. A loader that gives each process examples of its own, by a `DistributedSampler`
for example, is left to it: the batch is what all of them have got, in the order of the ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from vaekit.data import Batch, Whole, share
from vaekit.gathering import Ranks


class Portion(NamedTuple):
    """What one process has of a batch.

    Attributes:
        batch: its rows; there may be none.
        row_start: the number of the first of them in the whole batch.
        counts: how many rows each process has.
        is_shared_out: whether the batch was divided here, so that the data as every process sees it is all there is.
    """

    batch: Batch
    row_start: int
    counts: tuple[int, ...]
    is_shared_out: bool = True


def portions_of_examples(batches: Whole, ranks: Ranks, order: torch.Tensor | None = None, start: int = 0) -> Iterator[Portion]:
    """This process's portion of each batch, from number `start` on; the others are not asked.

    Example:
        >>> from vaekit.data import as_batches
        >>> ranks = Ranks(rank=1, world=2)
        >>> [p.batch.index.tolist() for p in portions_of_examples(as_batches(torch.rand(5, 3), batch_size=3), ranks)]
        [[2], [4]]
    """
    own = batches.in_order(order, start, ranks.rank, ranks.world)
    for first, batch in zip(range(start * batches.batch_size, batches.size, batches.batch_size), own, strict=True):
        count = min(batches.batch_size, batches.size - first)
        yield _shared_out(batch, count, ranks)


def portions_of_stream(batches: Iterator[Batch], ranks: Ranks) -> Iterator[Portion]:
    """This process's portion of each batch of a loader's epoch.

    The first batch decides: if all processes have got the same, it is shared out, and so is every other. Otherwise each has a
    shard of its own, and those whose shard is over take part with batches without rows until the last has ended.

    Raises:
        ValueError: only some processes have got the same first batch, or they stop having the same ones.
    """
    if ranks.world == 1:
        for batch in batches:
            yield Portion(batch, 0, (len(batch.x),))
        return
    own = next(batches, None)
    outlines = ranks.gather(None if own is None else _outline(own))
    outline = next((one for one in outlines if one is not None), None)
    if outline is None:
        return
    is_shared_out, nothing = _are_the_same(outlines), _without_rows(outline)
    while True:
        seen = ranks.gather(None if own is None else [len(own.x), own.rows(slice(0, 1)).digest() if is_shared_out else 0])
        if all(one is None for one in seen):
            return
        if not is_shared_out:
            counts = tuple(0 if one is None else one[0] for one in seen)
            yield Portion(nothing if own is None else own, sum(counts[: ranks.rank]), counts, is_shared_out=False)
        elif own is not None and all(one == seen[0] for one in seen):
            count = len(own.x)
            yield _shared_out(own.rows(share(count, ranks.rank, ranks.world)), count, ranks)
        else:
            raise ValueError(
                "the loaders of the processes gave the same first batch of the epoch, but not the same one later; a loader that "
                "draws at random has to draw the same everywhere, from a seed of its own or torch's global generator, which fit "
                "seeds"
            )
        own = next(batches, None)


def _are_the_same(outlines: Sequence[dict[str, Any] | None]) -> bool:
    """Whether the first batches of all processes are the same.

    Raises:
        ValueError: those of some are.
    """
    digests = [None if one is None else one["digest"] for one in outlines]
    if len(set(digests)) == 1:
        return True
    same = [rank for rank, digest in enumerate(digests) if digest is not None and digests.count(digest) > 1]
    if same:
        raise ValueError(
            f"the loaders of processes {', '.join(map(str, same))} begin with the same batch as another, but not all do; give "
            "every process the same batches, or each examples of its own, by a DistributedSampler for example"
        )
    return False


def _shared_out(batch: Batch, count: int, ranks: Ranks) -> Portion:
    shares = [share(count, rank, ranks.world) for rank in range(ranks.world)]
    return Portion(batch, shares[ranks.rank].start, tuple(one.stop - one.start for one in shares))


def _outline(batch: Batch) -> dict[str, Any]:
    """What tells a batch from another, and the shape and dtype of its rows, as plain data."""
    of = {"x": batch.x, "condition": batch.condition}
    rows = {name: None if v is None else [list(v.shape[1:]), str(v.dtype).removeprefix("torch.")] for name, v in of.items()}
    return {"digest": batch.digest(), **rows}


def _without_rows(outline: dict[str, Any]) -> Batch:
    """A batch without examples, of the shape that others have."""
    x, condition = (
        None if of is None else torch.zeros(0, *of[0], dtype=getattr(torch, of[1])) for of in (outline["x"], outline["condition"])
    )
    assert x is not None
    return Batch(x, condition)

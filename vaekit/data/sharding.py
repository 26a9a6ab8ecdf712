"""How a batch is divided among processes."""

from __future__ import annotations


def share(count: int, rank: int = 0, world: int = 1) -> slice:
    """The rows of a batch of `count` that belong to process `rank` of `world`.

    Shares are contiguous, in the order of the ranks, and as even as possible: where they cannot be equal, the first ranks get one
    row more. With fewer rows than processes the last shares are empty.

    Raises:
        ValueError: a rank outside 0 to world - 1.

    Example:
        >>> [share(5, rank, 3) for rank in range(3)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank has to be from 0 to {world - 1} for {world} process(es), got {rank}")
    each, more = divmod(count, world)
    start = rank * each + min(rank, more)
    return slice(start, start + each + (rank < more))

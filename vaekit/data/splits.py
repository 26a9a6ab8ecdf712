"""Which examples are held out: a pure function of a seed, by label, by group, by time, or as the data itself says."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaekit.checks import checked_number
from vaekit.ops.philox import make_key

if TYPE_CHECKING:
    from vaekit.data.examples import Examples


@dataclass(frozen=True)
class Marks:
    """What examples are split by, besides their labels.

    Attributes:
        groups: int64 [N], the group of each, a patient for example; no group is on both sides.
        times: int64 or float64 [N]; the last ones are held out.
        held_out: bool [N], the split itself.

    Raises:
        ValueError: more than one of them.
    """

    groups: Tensor | None = None
    times: Tensor | None = None
    held_out: Tensor | None = None

    def __post_init__(self) -> None:
        given = [mark.name for mark in fields(self) if getattr(self, mark.name) is not None]
        if len(given) > 1:
            raise ValueError(f"examples are split by one of groups, times and held_out, got {' and '.join(given)}")

    def take(self, rows: Tensor) -> Marks:
        """Those of the examples in `rows` int64 [M]."""
        return replace(self, **{mark.name: None if (v := getattr(self, mark.name)) is None else v[rows] for mark in fields(self)})


def split(examples: Examples, fraction: float | None = None, seed: int = 0) -> tuple[Examples, Examples]:
    """Two disjoint parts of examples, those to train on and those held out; each keeps their order.

    Args:
        examples: with labels or marks to split by, or without.
        fraction: that is held out, a tenth by default; None as well where the marks say it.
        seed: fixes what is drawn.

    Raises:
        TypeError, ValueError: as `held_out_rows`; a fraction of examples of which is said what is held out.

    Example:
        >>> import vaekit
        >>> train, test = split(vaekit.data.Examples(torch.arange(5.0)[:, None], torch.tensor([0, 1, 0, 1, 1])), 0.4)
        >>> sorted(train.y.tolist()), sorted(test.y.tolist())
        ([0, 1, 1], [0, 1])
    """
    held_out = is_held_out(len(examples), fraction, seed, examples.y, examples.marks)
    if examples.marks is not None and examples.marks.held_out is not None:
        examples = examples.changed(marks=None)
    return examples.take((~held_out).nonzero().flatten()), examples.take(held_out.nonzero().flatten())


def is_held_out(count: int, fraction: float | None, seed: int, y: Tensor | None, marks: Marks | None) -> Tensor:
    """Which of N examples `split` holds out: bool [N].

    Args:
        count: N.
        fraction, seed: as `split` has them.
        y: their labels int64 [N], or vectors, by which they are not split.
        marks: of the examples.

    Raises:
        TypeError, ValueError: as `split`.
    """
    if marks is not None and marks.held_out is not None:
        if fraction is not None:
            raise ValueError(f"a column says already which examples are held out; leave held_out or validation={fraction} out")
        if marks.held_out.all() or not marks.held_out.any():
            raise ValueError(f"{'all' if marks.held_out.any() else 'none'} of the {count} examples are held out; mark some")
        return marks.held_out
    labels = None if y is None or y.ndim != 1 else y.cpu()
    held_out = torch.zeros(count, dtype=torch.bool)
    held_out[held_out_rows(count, 0.1 if fraction is None else fraction, seed, labels=labels, marks=marks)] = True
    return held_out


def held_out_rows(
    count: int, fraction: float, seed: int = 0, *, labels: Tensor | None = None, marks: Marks | None = None
) -> Tensor:
    """The rows that are held out.

    - By default they are drawn at random; `labels` int64 [N] make it a draw within each class, with as many of each as its share,
      to within one.
    - With groups, whole groups are drawn, at random, until no other one would bring their number nearer to the fraction: labels
      do not matter then.
    - With times, they are the last ones, nothing is drawn: what is held out is later than everything else, and examples of one
      moment are on one side.

    Args:
        count: N.
        fraction: of the examples that is held out.
        seed: fixes what is drawn.
        labels: classes, in any numbers.
        marks: with groups or times.

    Returns:
        int64 [M], in order.

    Raises:
        TypeError, ValueError: a fraction that is not between 0 and 1, a seed that is no whole number; too few examples, groups or
            moments for two parts.

    Example:
        >>> held_out_rows(10, 0.4, labels=torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])).shape
        torch.Size([4])
        >>> held_out_rows(4, 0.5, marks=Marks(times=torch.tensor([3, 1, 4, 2])))
        tensor([0, 2])
    """
    checked_number("validation", fraction, above=0.0, below=1.0)
    make_key(seed)  # checks it
    wanted = round(count * fraction)
    if not 0 < wanted < count:
        raise ValueError(
            f"{count} examples cannot be split into two parts with validation={fraction}: {wanted} would be held out"
        )
    if marks is not None and marks.times is not None:
        return _last(marks.times, wanted)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    if marks is not None and marks.groups is not None:
        return _whole_groups(marks.groups[order], order, wanted)
    return (order[:wanted] if labels is None else _of_each_class(labels[order], order, wanted)).sort().values


def _of_each_class(labels: Tensor, order: Tensor, wanted: int) -> Tensor:
    """Rows of each class in its share, to within one; what is left over goes to the classes that are owed most."""
    classes, number = labels.unique(return_inverse=True)
    sizes = torch.bincount(number, minlength=len(classes))
    shares = sizes.double() * wanted / len(order)
    quota = shares.floor().long()
    first_seen = torch.full((len(classes),), len(order)).scatter_reduce(0, number, torch.arange(len(order)), "amin")
    owed = sorted(range(len(classes)), key=lambda one: (-float(shares[one] - quota[one]), int(first_seen[one])))  # ties at random
    quota[owed[: wanted - int(quota.sum())]] += 1
    by_class = number.sort(stable=True).indices
    place = torch.empty_like(number)
    place[by_class] = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[number[by_class]]
    return order[place < quota[number]]


def _whole_groups(groups: Tensor, order: Tensor, wanted: int) -> Tensor:
    names, number = groups.unique(return_inverse=True)
    if len(names) < 2:
        raise ValueError("all examples are of one group, which cannot be on both sides; leave group out, or take another column")
    sizes = torch.bincount(number).tolist()
    chosen, total = [], 0
    for group in dict.fromkeys(number.tolist()):  # in the order of their first examples, which is random
        if abs(total + sizes[group] - wanted) < abs(total - wanted) and total + sizes[group] < len(order):
            chosen.append(group)
            total += sizes[group]
    chosen = chosen or [min(range(len(sizes)), key=sizes.__getitem__)]
    return order[torch.isin(number, torch.tensor(chosen))].sort().values


def _last(times: Tensor, wanted: int) -> Tensor:
    moments, counts = times.unique(return_counts=True)
    if len(moments) < 2:
        raise ValueError("all examples are of one time, which cannot be on both sides; leave time out, or take another column")
    after = len(times) - counts.cumsum(0)[:-1]  # how many are later than each moment but the last
    is_last: Tensor = times > moments[int((after - wanted).abs().argmin())]
    return is_last.nonzero().flatten()

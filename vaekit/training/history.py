"""What a run's terms were, epoch by epoch."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit.files import write_atomically
from vaekit.markup import html_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EPOCH, _SETTLED, _SKIPPED = "epoch", "is_settled", "skipped"


class History(Mapping[str, list[float]]):
    """Means over an epoch by term, in nats: "loss", "reconstruction", "kl", and "val_..." of them with validation data.

    Attributes:
        seconds: how long each epoch took.
        is_settled: of each epoch, whether every scheduled weight of the objective had its final value all through it.
        skipped: of each epoch, how many steps were left out because something in them was not finite.
        interrupted: whether the run was ended within an epoch, by ^C or a time limit.
        reason: what interrupted it, "the time limit of 90 minutes" for example, or "^C".
        folder: where the run has left its weights and files; None where it has left none, or the history was read from a file.

    Example:
        >>> history = History()
        >>> history.append({"loss": 2.0, "val_loss": 3.0}, seconds=0.5)
        >>> history["val_loss"], history.epochs
        ([3.0], 1)
    """

    def __init__(self) -> None:
        self._columns: dict[str, list[float]] = {}
        self.seconds: list[float] = []
        self.is_settled: list[bool] = []
        self.skipped: list[int] = []
        self.interrupted = False
        self.reason = ""
        self.folder: Path | None = None

    def __getitem__(self, name: str) -> list[float]:
        if name not in self._columns:
            raise KeyError(f"the history has no {name!r}; it has: {', '.join(self._columns) or 'no epochs'}")
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {column[-1]:.2f}" for name, column in self.items())
        return f"History({self.epochs} epochs{': ' + last if last else ''})"

    def _repr_html_(self) -> str:
        if not self.epochs:
            return "<p>no epochs</p>"
        best = self.best_epoch
        rows = [(name, *(f"{column[epoch]:.2f}" for epoch in (0, best, -1))) for name, column in self.items()]
        caption = f"{self.epochs} epochs, {sum(self.seconds):.1f} s" + (f"; ended by {self.reason}" if self.interrupted else "")
        return html_table(("term", "first epoch", f"best, epoch {best + 1}", "last"), rows, caption)

    @property
    def epochs(self) -> int:
        """The number of epochs, one that a callback cut short included."""
        return max((len(column) for column in self._columns.values()), default=0)

    @property
    def best_epoch(self) -> int:
        """The index of the epoch with the lowest validation loss, or training loss without validation.

        Only epochs count that had the final value of every scheduled weight all through: a model trained with a small weight is
        another model. Where no epoch had, the last one is the best: it has come closest.

        Raises:
            ValueError: no epoch has been recorded.
        """
        if not self.epochs:
            raise ValueError("the history holds no epoch yet")
        losses = self["val_loss" if "val_loss" in self else "loss"]
        settled = [epoch for epoch, is_settled in enumerate(self.is_settled) if is_settled] or [self.epochs - 1]
        return min(settled, key=lambda epoch: math.inf if math.isnan(losses[epoch]) else losses[epoch])

    def append(self, terms: Mapping[str, float], seconds: float, is_settled: bool = True, skipped: int = 0) -> None:
        """Add one epoch; a term that appears or disappears between epochs is NaN where it is not."""
        if reserved := terms.keys() & {_EPOCH, _SETTLED, _SKIPPED}:
            raise ValueError(f"a term cannot be called {' or '.join(sorted(reserved))}, which a history's file has a column for")
        before = [math.nan] * self.epochs
        names = dict.fromkeys((*self._columns, *terms))
        columns = {name: [*self._columns.get(name, before), float(terms.get(name, math.nan))] for name in names}
        # Assigned at once, so that ^C leaves the history with the epoch or without it.
        self._columns, self.seconds = columns, [*self.seconds, seconds]
        self.is_settled, self.skipped = [*self.is_settled, is_settled], [*self.skipped, skipped]

    def state_dict(self) -> dict[str, Any]:
        """Everything that it holds, as plain data."""
        return {
            "columns": {name: list(column) for name, column in self.items()},
            "seconds": list(self.seconds),
            "is_settled": list(self.is_settled),
            "skipped": list(self.skipped),
            "interrupted": self.interrupted,
            "reason": self.reason,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._columns = {name: list(column) for name, column in state["columns"].items()}
        self.seconds, self.is_settled, self.skipped = (list(state[name]) for name in ("seconds", "is_settled", "skipped"))
        self.interrupted, self.reason = state["interrupted"], state["reason"]

    def to_csv(self, file: str | os.PathLike[str]) -> Path:
        """Write one line for each epoch, counted from 1, with every digit; returns the file.

        Where a weight was scheduled, a column "is_settled" says with 0 or 1 which epochs had its final value; where steps were
        left out, a column "skipped" says how many.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        counts = {} if all(self.is_settled) else {_SETTLED: list(map(int, self.is_settled))}
        counts |= {_SKIPPED: self.skipped} if any(self.skipped) else {}
        writer.writerow(["epoch", *self, *counts])
        for epoch, row in enumerate(zip(*self.values(), strict=True)):
            writer.writerow([epoch + 1, *(repr(value) for value in row), *(count[epoch] for count in counts.values())])
        write_atomically(Path(file), text.getvalue().encode())
        return Path(file)

    @classmethod
    def from_csv(cls, file: str | os.PathLike[str]) -> History:
        """What `to_csv` wrote, without the seconds.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: not such a file, or a damaged one; says what is wrong with it.
        """
        history = cls()
        try:
            text = Path(file).read_text(encoding="utf-8")
            lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{file} is not a history: {error}") from error
        names = lines[0] if lines else []
        if names[:1] != [_EPOCH]:
            raise ValueError(f"{file} is not a history: its first column is not {_EPOCH!r}")
        if len(set(names)) < len(names):
            raise ValueError(f"{file} is damaged: a column occurs twice among {', '.join(names)}")
        for number, line in enumerate(lines[1:], 1):
            try:
                terms = _terms(names, line, number)
            except ValueError as error:
                raise ValueError(f"{file} is damaged in its row for epoch {number}: {error}") from error
            is_settled, skipped = terms.pop(_SETTLED, 1.0) == 1.0, int(terms.pop(_SKIPPED, 0.0))
            history.append(terms, seconds=math.nan, is_settled=is_settled, skipped=skipped)
        return history

    def plot(self) -> Figure:
        """`vaekit.plots.loss_curves` of this history."""
        from vaekit import plots

        return plots.loss_curves(self)


def _terms(names: list[str], line: list[str], epoch: int) -> dict[str, float]:
    """The numbers in an epoch's row by their column, without the epoch's own.

    Raises:
        ValueError: the row is not that epoch's, or not one of numbers.
    """
    if len(line) != len(names):
        raise ValueError(f"it has {len(line)} value(s) for {len(names)} column(s)")
    row = dict(zip(names, line, strict=True))
    if row.pop(_EPOCH) != str(epoch):
        raise ValueError("epochs are numbered from 1 on")
    terms = {}
    for name, value in row.items():
        try:
            terms[name] = float(value)
        except ValueError:
            raise ValueError(f"{name} is no number, but {value!r}") from None
    if terms.get(_SETTLED, 1.0) not in (0.0, 1.0):
        raise ValueError(f"{_SETTLED} is 0 or 1, not {row[_SETTLED]!r}")
    if not (skipped := terms.get(_SKIPPED, 0.0)) >= 0.0 or not skipped.is_integer():
        raise ValueError(f"{_SKIPPED} is a number of steps, not {row[_SKIPPED]!r}")
    return terms

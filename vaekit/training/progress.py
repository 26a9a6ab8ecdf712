"""What a person sees of a run while it goes on: a bar in a terminal or a notebook, or a line an epoch in a file."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from tqdm import tqdm


class Progress:
    """Shows nothing; what is shown where nobody wants to see it, and what the others extend."""

    def say(self, line: str) -> None:
        """What is to be known of the run as a whole."""

    def begin_epoch(self, number: int) -> None:
        """Epoch `number`, 0, 1, ..., begins."""

    def add(self, count: int) -> None:
        """So many examples have been through the model."""

    def show(self, terms: Mapping[str, float], learning_rate: float) -> None:
        """The mean terms of the last steps, in nats."""

    def end_epoch(self, terms: Mapping[str, float], learning_rate: float) -> None:
        """The terms of the epoch that has ended, "val_..." included."""

    def close(self) -> None:
        """The run is over; what is shown stays."""


def shown_on(
    stream: TextIO | None, epochs: int, total: int | None, done: int = 0, clock: Callable[[], float] = time.perf_counter
) -> Progress:
    """What suits a stream: a bar on a terminal or in a notebook, and otherwise a line an epoch, as a log is read by the line.

    Args:
        stream: `sys.stderr`, which is None under pythonw and some services.
        epochs: of the whole run.
        total: the examples in the whole run; None where that is not known.
        done: those of them that an earlier process has seen.
        clock: in seconds.
    """
    if stream is None:
        return Progress()
    if (in_notebook := _in_notebook()) or stream.isatty():
        return Bar(_notebook_bar() if in_notebook else tqdm, stream, epochs, total, done)
    return Lines(stream, epochs, clock)


class Bar(Progress):
    """A tqdm bar: epoch, terms, learning rate where it changes, samples a second, and the time left.

    Args:
        kind: the class of the bar.
        stream, epochs, total, done: as for `shown_on`.
    """

    def __init__(self, kind: Callable[..., Any], stream: TextIO, epochs: int, total: int | None, done: int = 0) -> None:
        self._stream, self._epochs, self._rate = stream, epochs, _Rate()
        self._bar = kind(
            file=stream, total=total, initial=done, unit=" samples", unit_scale=True, dynamic_ncols=True, mininterval=0.2
        )

    def say(self, line: str) -> None:
        self._bar.write(line, file=self._stream)

    def begin_epoch(self, number: int) -> None:
        self._bar.set_description(f"epoch {number + 1}/{self._epochs}", refresh=False)

    def add(self, count: int) -> None:
        self._bar.update(count)

    def show(self, terms: Mapping[str, float], learning_rate: float) -> None:
        shown = [*(f"{name} {_number(value)}" for name, value in terms.items()), *self._rate.shown(learning_rate)]
        self._bar.set_postfix_str(" ".join(shown), refresh=False)

    def close(self) -> None:
        self._bar.close()


class Lines(Progress):
    """A line an epoch: losses, learning rate where it changes, samples a second in training, and the time left.

    Args:
        stream: where the lines go; one that takes no more is left alone, as a run is worth more than its log.
        epochs: of the whole run.
        clock: in seconds.
    """

    def __init__(self, stream: TextIO, epochs: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._stream, self._epochs, self._clock, self._rate = stream, epochs, clock, _Rate()
        self._number = self._count = self._ended = 0
        self._run_began = self._epoch_began = self._trained = clock()

    def say(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # its reader has gone, or it is closed
            return

    def begin_epoch(self, number: int) -> None:
        self._number, self._count = number, 0
        self._epoch_began = self._trained = self._clock()

    def add(self, count: int) -> None:
        self._count += count

    def show(self, terms: Mapping[str, float], learning_rate: float) -> None:
        self._rate.shown(learning_rate)
        self._trained = self._clock()

    def end_epoch(self, terms: Mapping[str, float], learning_rate: float) -> None:
        self._ended += 1
        elapsed, left = self._clock() - self._run_began, self._epochs - self._number - 1
        seconds = self._trained - self._epoch_began
        shown = [
            f"epoch {self._number + 1}/{self._epochs}",
            *(f"{name} {_number(terms[name])}" for name in ("loss", "val_loss") if name in terms),
            *self._rate.shown(learning_rate),
            *([f"{self._count / seconds:,.0f} samples/s"] if seconds > 0 else []),
            f"{_interval(elapsed / self._ended * left)} left" if left else f"{_interval(elapsed)} in all",
        ]
        self.say("  ".join(shown))


class _Rate:
    """The learning rate in words, from when it is first another than in the beginning."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._changes = False

    def shown(self, rate: float) -> list[str]:
        self._first = rate if self._first is None else self._first
        self._changes = self._changes or rate != self._first
        return [f"lr {rate:.3g}"] if self._changes else []


def _number(nats: float) -> str:
    """One decimal, or three digits where that says more."""
    return f"{nats:.1f}" if abs(nats) >= 10 else f"{nats:.3g}"


def _interval(seconds: float) -> str:
    return str(tqdm.format_interval(seconds))


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", ())


def _notebook_bar() -> Callable[..., Any]:
    """tqdm's choice: widgets, or text where the package ipywidgets is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is missing, which is no fault of a run
        from tqdm.auto import tqdm as bar
    return bar  # type: ignore[no-any-return]

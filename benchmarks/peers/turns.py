"""What the peers have in common: options, whose turn it is, and the one line of JSON at the end.

A peer trains by the means of its own library, for so many epochs in one call, and has that library call `Turns.end_of_epoch`
after each. With --turns it then waits: the program that started it, benchmarks/training.py --peers, lets one peer at a time take
an epoch, so that all see the same weather and none is timed while another compiles or sets up. The clock runs from the beginning
of a turn to the end of its epoch; the first epoch, in which libraries compile, is the warm-up and no part of the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import problems
from problems import PROBLEMS, Array


def kilobytes(field: str) -> int | None:
    """Resident memory of this process, as Linux tells it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return next((int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field)), None)


class Turns:
    """Times epochs, and waits for its turn before each where it was asked to.

    Args:
        facts: what every report says.
        waits: whether a line on stdin says that it is our turn.
        report: where lines of JSON go.
    """

    def __init__(self, facts: dict[str, Any], waits: bool, report: Callable[[dict[str, Any]], None]) -> None:
        self.facts, self.waits, self.report = facts, waits, report
        self.seconds: list[float] = []
        self.resident = 0

    def begin(self) -> None:
        """Libraries are imported and the data is there: what follows is building, compiling and training."""
        reset, resident = Path("/proc/self/clear_refs"), kilobytes("VmRSS")
        if resident is not None and reset.exists():
            self.resident = resident
            reset.write_text("5")  # the peak starts again from here
        self._wait({"event": "ready"})

    def end_of_epoch(self) -> None:
        self.seconds.append(time.perf_counter() - self.start)
        self._wait({**self.facts, "event": "epoch", "seconds": self.seconds[-1], **self.memory()})

    def _wait(self, news: dict[str, Any]) -> None:
        if self.waits:
            self.report(news)
            if not sys.stdin.readline():
                raise SystemExit("whoever gave the turns has gone")
        self.start = time.perf_counter()

    def memory(self) -> dict[str, float | None]:
        """MiB: what training added at its peak, and the whole process."""
        peak = kilobytes("VmHWM")
        if peak is None or not self.resident:
            return {"memory_mib": None, "process_mib": None}
        return {"memory_mib": (peak - self.resident) / 1024, "process_mib": peak / 1024}


def needs(*packages: str, install: str) -> None:
    """Ends the program with a line of JSON that says what is missing, where a package is."""
    from importlib.util import find_spec

    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        print(json.dumps({"event": "missing", "reason": f"{', '.join(missing)} not installed: pip install {install}"}))
        sys.exit(0)


def versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def parser(description: str, models: Sequence[str]) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--model", choices=models, default=models[0])
    options.add_argument("--epochs", type=int, default=5, help="epochs, the first of which is the warm-up (5)")
    options.add_argument("--examples", type=int, help="so many training examples; by default as many as take about a second")
    options.add_argument("--data", help="a .npz file with train and test, instead of the problem's own data")
    options.add_argument("--seed", type=int, default=0, help="of weights, order and noise (0)")
    options.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)
    return options


Trained = tuple[Callable[[Array], Any], Callable[[Array, Array], Any]]  # encode and decode, as problems.test_loss takes them


def run(args: argparse.Namespace, train: Callable[[Array, Turns], Trained], packages: Sequence[str]) -> None:
    """Train a peer and print its line of JSON.

    Args:
        train: trains on examples, calls `Turns.end_of_epoch` after each of `args.epochs` epochs, returns encode and decode.
        packages: whose versions are worth telling.
    """
    if args.epochs < 1:
        raise SystemExit(f"--epochs has to be at least 1, got {args.epochs}")
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not come between the lines of JSON

    def report(news: dict[str, Any]) -> None:
        print(json.dumps(news), file=out, flush=True)

    problem = PROBLEMS[args.model]
    x, test = problems.load(args.model, args.data, args.examples)
    steps = -(-len(x) // problem.batch)
    facts = {"model": args.model, "examples": len(x), "steps": steps, "versions": versions(*packages)}
    turns = Turns(facts, args.turns, report)
    turns.begin()
    encode, decode = train(x, turns)
    memory = turns.memory()
    if len(turns.seconds) != args.epochs:
        raise SystemExit(f"{args.epochs} epochs were asked for, and {len(turns.seconds)} were seen")
    figures = {"epochs": args.epochs, "ms_per_step": 1000 * statistics.median(turns.seconds[1:] or turns.seconds) / steps}
    report({**facts, "event": "result", **figures, **problems.test_loss(problem, encode, decode, test), **memory})

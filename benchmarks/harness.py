"""Paired, interleaved timing in one process: what every benchmark here has in common.

The contenders take turns in a fresh random order each round, so that a machine that slows down slows all of them. A figure is a
median with its quartiles; a comparison is the median of the ratios within a round, with their quartiles, which drift cancels in.
"""

from __future__ import annotations

import csv
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

import vaekit


def header() -> str:
    """The machine and the versions, for the head of a table."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return (
        f"{cpu}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}; {torch.get_num_threads()} torch threads; "
        f"python {platform.python_version()}, torch {torch.__version__}, vaekit {vaekit.__version__} "
        f"({'compiled' if vaekit.has_native('cpu') else 'reference'} kernel)"
    )


def interleaved(contenders: Mapping[str, Callable[[], float]], rounds: int, seed: int = 0) -> dict[str, list[float]]:
    """Seconds of each contender in each round; a contender times itself and returns the seconds."""
    order, shuffle = list(contenders), random.Random(seed)
    for name in order:
        contenders[name]()  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            seconds[name].append(contenders[name]())
    return seconds


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """The work as a contender that times itself."""

    def run() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


def ratios(seconds: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """seconds / baseline, round by round."""
    return [s / b for s, b in zip(seconds, baseline, strict=True)]


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
    """median (first quartile to third)."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return f"{scale * statistics.median(values):.{digits}f} ({scale * low:.{digits}f} to {scale * high:.{digits}f})"


def table(rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned to their widest entry; the first row is the head."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def write_csv(file: Path | None, rows: Sequence[Sequence[object]]) -> None:
    """The table's rows as CSV, where a file was asked for."""
    if file is None:
        return
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    print(f"written: {file}", file=sys.stderr)

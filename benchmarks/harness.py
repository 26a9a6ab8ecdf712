"""What every benchmark here has in common: paired, interleaved timing in one process, and the same training for several seeds.

The contenders take turns in a fresh random order each round, so that a machine that slows down slows all of them. A figure is a
median with its quartiles; a comparison is the median of the ratios within a round, with their quartiles, which drift cancels in.
What training leads to is no matter of time: those figures are means over seeds, and comparisons differences within a seed.
"""

from __future__ import annotations

import argparse
import csv
import functools
import multiprocessing
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch

import vaekit

T = TypeVar("T")
Row: TypeAlias = "Mapping[str, object]"


def require(device: str) -> None:
    """Ends the program where there is no such device, and says what is missing."""
    if device == "cuda" and not torch.cuda.is_available():
        lacks = "sees no NVIDIA GPU with a driver" if torch.version.cuda else "was built without CUDA; install one built for it"
        sys.exit(f"there is no device cuda: torch {torch.__version__} {lacks} (python -m torch.utils.collect_env says more)")


def header(device: str = "cpu") -> str:
    """The machine, the versions and the operator's kernel on `device`, for the head of a table."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    gpu = f"; {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}" if device == "cuda" else ""
    return (
        f"{cpu}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}; {torch.get_num_threads()} torch threads{gpu}"
        f"; python {platform.python_version()}, torch {torch.__version__}, vaekit {vaekit.__version__}\n"
        f"{device} kernel: {vaekit.build_info()[f'{device} kernel']}"
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


def timed(work: Callable[[], object], device: str = "cpu", at_least: float = 0.0) -> Callable[[], float]:
    """The work as a contender that times itself: the seconds of one call, from enough calls to take `at_least` seconds.

    How many are enough is found when it runs for the first time, its warm-up. On cuda the clock stops when the device is done.
    """
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    calls = 0

    def seconds_of(calls: int) -> float:
        synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            work()
        synchronize()
        return time.perf_counter() - start

    def run() -> float:
        nonlocal calls
        if calls == 0:
            calls = 1
            if at_least:
                seconds_of(3)
                while (seconds := seconds_of(calls)) < at_least:
                    calls = max(calls + 1, min(10 * calls, round(1.1 * calls * at_least / seconds)))
        return seconds_of(calls) / calls

    return run


def ratios(seconds: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """seconds / baseline, round by round."""
    return [s / b for s, b in zip(seconds, baseline, strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    if len(values) < 3:
        return min(values), statistics.median(values), max(values)
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
    """median (first quartile to third)."""
    low, middle, high = (scale * value for value in quartiles(values))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def rounded(number: float | None) -> str:
    """Four significant digits for a CSV; nothing for None."""
    return "" if number is None else f"{number:.4g}" if abs(number) < 1000 else f"{number:.0f}"


def mean_and_deviation(values: Sequence[float], digits: int = 2) -> str:
    """mean (standard deviation), which a single value does not have."""
    deviation = f"{statistics.stdev(values):.{digits}f}" if len(values) > 1 else "-"
    return f"{statistics.fmean(values):.{digits}f} ({deviation})"


def over_seeds(work: Callable[[int], T], seeds: Sequence[int], processes: int) -> list[T]:
    """work(seed) for each seed, so many at a time, each on one thread of torch: no result depends on how many.

    With more than one process, `work` has to be a function of a module, or a functools.partial of one.
    """
    torch.set_num_threads(1)
    if processes == 1:
        return [work(seed) for seed in seeds]
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(min(processes, len(seeds)), context, torch.set_num_threads, (1,)) as pool:
        return list(pool.map(work, seeds))


def comparison(case: str, cases: Collection[str], contenders: Collection[str], documentation: str) -> argparse.ArgumentParser:
    """The options of a benchmark in which contenders meet in several cases: --CASE, --only, --seeds, --processes and --csv."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(f"--{case}", dest="cases", choices=cases, nargs="+", default=list(cases), help="all by default")
    parser.add_argument("--only", choices=contenders, nargs="+", default=list(contenders), help="these contenders alone")
    parser.add_argument("--seeds", type=int, default=3, help="how many (3)")
    parser.add_argument("--processes", type=int, default=2, help="seeds at a time; changes no figure but seconds (2)")
    parser.add_argument("--csv", type=Path, help="keep every run here, beside those that are there")
    return parser


def compared(
    options: argparse.Namespace, measured: Callable[[str, int], list[Row]], head: Sequence[str], key: Sequence[str]
) -> list[Row]:
    """The rows of measured(case, seed) for all cases and seeds of the options; a file of theirs has them as they come.

    Args:
        options: what the parser of `comparison` made.
        measured: a function of a module, or a functools.partial of one.
        head, key: as `record` has them.
    """
    rows: list[Row] = []
    for case in options.cases:
        work = functools.partial(measured, case)
        rows += [row for of_seed in over_seeds(work, range(options.seeds), options.processes) for row in of_seed]
        if options.csv is not None:
            record(options.csv, head, key, rows)
    return rows


def peak_memory(work: Callable[[], object], device: str = "cpu") -> float | None:
    """MiB by which the work raises the memory in use at its peak; None where that cannot be measured.

    On cuda what PyTorch's allocator handed out. Otherwise resident memory, whoever asked for it, which only Linux tells: to be
    measured in a process of its own, because what a process freed and has not given back hides as much of what the work takes.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None

    def kilobytes(field: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))

    reset.write_text("5")  # the peak starts again from here
    resident = kilobytes("VmRSS")
    work()
    return (kilobytes("VmHWM") - resident) / 1024


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
        csv.writer(stream, lineterminator="\n").writerows(rows)
    print(f"written: {file}", file=sys.stderr)


def record(
    file: Path, head: Sequence[str], key: Sequence[str], rows: Sequence[Mapping[str, object]]
) -> list[Mapping[str, object]]:
    """Write rows into a CSV file that keeps what other runs measured; returns all that it holds then.

    Args:
        head: the file's columns; rows of a file with others are dropped.
        key: the columns by which a row takes the place of an older one, where that was.
        rows: {column: value}; what is left out is empty.
    """
    kept: dict[tuple[str, ...], Mapping[str, object]] = {}
    if file.exists():
        with open(file, newline="") as stream:
            old = [row for row in csv.DictReader(stream) if set(row) == set(head)]
        kept = {tuple(row[name] for name in key): row for row in old}
    kept |= {tuple(str(row[name]) for name in key): row for row in rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, head, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept.values())
    print(f"written: {file}", file=sys.stderr)
    return list(kept.values())

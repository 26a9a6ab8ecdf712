"""How fast is a `resnet` beside diffusers' AutoencoderKL of the same function and weights, and what memory does it take?

For each size of square images, with random weights that both have:

    encode, decode     without gradients, to means and back
    step               forward and backward of sum |x - x'|, as in training
    memory, MiB        how far one of each raises the resident memory of a process that has the model and the images already,
                       at its peak (Linux); measured once, in a process of its own for each, with freed blocks given back

Times are medians; a ratio is the median of vaekit / diffusers within a round, with its quartiles. Below 1 vaekit is faster.

    python benchmarks/images.py --size 64 --size 128 --size 256 --csv benchmarks/results/images.csv
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import header, interleaved, peak_memory, ratios, record, rounded, spread, table, timed

import vaekit

LIBRARIES = ("vaekit", "diffusers")
WORK = ("encode", "decode", "step")
HEAD = ("channels", "batch", "threads", "size", "work", "vaekit ms", "diffusers ms", "ratio", "vaekit MiB", "diffusers MiB")


def models(channels: Sequence[int], size: int) -> dict[str, Any]:
    """diffusers' model and ours with its weights."""
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        sys.exit("this benchmark compares with diffusers: pip install diffusers")
    torch.manual_seed(0)
    levels = len(channels)
    theirs = AutoencoderKL(
        block_out_channels=tuple(channels),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=2,
        sample_size=size,
    ).eval()
    return {"diffusers": theirs, "vaekit": vaekit.from_diffusers(theirs.state_dict(), config=theirs.config)}


def passes(library: str, model: Any, size: int, batch: int) -> dict[str, Callable[[], object]]:
    """Each kind of work as a function."""
    x = 2.0 * torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)) - 1.0

    def encode() -> torch.Tensor:
        return model.encode(x).mean if library == "vaekit" else model.encode(x).latent_dist.mean

    def decode(z: torch.Tensor) -> torch.Tensor:
        return model.decode(z) if library == "vaekit" else model.decode(z).sample

    with torch.no_grad():
        latents = encode()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        (decode(encode()) - x).abs().sum().backward()

    return {"encode": torch.no_grad()(encode), "decode": torch.no_grad()(lambda: decode(latents)), "step": step}


def print_memory(library: str, work: str, channels: Sequence[int], size: int, batch: int) -> None:
    model = models(channels, size)[library]
    run = passes(library, model, size, batch)[work]
    added = peak_memory(run)
    print("" if added is None else f"{added:.0f}")


def memory(library: str, work: str, args: argparse.Namespace, size: int) -> str:
    glibc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--memory-of", library, work, "--size", str(size), "--batch-size", str(args.batch_size)]
    command += ["--threads", str(args.threads), "--channels", *map(str, args.channels)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **glibc})
    return done.stdout.strip()


def rows_of(size: int, args: argparse.Namespace) -> list[dict[str, object]]:
    found = models(args.channels, size)
    work = {name: passes(name, found[name], size, args.batch_size) for name in LIBRARIES}
    rows = []
    for kind in WORK:
        settings = (" ".join(map(str, args.channels)), args.batch_size, args.threads, size, kind)
        row: dict[str, object] = dict(zip(HEAD, settings, strict=False))
        if args.times:
            seconds = interleaved({name: timed(work[name][kind], at_least=0.05) for name in LIBRARIES}, args.rounds)
            row |= {f"{name} ms": rounded(1000.0 * statistics.median(seconds[name])) for name in LIBRARIES}
            row["ratio"] = spread(ratios(seconds["vaekit"], seconds["diffusers"]))
        if args.memory:
            row |= {f"{name} MiB": memory(name, kind, args, size) for name in LIBRARIES}
        rows.append(row)
    return rows


def with_older_figures(rows: Sequence[dict[str, object]], file: Path) -> list[dict[str, object]]:
    """The rows, with what this run did not measure as the file has it for the same settings."""
    if not file.exists():
        return list(rows)
    with open(file, newline="") as stream:
        old = {tuple(row[name] for name in HEAD[:5]): row for row in csv.DictReader(stream)}
    return [{**old.get(tuple(str(row[name]) for name in HEAD[:5]), {}), **row} for row in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, action="append", help="height and width; repeatable (64)")
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128, 128], help="of the levels (32 64 128 128)")
    parser.add_argument("--batch-size", type=int, default=2, help="images in a batch (2)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads (its own default)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed (7)")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="times alone")
    parser.add_argument(
        "--no-times", dest="times", action="store_false", help="memory alone, which a busy machine does not change"
    )
    parser.add_argument("--csv", type=Path, help="write the rows here, in the place of older figures of the same settings")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    sizes = args.size or [64]
    if args.memory_of:
        print_memory(*args.memory_of, args.channels, sizes[0], args.batch_size)
        return
    print(header())
    rows = [row for size in sizes for row in rows_of(size, args)]
    print(table([HEAD, *([row.get(name, "") for name in HEAD] for row in rows)]))
    if args.csv:
        record(args.csv, HEAD, HEAD[:5], with_older_figures(rows, args.csv))


if __name__ == "__main__":
    main()

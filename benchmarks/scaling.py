"""How do time and memory of a step grow? Against batch, latent dimensions, width, image size, draws and threads.

For each axis a small model is trained at growing sizes, by `vaekit.fit` and by a bare loop (the textbook's model in PyTorch,
fused Adam), on drawn data, for some epochs of a few steps; the first is not measured, and the clock runs from an epoch's end to
the next one's. A process for each contender and number of threads goes up the sizes, and reports each; one that takes longer
than --limit is ended, and what it reported counts.

    batch     examples in a batch, 784-200-200-50
    latent    latent dimensions, 784-200-200, batch 64
    width     numbers in each of four hidden layers, 784 pixels, batch 64: the products between hidden layers are quadratic in it
    image     pixels of a grey square image, two convolutions of 16 and 32 channels and two back, batch 16
    draws     of z for each example under "iwae", 784-200-200-50, batch 16

Columns of the table: the slope of time and of memory in logarithms, by least squares over the largest sizes (a doubling of which
multiplies time by 2^slope), and "asked for", the slope of the arithmetic of matrix products and convolutions in the bare loop's
step, forward and backward, as PyTorch counts it. What is above 1 and above what is asked for is marked. Memory is by how much
training raised the process' resident memory at its peak; it includes weights, gradients and Adam's two numbers.

    python benchmarks/scaling.py                                     # everything, several minutes
    python benchmarks/scaling.py --axes batch draws --threads 2      # these axes; the CSV file keeps the others
    python benchmarks/scaling.py --axes batch --sizes 16 256 4096
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from harness import header, peak_memory, quartiles, record, rounded, table
from peers.torch_networks import BareVAE
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import vaekit

HERE = Path(__file__).resolve().parent
SIZES = {
    "batch": (16, 64, 256, 1024, 4096, 16384, 65536),
    "latent": (2, 8, 32, 128, 512, 2048),
    "width": (32, 64, 128, 256, 512, 1024, 2048, 4096),
    "image": (16**2, 32**2, 64**2, 128**2, 256**2),
    "draws": (1, 4, 16, 64, 256, 1024),
}
UNITS = {"batch": "examples", "latent": "dimensions", "width": "numbers a layer", "image": "pixels", "draws": "draws of z"}
CONTENDERS = ("vaekit", "bare loop")
LARGEST = 3  # sizes whose slope counts
TOLERANCE = 0.15  # of a slope, before it is marked
KEY = ("axis", "threads", "contender", "size")
HEAD = (*KEY, "ms_q1", "ms", "ms_q3", "memory_mib", "gflop", "machine")


class Point(NamedTuple):
    """What is trained at one size of an axis."""

    shape: tuple[int, ...] = (784,)
    hidden: tuple[int, ...] = (200, 200)
    latent: int = 50
    batch: int = 64
    draws: int = 1

    @classmethod
    def at(cls, axis: str, size: int) -> Point:
        if axis == "batch":
            return cls(batch=size)
        if axis == "latent":
            return cls(latent=size)
        if axis == "width":
            return cls(hidden=(size, size), latent=16)
        if axis == "image":
            return cls(shape=(1, math.isqrt(size), math.isqrt(size)), hidden=(), latent=16, batch=16)
        return cls(batch=16, draws=size)

    def data(self) -> Tensor:
        """Examples for an epoch: up to sixteen steps, and fewer of large batches."""
        steps = max(1, min(16, 2048 // self.batch))
        return torch.rand(steps * self.batch, *self.shape, generator=torch.Generator().manual_seed(0))

    def vae(self) -> vaekit.VAE:
        if len(self.shape) == 1:
            encoder: dict[str, Any] = {"name": "mlp", "hidden": self.hidden}
            decoder: dict[str, Any] = {"name": "mlp", "hidden": self.hidden[::-1]}
        else:
            encoder = {"name": "conv", "channels": (16, 32), "hidden": ()}
            decoder = {"name": "conv", "channels": (32, 16)}
        loss = {"name": "iwae", "num_samples": self.draws} if self.draws > 1 else "elbo"
        shape = {"input_shape": self.shape, "latent_dim": self.latent}
        return vaekit.create_vae(**shape, encoder=encoder, decoder=decoder, loss=loss, seed=0)

    def bare(self) -> BareVAE:
        kind = BareVAE if self.draws == 1 else BareIWAE
        if len(self.shape) == 1:
            wide, narrow = self.hidden
            encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, wide), nn.ReLU(), nn.Linear(wide, narrow), nn.ReLU())
            decoder = [nn.Linear(self.latent, narrow), nn.ReLU(), nn.Linear(narrow, wide), nn.ReLU(), nn.Linear(wide, 784)]
            model = kind(encoder, narrow, self.latent, nn.Sequential(*decoder))
        else:
            side = self.shape[1] // 4
            features = 32 * side * side
            encoder = nn.Sequential(
                *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU()),
                *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()),
            )
            decoder = [
                *(nn.Linear(self.latent, features), nn.ReLU(), nn.Unflatten(1, (32, side, side))),
                *(nn.ConvTranspose2d(32, 32, 3, stride=2, padding=1, output_padding=1), nn.ReLU()),
                *(nn.ConvTranspose2d(32, 16, 3, stride=2, padding=1, output_padding=1), nn.ReLU()),
                nn.Conv2d(16, 1, 3, padding=1),
            ]
            model = kind(encoder, features, self.latent, nn.Sequential(*decoder))
        if self.draws > 1:
            model.draws = self.draws
        return model


class BareIWAE(BareVAE):
    """The importance-weighted bound of Burda et al. (2016) in the textbook's lines."""

    draws: int

    def forward(self, x: Tensor) -> Tensor:
        mu, logvar = self.encode(x)
        eps = torch.randn(self.draws, *mu.shape)
        z = mu + torch.exp(0.5 * logvar) * eps
        logits = self.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        log_p = -nn.functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        log_ratio = 0.5 * (eps.square() - z.square() + logvar).sum(-1)  # log p(z) - log q(z | x)
        return -((log_p + log_ratio).logsumexp(0) - math.log(self.draws)).mean()


# --- measuring -----------------------------------------------------------------------------------------------------------


class Enough(Exception):
    """The time for a point is over."""


class Clock(vaekit.Callback):
    """Seconds of each epoch after the first."""

    def __init__(self, seconds: float) -> None:
        self.seconds: list[float] = []
        self.end = time.perf_counter() + seconds
        self.start: float | None = None

    def on_epoch_end(self, state: Any) -> None:
        now = time.perf_counter()
        if self.start is not None:
            self.seconds.append(now - self.start)
        if self.seconds and now > self.end:
            raise Enough
        self.start = time.perf_counter()


def train_bare(point: Point, x: Tensor, epochs: int, clock: Clock) -> None:
    model = point.bare()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(point.batch):
            loss = model(x[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
        clock.on_epoch_end(None)


def train_vaekit(point: Point, x: Tensor, epochs: int, clock: Clock) -> None:
    vaekit.fit(point.vae(), x, epochs=epochs, batch_size=point.batch, device="cpu", callbacks=[clock], progress=False)


TRAINING: dict[str, Callable[[Point, Tensor, int, Clock], None]] = {"vaekit": train_vaekit, "bare loop": train_bare}


def measured(contender: str, point: Point, epochs: int, seconds: float) -> dict[str, object]:
    """Milliseconds a step and MiB."""
    x, clock = point.data(), Clock(seconds)
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what the size before has freed would hide as much of what this one takes

    def train() -> None:
        with contextlib.suppress(Enough):
            TRAINING[contender](point, x, epochs, clock)

    memory = peak_memory(train)
    steps = len(x) // point.batch
    low, middle, high = (rounded(1000 * s / steps) for s in quartiles(clock.seconds))
    return {"ms_q1": low, "ms": middle, "ms_q3": high, "memory_mib": rounded(None if memory is None else max(memory, 0.0))}


def gflop(point: Point) -> float:
    """Billions of multiplications and additions of matrix products and convolutions in a step of the bare loop."""
    model, x = point.bare(), point.data()[: point.batch]
    with FlopCounterMode(display=False) as counter:
        model(x).backward()
    return counter.get_total_flops() / 1e9


def go_up(axis: str, sizes: Sequence[int], contender: str, threads: int, epochs: int, seconds: float) -> None:
    """Prints a line of JSON for each size: what a process of its own does."""
    torch.set_num_threads(threads)
    TRAINING[contender](Point(hidden=(8, 8), latent=2), torch.rand(64, 784), 2, Clock(60.0))  # PyTorch's own set-up
    for size in sizes:
        point = Point.at(axis, size)
        found = measured(contender, point, epochs, seconds)
        if contender == "bare loop":
            found["gflop"] = rounded(gflop(point))
        print(json.dumps({"axis": axis, "threads": threads, "contender": contender, "size": size, **found}), flush=True)


def climbed(axis: str, sizes: Sequence[int], contender: str, threads: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The lines of such a process, as many as it printed within the limit."""
    command = [sys.executable, __file__, "--climb", contender, "--axes", axis, "--threads", str(threads)]
    command += ["--epochs", str(args.epochs), "--seconds", str(args.seconds), "--sizes", *map(str, sizes)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            printed, _ = process.communicate(timeout=args.limit)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
            print(f"{axis}, {contender}: ended after {args.limit:g} s", file=sys.stderr)
    if process.returncode > 0:
        print(f"{axis}, {contender}: ended with {process.returncode}", file=sys.stderr)
    return [json.loads(line) for line in printed.splitlines() if line.endswith("}")]


# --- what it shows -------------------------------------------------------------------------------------------------------


def slope(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Of log value against log size, by least squares over the largest sizes; None of fewer than two, or of a value that is 0."""
    x, y = list(sizes)[-LARGEST:], list(values)[-LARGEST:]
    if len(x) < 2 or min(y) <= 0:
        return None
    x, y = [math.log(v) for v in x], [math.log(v) for v in y]
    center_x, center_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - center_x) * (b - center_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - center_x) ** 2 for a in x)


Rows = Sequence[Mapping[str, Any]]


def series(rows: Rows, axis: str, contender: str, threads: int, column: str) -> tuple[list[int], list[float]]:
    """Sizes and values of one line of the picture, in ascending order; without those that were not measured or are 0."""
    where = {"axis": axis, "contender": contender, "threads": str(threads)}
    found = [row for row in rows if all(str(row[name]) == value for name, value in where.items()) and row.get(column)]
    pairs = sorted((int(row["size"]), float(row[column])) for row in found if float(row[column]) > 0)
    return [size for size, _ in pairs], [value for _, value in pairs]


def slopes(rows: Rows, axes: Sequence[str], threads: Sequence[int]) -> list[Sequence[object]]:
    """The table."""
    shown: list[Sequence[object]] = [("axis", "threads", "contender", "largest", "time", "asked for", "memory", "")]
    for axis in axes:
        for count in threads:
            asked = slope(*series(rows, axis, "bare loop", count, "gflop"))
            for contender in CONTENDERS:
                sizes, values = series(rows, axis, contender, count, "ms")
                of_time, of_memory = slope(sizes, values), slope(*series(rows, axis, contender, count, "memory_mib"))
                mark = "above" if of_time is not None and of_time > max(1.0, asked or 1.0) + TOLERANCE else ""
                figures = ["-" if value is None else f"{value:.2f}" for value in (of_time, asked, of_memory)]
                largest = ", ".join(map(str, sizes[-LARGEST:]))
                shown.append((axis, count, contender, largest, *figures, mark))
    return shown


def plot(rows: Rows, axes: Sequence[str], threads: Sequence[int], file: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, len(axes), figsize=(3.4 * len(axes) + 1.6, 6.4), squeeze=False, layout="constrained")
    for above, column, label in ((0, "ms", "milliseconds a step"), (1, "memory_mib", "memory, MiB")):
        for axis, place in zip(axes, grid[above], strict=True):
            for contender, colour, marker in zip(CONTENDERS, ("#0072B2", "#000000"), "so", strict=True):
                for count, line in zip(threads, ("-", "--", ":", "-."), strict=False):
                    sizes, values = series(rows, axis, contender, count, column)
                    name = f"{contender}, {count} thread{'s' * (count > 1)}"
                    place.plot(sizes, values, line, color=colour, marker=marker, markersize=4, label=name)
            if any(len(line.get_xdata()) for line in place.get_lines()):  # matplotlib refuses logarithms of nothing
                place.set_xscale("log")
                place.set_yscale("log")
            place.grid(alpha=0.3)
            place.set_xlabel(UNITS[axis] if above else "")
            place.set_title("" if above else axis)
        grid[above][0].set_ylabel(label)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.suptitle(title, fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)
    print(f"written: {file}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=SIZES, default=list(SIZES), metavar="AXIS", help=f"{', '.join(SIZES)} (all)")
    parser.add_argument("--sizes", nargs="+", type=int, help="instead of an axis' own; with one axis")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="numbers of threads, one after the other (1 2)")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS, metavar="NAME", help="some of them")
    parser.add_argument("--epochs", type=int, default=8, help="at each size, the first unmeasured (8)")
    parser.add_argument("--seconds", type=float, default=1.5, help="after which a size gets no further epoch (1.5)")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for all sizes of a contender on an axis (60)")
    parser.add_argument("--csv", type=Path, default=HERE / "results" / "scaling.csv", help="where the points are kept")
    parser.add_argument("--plot", type=Path, default=HERE / "pictures" / "scaling.png", help="a picture of all that are kept")
    parser.add_argument("--climb", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.sizes and len(args.axes) != 1:
        parser.error("--sizes is for one axis; name it with --axes")
    if args.epochs < 2:
        parser.error(f"--epochs has to be at least 2, since the first is not measured, got {args.epochs}")
    if args.climb:
        go_up(args.axes[0], args.sizes, args.climb, args.threads[0], args.epochs, args.seconds)
        return
    print(header(), end="\n\n")
    machine, rows = header().partition("\n")[0], []
    for axis in args.axes:
        for count in args.threads:
            for contender in args.contenders:
                found = climbed(axis, sorted(args.sizes or SIZES[axis]), contender, count, args)
                rows += [{**row, "machine": machine} for row in found]
                print(f"{axis}, {contender}, {count} thread(s): {len(found)} sizes", file=sys.stderr)
    kept = record(args.csv, HEAD, KEY, rows)
    print(table(slopes(kept, args.axes, args.threads)))
    axes = [axis for axis in SIZES if any(row["axis"] == axis for row in kept)]
    if axes:
        plot(kept, axes, sorted({int(row["threads"]) for row in kept}), args.plot, machine)


if __name__ == "__main__":
    main()

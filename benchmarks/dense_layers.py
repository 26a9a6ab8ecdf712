"""Is a dense layer at the processor's speed? Microseconds of torch's layer and of vaekit's, forward and backward.

The layers of the presets, each at its preset's batch, interleaved in one process: `torch.nn.Linear`; `vaekit.dense.Linear` with
every product by oneDNN; and as it is used, with each product by the library that was faster when the shape was measured on this
machine (`vaekit doctor` shows that). A ratio above 1 says that it is faster than torch's. The gradient of the input is asked for,
as it is in all layers of a network but the first.

    python benchmarks/dense_layers.py [--rounds 15] [--threads 2] [--csv FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from harness import header, interleaved, ratios, spread, table, timed, write_csv
from torch import nn

from vaekit import dense

# Of dense-mnist, burda-mnist, keras-mnist, table and single-cell: rows, inputs, outputs.
SHAPES = [
    *((64, 784, 2000), (64, 2000, 256), (64, 256, 2000), (64, 2000, 784)),
    *((64, 784, 200), (64, 200, 200), (128, 3136, 16), (128, 2000, 128), (128, 128, 4000)),
]
CALLS = 5


def step(layer: nn.Linear, rows: int) -> Callable[[], object]:
    """Forward and backward, a few times."""
    x, grad = torch.randn(rows, layer.in_features, requires_grad=True), torch.randn(rows, layer.out_features)

    def work() -> None:
        for _ in range(CALLS):
            x.grad = None
            layer.zero_grad()
            layer(x).backward(grad)

    return work


def within(work: Callable[[], object], products: dense.Products) -> Callable[[], object]:
    def forced() -> None:
        with dense.forced(products):
            work()

    return forced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="how often each contender is timed")
    parser.add_argument("--threads", type=int, help="of torch; as many as it takes by itself")
    parser.add_argument("--csv", type=Path, help="write the table here as well")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(header())
    print(f"{args.rounds} rounds of {CALLS} calls; median (quartiles)\n")
    rows: list[tuple[str, ...]] = [
        ("rows x inputs to outputs", "torch us", "vaekit us", "torch / oneDNN", "torch / vaekit", "by")
    ]
    for count, features_in, features_out in SHAPES:
        ours, theirs = dense.Linear(features_in, features_out), nn.Linear(features_in, features_out)
        found = dense.measured_for(ours, count)
        work = {
            "torch": step(theirs, count),
            "oneDNN": within(step(ours, count), dense.Products(True, True, True)),
            "vaekit": step(ours, count),
        }
        seconds = interleaved({name: timed(each) for name, each in work.items()}, args.rounds)
        rows.append(
            (
                f"{count} x {features_in} to {features_out}",
                *(spread(seconds[name], 1e6 / CALLS, digits=0) for name in ("torch", "vaekit")),
                *(spread(ratios(seconds["torch"], seconds[name])) for name in ("oneDNN", "vaekit")),
                next(iter(found.values()), "torch (too small)"),
            )
        )
    print(table(rows))
    write_csv(args.csv, rows)


if __name__ == "__main__":
    main()

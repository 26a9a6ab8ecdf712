"""Does the default model learn what it should? Test loss of dense-mnist after 30 epochs on mnist5k, seed by seed.

The same model in Keras 3 reached 157.3 nats (4,500 and 500 digits, Adam 1e-3, batch 64, its own split of the digits). The split
matters: --split random takes a fresh stratified one for each seed, instead of every tenth digit.

    python benchmarks/reference_loss.py [--seeds 3] [--preset dense-mnist] [--split fixed|random]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from harness import header, table

import vaekit


def split(examples: vaekit.data.Examples, seed: int) -> tuple[vaekit.data.Examples, vaekit.data.Examples]:
    """A tenth of each class held out at random."""
    assert examples.y is not None
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(examples), dtype=torch.bool)
    for label in examples.y.unique():
        rows = (examples.y == label).nonzero().flatten()
        held_out[rows[torch.randperm(len(rows), generator=generator)[: len(rows) // 10]]] = True
    return vaekit.data.Examples(*examples[~held_out]), vaekit.data.Examples(*examples[held_out])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", default="dense-mnist")
    parser.add_argument("--split", choices=("fixed", "random"), default="fixed")
    args = parser.parse_args()
    train, test = vaekit.data.load("mnist5k")
    both = vaekit.data.Examples(torch.cat([train.x, test.x]), torch.cat([train.y, test.y]))
    rows: list[tuple[object, ...]] = [("seed", "epoch 10", "epoch 20", "epoch 30", "best", "seconds")]
    final = []
    for seed in range(args.seeds):
        if args.split == "random":
            train, test = split(both, seed)
        vae = vaekit.create_vae(args.preset, seed=seed)
        start = time.perf_counter()
        history = vaekit.fit(vae, train, validation=test, epochs=30, seed=seed, progress=False)
        elapsed = time.perf_counter() - start
        losses = history["val_loss"]
        final.append(losses[-1])
        rows.append((seed, *(f"{losses[e]:.1f}" for e in (9, 19, 29)), f"{min(losses):.1f}", f"{elapsed:.0f}"))
    print(header())
    print(f"{args.preset}, {len(train)} and {len(test)} digits, {args.split} split; test loss in nats\n")
    print(table(rows))
    print(f"\nmedian after 30 epochs: {statistics.median(final):.1f}")


if __name__ == "__main__":
    main()

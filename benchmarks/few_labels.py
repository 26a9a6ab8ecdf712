"""What do unlabelled digits add to a few labelled ones? M2 beside its own classifier, trained on the labelled ones alone.

The digits are the 4,500 of mnist5k that are trained on, at 14 x 14 (means over 2 x 2 pixels), of which 100 or 200 keep their
label, as many of each class; accuracy and log loss are those of the 500 that are not. The classifier is the same network
(196-200-10), from the same first weights, with the same optimizer for as many steps; alone it sees batches of labelled digits,
in M2 batches of all. A seed chooses the digits that keep their label, the first weights, the order and the noise. Columns,
means over the seeds with the standard deviation in brackets:

    accuracy     of held-out digits, in %
    log loss     -log q(c | x) of their class, in nats
    bound        on -log p(x), of held-out digits whose class is missing, in nats
    s            processor time of the training

    python benchmarks/few_labels.py
    python benchmarks/few_labels.py --labels 50 --seeds 5 --csv few_labels.csv
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from harness import header, mean_and_deviation, table, write_csv
from torch import Tensor
from torch.nn import functional as F

import vaekit
from vaekit.data import Examples
from vaekit.inferred import InferredLabels

COLUMNS = ("accuracy", "log loss", "bound", "s")


def some_labels(y: Tensor, count: int, seed: int) -> Tensor:
    """The labels, of which so many are kept, as many of each class, and the others missing."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    kept = torch.cat([order[y[order] == digit][: count // 10] for digit in range(10)])
    return torch.full_like(y, -1).scatter(0, kept, y[kept])


def composed(alpha: float, seed: int) -> vaekit.VAE:
    return vaekit.create_vae(
        input_shape=(1, 14, 14),
        latent_dim=5,
        encoder={"hidden": (200,)},
        decoder={"hidden": (200,)},
        condition={"name": "inferred_labels", "classes": 10, "classifier": {"hidden": (200,), "dropout": 0.5}},
        loss={"name": "semi_supervised", "alpha": alpha},
        seed=seed,
    )


def alone(vae: vaekit.VAE, x: Tensor, y: Tensor, steps: int, batch_size: int, seed: int) -> None:
    """Train the classifier of a model, and nothing else, on examples that have a label."""
    assert isinstance(vae.condition, InferredLabels)
    classifier, generator = vae.condition.classifier, torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    for _ in range(steps):
        rows = torch.randint(len(x), (batch_size,), generator=generator)
        adam.zero_grad()
        F.cross_entropy(classifier(x[rows]).mean, y[rows]).backward()  # type: ignore[no-untyped-call]
        adam.step()


def scores(method: str, labels: int, seed: int, options: argparse.Namespace) -> dict[str, float]:
    train, test = vaekit.data.load("mnist5k")
    x, held_out = (F.avg_pool2d(torch.as_tensor(part.x), 2) for part in (train, test))
    y = some_labels(train.y, labels, seed)
    vae = composed(options.alpha, seed)
    begin, steps = time.process_time(), options.epochs * -(-len(x) // options.batch_size)
    if method == "alone":
        alone(vae, x[y >= 0], y[y >= 0], steps, options.batch_size, seed)
    else:
        how: dict[str, Any] = {"epochs": options.epochs, "batch_size": options.batch_size, "device": "cpu", "progress": False}
        vaekit.fit(vae, Examples(x, y), seed=seed, **how)
    seconds = time.process_time() - begin
    quality = vaekit.evaluation.classification(vae, (held_out, test.y))
    of_model = {} if method == "alone" else {"bound": vaekit.evaluate(vae, held_out)["loss"]}
    return {"accuracy": 100 * quality.accuracy, "log loss": quality.log_loss, **of_model, "s": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 200])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--alpha", type=float, default=50.0)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    print(header())
    rows: list[Any] = [("labels", "method", *COLUMNS)]
    lines: list[Any] = [("labels", "method", "alpha", "seed", *COLUMNS)]
    for labels in options.labels:
        for method in ("alone", "M2"):
            each = [scores(method, labels, seed, options) for seed in range(options.seeds)]
            lines += [(labels, method, options.alpha, seed, *map(one.get, COLUMNS)) for seed, one in enumerate(each)]
            of_each = ([one[column] for one in each if column in one] for column in COLUMNS)
            rows.append((labels, method, *(mean_and_deviation(values) if values else "-" for values in of_each)))
            write_csv(options.csv, lines)  # what there is, after each
    print(table(rows))


if __name__ == "__main__":
    main()

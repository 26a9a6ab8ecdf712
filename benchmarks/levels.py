"""Are several levels of latents better than one, at equal parameters? Bounds of log p(x) on binarised digits.

4,000 of the 4,500 training digits of mnist5k are trained on, 500 tell which epoch to keep, and the 500 test digits are what is
reported; a pixel is 1 with its grey value as probability, drawn --copies times for training and once for the rest, as in
benchmarks/importance_weighting.py. Within a group all models have as many parameters as their widths allow, never fewer where
there is one level; batches, steps, learning rate, warm-up of beta and noise are the same. Columns, means over the seeds with
the standard deviation in brackets:

    parameters   of the whole model
    -log p(x)    nats a test digit, from above: the importance-weighted bound with --samples draws
    ELBO         nats, negative, of the same digits
    kl           nats of each level, from the one that is drawn first

    python benchmarks/levels.py
    python benchmarks/levels.py --group dense --seeds 3 --csv benchmarks/results/levels.csv

    python benchmarks/levels.py --picture benchmarks/pictures/levels.png

A run that was stopped goes on with the lines that its CSV has not. The last command trains the residual models for four passes,
each over digits drawn anew, says their terms on the test digits and pictures what each level of "top-down-mnist" holds.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from harness import header, mean_and_deviation, table, write_csv
from importance_weighting import BestBound, digits

import vaekit
from vaekit.evaluation import importance_weighted_bound

DENSE = {"hidden": (200, 200), "activation": "tanh"}
COLUMNS = ("parameters", "nll", "error", "elbo", "kl")


def ladder(levels: Sequence[int], decoder: str) -> dict[str, Any]:
    """Levels between the networks of "burda-mnist"."""
    network = {"name": "mlp", **DENSE}
    return {
        "latent_dim": sum(levels),
        "encoder": network,
        "decoder": {"name": "top_down", "decoder": network} if decoder == "top_down" else network,
        "posterior": {"name": "ladder", "levels": levels, "hidden": (100,), "activation": "tanh"},
        "prior": "top_down",
    }


def dense(width: int) -> dict[str, Any]:
    """One level between wider networks of the same kind."""
    network = {"name": "mlp", "hidden": (width, width), "activation": "tanh"}
    return {"latent_dim": 50, "encoder": network, "decoder": network}


def groups(channels: Sequence[int], counts: Sequence[int], latents: int) -> dict[str, Any]:
    """Residual networks whose latents have the resolutions of `counts`."""
    last = min(number for number, count in enumerate(counts) if count)  # where the path ends
    return {
        "latent_dim": latents,
        "encoder": {"name": "top_down", "channels": channels, "groups": counts},
        "prior": "top_down",
        "decoder": {"name": "top_down", "decoder": {"name": "resnet", "channels": channels[last::-1], "blocks": 1}},
    }


GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "dense": {
        "one level, 50": dense(205),
        "ladder, 10 + 40": ladder((10, 40), "mlp"),
        "ladder, 10 + 40, x of the last level": ladder((10, 40), "top_down"),
    },
    "residual": {
        "one level, 7x7": groups((16, 28, 32), (0, 0, 1), 12),
        "three levels, 7x7, 7x7, 14x14": groups((12, 24, 24), (0, 1, 2), 2),
    },
}


def outcome(options: dict[str, Any], seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """A model trained with a seed, by column."""
    data = digits(arguments.copies, arguments.every)
    beta = {"name": "linear", "steps": arguments.warm_up, "start": 0.0, "end": 1.0}
    vae = vaekit.create_vae(input_shape=(1, 28, 28), loss={"name": "elbo", "beta": beta}, seed=seed, **options)
    best = BestBound(data.validation)
    vaekit.fit(
        vae,
        data.train,
        epochs=max(arguments.passes // arguments.copies, 1),
        batch_size=100,
        learning_rate=1e-3,
        gradient_clip=200.0,
        seed=seed,
        device="cpu",
        callbacks=[best],
        progress=False,
        initialize_output_bias=True,
    )
    vae.load_state_dict(best.weights)
    bound = importance_weighted_bound(vae, data.test, num_samples=arguments.samples, at_once=2000)
    terms = vaekit.evaluate(vae, data.test)
    levels = [f"{terms[name]:.1f}" for name in sorted(terms) if name.startswith("kl_level")]
    return {
        "parameters": sum(p.numel() for p in vae.parameters()),
        "nll": round(-bound.log_likelihood, 3),
        "error": round(bound.standard_error, 3),
        "elbo": round(terms["loss"], 3),
        "kl": " + ".join(levels) or f"{terms['kl']:.1f}",
    }


def picture(file: Path, seeds: int) -> None:
    """What each level of "top-down-mnist" holds, of a test digit of each class; and its terms beside those of one level."""
    data = digits(4)
    options = {"epochs": 1, "batch_size": 50, "learning_rate": 2e-3, "gradient_clip": 200.0}
    for seed in range(seeds):
        for name, parts in GROUPS["residual"].items():
            vae = vaekit.create_vae(input_shape=(1, 28, 28), seed=seed, **parts)
            for number, x in enumerate(data.train.chunk(4)):
                vaekit.fit(vae, x, seed=4 * seed + number, device="cpu", progress=False, **options)
            print(seed, name, {term: round(value, 2) for term, value in vaekit.evaluate(vae, data.test).items()})
        if not seed:
            vaekit.plots.levels(vae, data.test[::50]).savefig(file, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", action="append", choices=tuple(GROUPS))
    parser.add_argument("--only", action="append", help="models whose name begins so; may be given several times")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="take one digit in so many, to try it out (1)")
    parser.add_argument("--passes", type=int, default=60, help="over the training digits (60)")
    parser.add_argument("--copies", type=int, default=5, help="draws of each training digit, after which validation looks (5)")
    parser.add_argument("--warm-up", type=int, default=400, help="steps in which beta rises from 0 to 1 (400)")
    parser.add_argument("--samples", type=int, default=500, help="draws for each test digit (500)")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--picture", type=Path, help="train one model and picture its levels here instead")
    arguments = parser.parse_args()
    print(header())
    torch.set_num_threads(1)
    if arguments.picture:
        picture(arguments.picture, arguments.seeds)
        return
    head = ("group", "model", "passes", "seed", *COLUMNS)
    lines: list[Sequence[object]] = []
    if arguments.csv and arguments.csv.exists():
        lines = [tuple(line) for line in csv.reader(arguments.csv.read_text().splitlines())][1:]
    rows: list[Sequence[object]] = [("group", "model", "parameters", "-log p(x)", "ELBO", "kl of the first seed")]
    for group in arguments.group or GROUPS:
        for name, options in GROUPS[group].items():
            if arguments.only and not name.startswith(tuple(arguments.only)):
                continue
            for seed in range(arguments.seeds):
                key = (group, name, str(arguments.passes), str(seed))
                if not any(tuple(map(str, line[:4])) == key for line in lines):
                    lines.append((*key, *outcome(options, seed, arguments).values()))
                    write_csv(arguments.csv, [head, *lines])  # what there is, after each
            found = [line for line in lines if line[:3] == (group, name, str(arguments.passes))]
            nll, elbo = ([float(str(line[column])) for line in found] for column in (5, 7))
            rows.append((group, name, found[0][4], mean_and_deviation(nll), mean_and_deviation(elbo), found[0][8]))
    print(table(rows))


if __name__ == "__main__":
    main()

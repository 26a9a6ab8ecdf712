"""Does each latent come to mean one thing when the total correlation is weighed? Scores on shapes with known factors.

R. T. Q. Chen et al., "Isolating Sources of Disentanglement in VAEs", 2018, arXiv:1802.04942, find that beta-TCVAE separates the
factors of such pictures better than the ELBO and than beta-VAE, with weights about 6. Here it is the pictures that vaekit makes,
of three shapes in some sizes and places, upright (an orientation means another thing for each shape), and small dense networks
that are the same for every objective.

A seed is a network's initial weights, the order of the pictures, and the noise: the same for every objective, so that differences
are taken within a seed. Columns, means over the seeds with the standard deviation from seed to seed in brackets:

    MIG, SAP, DCI, FactorVAE     `vaekit.evaluation.disentanglement` of all the pictures; DCI is its disentanglement
    reconstruction, kl           nats a picture, over the last epoch of training
    active                       latent dimensions whose posterior mean has a variance above 0.01

The second table has the same of each score's difference from the ELBO's with the same seed; a mean beyond two or three times its
deviation over the root of the number of seeds is no accident.

    python benchmarks/disentangling.py
    python benchmarks/disentangling.py --objective elbo:1 --objective beta_tc:10 --seeds 3 --csv runs.csv
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness import header, mean_and_deviation, over_seeds, table, write_csv
from torch import Tensor

import vaekit

OBJECTIVES = [("elbo", 1.0), ("elbo", 4.0), ("beta_tc", 4.0), ("beta_tc", 6.0)]
SCORES = {"MIG": "mig", "SAP": "sap", "DCI": "dci_disentanglement", "FactorVAE": "factor_vae"}
COLUMNS = (*SCORES, "reconstruction", "kl", "active")
DIGITS = {**dict.fromkeys(COLUMNS, 3), "reconstruction": 1, "kl": 1, "active": 1}

Objective = tuple[str, float]


class Scale(NamedTuple):
    """How much is done."""

    objectives: tuple[Objective, ...]
    size: int
    scales: int
    positions: int
    latent_dim: int
    width: int
    epochs: int
    batch_size: int
    learning_rate: float


def pictures(scale: Scale) -> tuple[Tensor, Tensor]:
    """x [N, 1, size, size], and the factors [N, F] that have more than one value."""
    shapes = vaekit.data.shapes(scale.size, scales=scale.scales, orientations=1, positions=scale.positions)
    assert isinstance(shapes.x, Tensor)
    return shapes.x, shapes.factors[:, shapes.factors.amax(0) > 0]


def trained_scores(scale: Scale, seed: int) -> dict[Objective, dict[str, float]]:
    """What becomes of every objective with a seed, by column."""
    x, factors = pictures(scale)
    found = {}
    for name, beta in scale.objectives:
        vae = vaekit.create_vae(
            input_shape=tuple(x.shape[1:]),
            latent_dim=scale.latent_dim,
            encoder={"hidden": (scale.width, scale.width)},
            decoder={"hidden": (scale.width, scale.width)},
            loss={"name": name, "beta": beta},
            seed=seed,
        )
        history = vaekit.fit(
            vae,
            x,
            epochs=scale.epochs,
            batch_size=scale.batch_size,
            learning_rate=scale.learning_rate,
            seed=seed,
            device="cpu",
            progress=False,
        )
        scores = vaekit.evaluation.disentanglement(vae, x, factors, seed=seed)
        active = float(vaekit.evaluation.latent_statistics(vae, x).active.sum())
        terms = {"reconstruction": history["reconstruction"][-1], "kl": history["kl"][-1], "active": active}
        found[name, beta] = {**{column: scores[score] for column, score in SCORES.items()}, **terms}
    return found


def parsed_objective(text: str) -> Objective:
    """ "beta_tc:6" as ("beta_tc", 6.0)."""
    name, _, beta = text.partition(":")
    try:
        if name not in ("elbo", "beta_tc"):
            raise ValueError
        return name, float(beta)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"an objective is elbo:BETA or beta_tc:BETA, beta_tc:6 for example; got {text!r}"
        ) from None


def label(objective: Objective) -> tuple[str, str]:
    return objective[0], f"{objective[1]:g}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shown = ", ".join(":".join(label(objective)) for objective in OBJECTIVES)
    parser.add_argument("--objective", type=parsed_objective, action="append", metavar="NAME:BETA", help=f"repeatable ({shown})")
    parser.add_argument("--seeds", type=int, default=5, help="how many (5)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--size", type=int, default=32, help="of the pictures, in pixels (32)")
    parser.add_argument("--scales", type=int, default=4, help="sizes of the shapes (4)")
    parser.add_argument("--positions", type=int, default=12, help="places along each side (12)")
    parser.add_argument("--latent-dim", type=int, default=6, help="(6)")
    parser.add_argument("--width", type=int, default=256, help="of the two dense layers on either side (256)")
    parser.add_argument("--epochs", type=int, default=100, help="(100)")
    parser.add_argument("--batch-size", type=int, default=64, help="(64)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="(0.001)")
    parser.add_argument("--processes", type=int, default=2, help="seeds at a time; changes no figure (2)")
    parser.add_argument("--csv", type=Path, help="write every run here")
    args = parser.parse_args(arguments)
    for option in ("seeds", "processes"):
        if (given := getattr(args, option)) < 1:
            parser.error(f"--{option} has to be at least 1, got {given}")
    objectives = tuple(dict.fromkeys(args.objective or OBJECTIVES))
    scale = Scale(objectives, *(getattr(args, option) for option in Scale._fields[1:]))
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    x, factors = pictures(scale)
    print(header())
    print(
        f"{len(x)} pictures of {factors.shape[1]} factors, {args.width}-{args.width} networks, {args.latent_dim} latents, "
        f"{args.epochs} epochs in batches of {args.batch_size}, {args.seeds} seeds; mean (standard deviation); --help says more\n"
    )
    runs = over_seeds(functools.partial(trained_scores, scale), seeds, args.processes)
    print(table([("objective", "beta", *COLUMNS), *(summary(runs, objective) for objective in objectives)]))
    if (baseline := OBJECTIVES[0]) in objectives and len(objectives) > 1:
        print("\ndifference from the ELBO\n")
        rows = [differences(runs, objective, baseline) for objective in objectives if objective != baseline]
        print(table([("objective", "beta", *SCORES), *rows]))
    lines = [
        (seed, *label(objective), *(run[objective][column] for column in COLUMNS))
        for seed, run in zip(seeds, runs, strict=True)
        for objective in objectives
    ]
    write_csv(args.csv, [("seed", "objective", "beta", *COLUMNS), *lines])


def summary(runs: Sequence[dict[Objective, dict[str, float]]], objective: Objective) -> tuple[str, ...]:
    """A row: the objective, then each column over the seeds."""
    columns = (mean_and_deviation([run[objective][c] for run in runs], DIGITS[c]) for c in COLUMNS)
    return *label(objective), *columns


def differences(runs: Sequence[dict[Objective, dict[str, float]]], objective: Objective, baseline: Objective) -> tuple[str, ...]:
    """A row: the objective, then each score's difference from the baseline's, seed by seed."""
    columns = (mean_and_deviation([run[objective][c] - run[baseline][c] for run in runs], DIGITS[c]) for c in SCORES)
    return *label(objective), *columns


if __name__ == "__main__":
    main()

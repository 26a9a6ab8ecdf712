"""Do more draws for each digit make a better model, and is it their weights? Table 1 of Burda et al. at a reduced scale.

Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, arXiv:1509.00519. Networks 784-200-200-D
with tanh (the preset "burda-mnist"; there D is 50) are trained with "elbo" and K draws, VAE-K, and with "iwae" and K draws,
IWAE-K. With 60,000 digits the paper found VAE-5 hardly better than VAE-1, IWAE-5 better than both, and more active units in IWAE
with more draws.

Here 4,000 of the 4,500 training digits of mnist5k are trained on, 500 tell when to stop, and the 500 test digits are what is
reported. As in the paper, a pixel is 1 with its grey value as probability, and training digits are drawn anew --copies times,
after which the same draws come again. Validation and test digits are drawn once, and are the same for all. After every
--copies passes the importance-weighted bound on the validation digits is taken, with as many draws for every objective, and the
weights for which it was highest are kept: all objectives stop by one rule.

A seed is a network's initial weights, the order of the digits, and the noise: the same for every objective, so that differences
are taken within a seed. Columns, means over the seeds with the standard deviation from seed to seed in brackets:

    passes             over the training digits, where validation was best; where that is --passes, more of them would tell more
    -log p(x)          nats a test digit, from above: the importance-weighted bound with --samples draws
    error              its largest standard error, of any seed, from the finite number of draws
    active units       dimensions whose posterior mean has a variance above 0.01 over the test digits

The second table has differences, taken seed by seed; a mean beyond two or three times its deviation over the root of the number
of seeds is no accident.

    python benchmarks/importance_weighting.py
    python benchmarks/importance_weighting.py --draws 1 5 50 --seeds 2 --csv runs.csv
"""

from __future__ import annotations

import argparse
import copy
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from harness import header, mean_and_deviation, over_seeds, table, write_csv
from torch import Tensor

import vaekit
from vaekit.evaluation import importance_weighted_bound, latent_statistics
from vaekit.ops import philox

LOSSES = {"VAE": "elbo", "IWAE": "iwae"}
VALIDATION_SAMPLES = 100

Objective = tuple[str, int]


class Scale(NamedTuple):
    """How much is done."""

    draws: tuple[int, ...]
    every: int
    latent_dim: int
    passes: int
    copies: int
    batch_size: int
    learning_rate: float
    samples: int

    @property
    def objectives(self) -> list[Objective]:
        return [(method, count) for method in LOSSES for count in self.draws]


class Outcome(NamedTuple):
    """What became of an objective with a seed."""

    passes: int
    nll: float
    error: float
    active: int


class Digits(NamedTuple):
    """Zeros and ones [N, 1, 28, 28]; `train` has every digit as often as it was drawn."""

    train: Tensor
    validation: Tensor
    test: Tensor


def binarised(x: Tensor, key: Tensor) -> Tensor:
    """1 with a grey value as probability, and 0 otherwise."""
    return (philox.uniform(key, x.shape, x.dtype) <= x).to(x.dtype)


def digits(copies: int, every: int = 1) -> Digits:
    """The digits, or one in `every` of them, drawn."""
    train, test = (examples.x[::every] for examples in vaekit.data.load("mnist5k"))
    held_out = torch.arange(len(train)) % 9 == 8  # they lie class by class: of each its share
    key = vaekit.make_key(0)
    drawn = [binarised(train[~held_out], vaekit.fold_in(key, 2 + number)) for number in range(copies)]
    return Digits(torch.cat(drawn), binarised(train[held_out], vaekit.fold_in(key, 0)), binarised(test, vaekit.fold_in(key, 1)))


class BestBound(vaekit.Callback):
    """Remembers the weights with the highest importance-weighted bound on validation data."""

    def __init__(self, validation: Tensor) -> None:
        self.validation = validation
        self.bound, self.epochs = -math.inf, 0
        self.weights: dict[str, Tensor] = {}

    def on_epoch_end(self, state: vaekit.RunState) -> None:
        bound = importance_weighted_bound(state.vae, self.validation, num_samples=VALIDATION_SAMPLES).log_likelihood
        if bound > self.bound:
            self.bound, self.epochs, self.weights = bound, state.epoch + 1, copy.deepcopy(state.vae.state_dict())


def outcomes(scale: Scale, seed: int) -> dict[Objective, Outcome]:
    """What becomes of every objective with a seed."""
    data, found = digits(scale.copies, scale.every), {}
    for method, count in scale.objectives:
        loss = {"name": LOSSES[method], "num_samples": count}
        vae = vaekit.create_vae("burda-mnist", latent_dim=scale.latent_dim, loss=loss, seed=seed)
        best = BestBound(data.validation)
        vaekit.fit(
            vae,
            data.train,
            epochs=scale.passes // scale.copies,
            batch_size=scale.batch_size,
            learning_rate=scale.learning_rate,
            seed=seed,
            device="cpu",
            callbacks=[best],
            progress=False,
            initialize_output_bias=True,
        )
        vae.load_state_dict(best.weights)
        bound = importance_weighted_bound(vae, data.test, num_samples=scale.samples)
        active = int(latent_statistics(vae, data.test).active.sum())
        found[method, count] = Outcome(best.epochs * scale.copies, -bound.log_likelihood, bound.standard_error, active)
    return found


def compared(scale: Scale) -> list[tuple[Objective, Objective]]:
    """Pairs whose difference is shown: each method against its fewest draws, and IWAE against VAE with as many."""
    fewest, *more = scale.draws
    pairs = [((method, count), (method, fewest)) for method in LOSSES for count in more]
    return [*pairs, *((("IWAE", count), ("VAE", count)) for count in scale.draws)]


def label(objective: Objective) -> str:
    return f"{objective[0]}-{objective[1]}"


def summary(runs: Sequence[dict[Objective, Outcome]], objective: Objective) -> tuple[str, ...]:
    """A row of the first table."""
    of_seeds = [run[objective] for run in runs]
    passes, nll, error, active = zip(*of_seeds, strict=True)
    return (
        label(objective),
        mean_and_deviation(passes, 0),
        mean_and_deviation(nll),
        f"{max(error):.2f}",
        mean_and_deviation(active, 1),
    )


def difference(runs: Sequence[dict[Objective, Outcome]], first: Objective, second: Objective) -> tuple[str, ...]:
    """A row of the second table."""
    pairs = [(run[first], run[second]) for run in runs]
    return (
        f"{label(first)} - {label(second)}",
        mean_and_deviation([a.nll - b.nll for a, b in pairs]),
        mean_and_deviation([a.active - b.active for a, b in pairs], 1),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 5], metavar="K", help="for each digit in a step (1 5)")
    parser.add_argument("--seeds", type=int, default=4, help="how many (4)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--every", type=int, default=1, help="take one digit in so many, to try it out (1)")
    parser.add_argument("--latent-dim", type=int, default=25, help="D (25)")
    parser.add_argument("--passes", type=int, default=60, help="at most, over the training digits (60)")
    parser.add_argument("--copies", type=int, default=10, help="draws of each training digit (10)")
    parser.add_argument("--batch-size", type=int, default=20, help="(20, the paper's)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="(0.001)")
    parser.add_argument("--samples", type=int, default=1000, help="draws for each test digit (1000)")
    parser.add_argument("--processes", type=int, default=2, help="seeds at a time; changes no figure (2)")
    parser.add_argument("--csv", type=Path, help="write every run here")
    args = parser.parse_args(arguments)
    for option in ("seeds", "every", "copies", "processes"):
        if (given := getattr(args, option)) < 1:
            parser.error(f"--{option} has to be at least 1, got {given}")
    if args.passes < args.copies or args.passes % args.copies:
        parser.error(f"--passes has to be a multiple of --copies, {args.copies}, got {args.passes}")
    if (given := min(args.draws)) < 1:
        parser.error(f"--draws has to name numbers of at least 1, got {given}")
    args.draws = tuple(sorted(set(args.draws)))
    scale = Scale(*(getattr(args, option) for option in Scale._fields))
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    data = digits(1, scale.every)
    torch.set_num_threads(1)
    print(header())
    print(
        f"burda-mnist with {scale.latent_dim} latents, {len(data.train)}, {len(data.validation)} and {len(data.test)} digits, "
        f"{scale.passes} passes at most in batches of {scale.batch_size}; {args.seeds} seeds: mean (standard deviation); "
        "--help says more\n"
    )
    runs = over_seeds(functools.partial(outcomes, scale), seeds, args.processes)
    head = ("", "passes", "-log p(x)", "error", "active units")
    print(table([head, *(summary(runs, objective) for objective in scale.objectives)]), end="\n\n")
    head = ("difference", "-log p(x)", "active units")
    print(table([head, *(difference(runs, *pair) for pair in compared(scale))]))
    lines = [(seed, label(o), *run[o]) for seed, run in zip(seeds, runs, strict=True) for o in scale.objectives]
    write_csv(args.csv, [("seed", "objective", *Outcome._fields), *lines])


if __name__ == "__main__":
    main()

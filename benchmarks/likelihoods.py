"""What do the native likelihoods gain? The nll of a batch, and its backward, against the same formula in torch's operations.

Contenders, interleaved in one process:

    torch      what one would write in PyTorch, from the row's own file below; the baseline
    vaekit     `likelihood.nll(parameters, x)`; where no compiled kernel is in use (see the header), pure PyTorch
    formula    vaekit's own specification in PyTorch, which the fallback computes

"forward" is under no_grad; "both" is forward, then backward from a fixed gradient [B] to the parameters, whose .grad is None each
time. Columns: microseconds a call, and times torch (median and quartiles over the rounds; a ratio is taken in a round, below 1
is faster).

    python benchmarks/likelihoods.py --csv benchmarks/results/likelihoods.csv
    python benchmarks/likelihoods.py --only "bernoulli*" --threads 1 2
"""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from harness import header, interleaved, quartiles, ratios, spread, table, timed, write_csv
from torch import Tensor
from torch.nn import functional as F

from vaekit import likelihoods
from vaekit.likelihoods import Likelihood

Formula = Callable[[Tensor, Tensor], Tensor]


class Case(NamedTuple):
    """A likelihood with data and parameters, and what one would write in PyTorch: (parameters, x) -> [B]."""

    name: str
    likelihood: Likelihood
    parameters: Tensor
    x: Tensor
    torch: Formula


def bernoulli(batch: int, size: int) -> Case:
    def formula(parameters: Tensor, x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(parameters[:, 0], x, reduction="none").sum(1)

    return Case("bernoulli", likelihoods.Bernoulli(), 3.0 * torch.randn(batch, 1, size), torch.rand(batch, size), formula)


CASES: dict[str, Callable[[], Case]] = {
    f"bernoulli {batch}x{size}": lambda batch=batch, size=size: bernoulli(batch, size)
    for batch, size in ((64, 784), (512, 784), (64, 12288))
}


def formula_of(likelihood: Likelihood) -> Formula:
    """The likelihood's specification."""
    operator = likelihood.operator
    assert operator is not None

    def formula(parameters: Tensor, x: Tensor) -> Tensor:
        return operator.specification(parameters, x, *likelihood._operator_options(parameters), False)

    return formula


def contenders(case: Case) -> dict[str, Formula]:
    return {"torch": case.torch, "vaekit": case.likelihood.nll, "formula": formula_of(case.likelihood)}


def works(case: Case, direction: str) -> dict[str, Callable[[], object]]:
    """Each contender's work."""
    parameters = case.parameters.clone().requires_grad_(direction == "both")
    gradient = torch.full((len(case.x),), 1.0 / len(case.x))

    def work(formula: Formula) -> None:
        if direction == "forward":
            with torch.no_grad():
                formula(parameters, case.x)
            return
        parameters.grad = None
        formula(parameters, case.x).backward(gradient)

    return {name: lambda formula=formula: work(formula) for name, formula in contenders(case).items()}


def measured(label: str, case: Case, direction: str, threads: int, rounds: int) -> list[list[object]]:
    torch.set_num_threads(threads)
    seconds = interleaved({name: timed(work, at_least=0.002) for name, work in works(case, direction).items()}, rounds)
    rows: list[list[object]] = []
    for name, values in seconds.items():
        relative = quartiles(ratios(values, seconds["torch"]))
        rows.append([label, direction, threads, name, 1e6 * quartiles(values)[1], *relative, spread(values, 1e6, 1)])
    return rows


HEAD = ["case", "pass", "threads", "contender", "microseconds", "times torch, low", "times torch", "times torch, high"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="a pattern of cases")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    print(header())
    rows: list[list[object]] = []
    for label in fnmatch.filter(CASES, options.only):
        case = CASES[label]()
        for direction in ("forward", "both"):
            for threads in options.threads:
                rows += measured(label, case, direction, threads, options.rounds)
    shown = [[*row[:4], row[8], f"{row[6]:.2f} ({row[5]:.2f} to {row[7]:.2f})"] for row in rows]
    print(table([[*HEAD[:4], "microseconds", "times torch"], *shown]))
    write_csv(options.csv, [HEAD, *([*row[:4], *(f"{value:.4g}" for value in row[4:8])] for row in rows)])


if __name__ == "__main__":
    main()

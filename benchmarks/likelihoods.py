"""What do the native likelihoods gain? The nll of a batch, and its backward, against the same formula in torch's operations.

Contenders, interleaved in one process:

    torch      what one would write in PyTorch, see the functions below; the baseline
    vaekit     `likelihood.nll(parameters, x)`; where no compiled kernel is in use (see the header), pure PyTorch
    formula    vaekit's own specification in PyTorch, which the fallback computes
    compiled   torch.compile of `torch`; only with --compile

"forward" is under no_grad; "both" is forward, then backward from a fixed gradient [B] to the parameters, whose .grad is None each
time. Columns: microseconds a call; times torch (median and quartiles over the rounds; a ratio is taken in a round, below 1 is
faster); the share of the bandwidth of a copy of 256 MiB at which parameters and data move that have to: forward reads both once,
backward reads them again and writes a gradient of the parameters' size. What stays in a cache can exceed it.

The baselines of the counts are scvi-tools' formulas, `log_nb_positive` and `log_zinb_positive` written out, with
the mean and the inverse dispersion as exponentials of what a decoder gives; in float32 they are off by nats where a count or a
dispersion is large. The baseline of a table of numbers is one `gaussian` of all its columns, vaekit's own. The counts are drawn
from the parameters; "sparse" ones are 0 in 95 cases of a hundred, the others in 82.

    python benchmarks/likelihoods.py --csv benchmarks/results/likelihoods.csv
    python benchmarks/likelihoods.py --only "bernoulli*" --threads 1 2
    python benchmarks/likelihoods.py --device cuda --compile
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from harness import header, interleaved, quartiles, ratios, require, spread, table, timed, write_csv
from reparameterize_kl import copy_bandwidth
from torch import Tensor
from torch.nn import functional as F

from vaekit import likelihoods
from vaekit.likelihoods import Likelihood
from vaekit.likelihoods.positive import DispersedLikelihood

Formula = Callable[[Tensor, Tensor], Tensor]


class Case(NamedTuple):
    """A likelihood with data and parameters, and what one would write in PyTorch: (parameters, x) -> [B]."""

    name: str
    likelihood: Likelihood
    parameters: Tensor
    x: Tensor
    torch: Formula

    def to(self, device: str) -> Case:
        return self._replace(likelihood=self.likelihood.to(device), parameters=self.parameters.to(device), x=self.x.to(device))

    def bytes(self, direction: str) -> int:
        """That have to move."""
        read = self.parameters.nbytes + self.x.nbytes
        return read if direction == "forward" else 2 * read + self.parameters.nbytes


def bernoulli(batch: int, size: int) -> Case:
    def formula(parameters: Tensor, x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(parameters[:, 0], x, reduction="none").sum(1)

    return Case("bernoulli", likelihoods.Bernoulli(), 3.0 * torch.randn(batch, 1, size), torch.rand(batch, size), formula)


def log_nb_positive(x: Tensor, mu: Tensor, theta: Tensor, eps: float = 1e-8) -> Tensor:
    """As scvi-tools has it: the log probability of each count."""
    log_theta_mu_eps = torch.log(theta + mu + eps)
    return (
        theta * (torch.log(theta + eps) - log_theta_mu_eps)
        + x * (torch.log(mu + eps) - log_theta_mu_eps)
        + torch.lgamma(x + theta)
        - torch.lgamma(theta)
        - torch.lgamma(x + 1)
    )


def log_zinb_positive(x: Tensor, mu: Tensor, theta: Tensor, pi: Tensor, eps: float = 1e-8) -> Tensor:
    """The same with additional zeros; pi is the logit of a zero's probability."""
    softplus_pi = F.softplus(-pi)
    log_theta_eps, log_theta_mu_eps = torch.log(theta + eps), torch.log(theta + mu + eps)
    pi_theta_log = -pi + theta * (log_theta_eps - log_theta_mu_eps)
    case_zero = F.softplus(pi_theta_log) - softplus_pi
    mul_case_zero = torch.mul((x < eps).type(torch.float32), case_zero)
    case_non_zero = (
        -softplus_pi
        + pi_theta_log
        + x * (torch.log(mu + eps) - log_theta_mu_eps)
        + torch.lgamma(x + theta)
        - torch.lgamma(theta)
        - torch.lgamma(x + 1)
    )
    return mul_case_zero + torch.mul((x > eps).type(torch.float32), case_non_zero)


def counts(name: str, dispersion: str, log_mean: float, batch: int = 128, genes: int = 2000) -> Case:
    """Counts as of cells and genes.

    Args:
        dispersion: "element", from the decoder; "feature", one learned number for each gene; "shared", one for all.
        log_mean: of a gene, on average.
    """
    generator = torch.Generator().manual_seed(0)
    inflated = name.startswith("zero_inflated")
    means, thetas, logits = (torch.randn(batch, genes, generator=generator) for _ in range(3))
    means = log_mean + 1.5 * means
    thetas = {"element": thetas, "feature": thetas[0], "shared": thetas[0, 0]}[dispersion]
    rate = torch._standard_gamma(thetas.exp().expand_as(means), generator=generator) * (means - thetas).exp()
    x = torch.poisson(rate, generator=generator)
    likelihood = likelihoods.create(name, dispersion=dispersion)
    likelihood.set_data_shape((genes,))
    learned = None
    if isinstance(likelihood, DispersedLikelihood) and dispersion != "element":
        with torch.no_grad():
            likelihood.learned["log_theta"].copy_(thetas)
        learned = thetas.clone().requires_grad_()

    def formula(parameters: Tensor, x: Tensor) -> Tensor:
        log_mean, *others = parameters.unbind(1)
        theta = (others.pop(0) if learned is None else learned).exp()
        log_probability = log_zinb_positive if inflated else log_nb_positive
        return -log_probability(x, log_mean.exp(), theta, *others).sum(1)

    planes = [means, *([thetas] if learned is None else []), *([2.0 * logits] if inflated else [])]
    return Case(name, likelihood, torch.stack(planes, 1), x, formula)


def gaussian(batch: int, size: int, variance: str) -> Case:
    learned = torch.zeros(size, requires_grad=True)

    def formula(parameters: Tensor, x: Tensor) -> Tensor:
        logvar = {"element": parameters[:, -1], "feature": learned}.get(variance)
        scale = 1.0 if logvar is None else torch.exp(0.5 * logvar)
        return -torch.distributions.Normal(parameters[:, 0], scale, validate_args=False).log_prob(x).sum(1)

    likelihood = likelihoods.Gaussian(variance)
    likelihood.set_data_shape((size,))
    parameters = torch.randn(batch, likelihood.parameters_per_element, size)
    return Case(f"gaussian of {variance} variance", likelihood, parameters, torch.randn(batch, size), formula)


def table_of_numbers(batch: int, columns: int, variance: str) -> Case:
    """The baseline is the one gaussian of all columns, vaekit's own."""
    alone = gaussian(batch, columns, variance).likelihood

    def formula(parameters: Tensor, x: Tensor) -> Tensor:
        return alone.nll(parameters.view(batch, columns, -1).mT if variance == "element" else parameters, x)

    likelihood = likelihoods.Columns([{"name": "gaussian", "variance": variance}] * columns)
    parameters = torch.randn(batch, 1, columns * alone.parameters_per_element)
    return Case(f"table of {variance} variance", likelihood, parameters, torch.randn(batch, columns), formula)


def discretized_logistic(batch: int, size: int, components: int) -> Case:
    def formula(parameters: Tensor, x: Tensor) -> Tensor:
        """As PixelCNN++ has it, with its floors under probabilities and scales, without its colours."""
        logits, mean, log_scale = parameters.unflatten(1, (3, components)).unbind(1)
        centered, precision = (2.0 * x - 1.0).unsqueeze(1) - mean, torch.exp(-log_scale.clamp(min=-7.0))
        plus, minus, middle = precision * (centered + 1 / 255), precision * (centered - 1 / 255), precision * centered
        inside = torch.sigmoid(plus) - torch.sigmoid(minus)
        density = middle - log_scale.clamp(min=-7.0) - 2.0 * F.softplus(middle) - math.log(127.5)
        values = torch.where(inside > 1e-5, inside.clamp(min=1e-12).log(), density)
        values = torch.where(x.unsqueeze(1) > 0.999, -F.softplus(minus), values)
        values = torch.where(x.unsqueeze(1) < 0.001, plus - F.softplus(plus), values)
        return -torch.logsumexp(values + torch.log_softmax(logits, 1), 1).sum(1)

    parameters = torch.randn(batch, 3 * components, size)
    parameters[:, 2 * components :] -= 2.0
    x = (255.0 * torch.rand(batch, size)).round() / 255.0
    return Case("discretized_logistic", likelihoods.DiscretizedLogistic(components), parameters, x, formula)


CASES: dict[str, Callable[[], Case]] = {
    f"bernoulli {batch}x{size}": lambda batch=batch, size=size: bernoulli(batch, size)
    for batch, size in ((64, 784), (512, 784), (64, 12288))
}
for _name in ("negative_binomial", "zero_inflated_negative_binomial"):
    for _dispersion in ("element", "feature", "shared"):
        CASES[f"{_name} {_dispersion}"] = functools.partial(counts, _name, _dispersion, -2.0)
    CASES[f"{_name} element sparse"] = functools.partial(counts, _name, "element", -3.9)
CASES |= {
    f"gaussian, {variance} variance, 64x3072": lambda variance=variance: gaussian(64, 3072, variance)
    for variance in ("fixed", "shared", "feature", "element")
}
CASES |= {
    f"table of 30 numbers, {variance} variance, 512x30": lambda variance=variance: table_of_numbers(512, 30, variance)
    for variance in ("fixed", "feature", "element")
}
CASES["discretized_logistic of 5, 16x3072"] = lambda: discretized_logistic(16, 3072, 5)


def formula_of(likelihood: Likelihood) -> Formula:
    """The likelihood's specification."""
    operator = likelihood.operator
    assert operator is not None

    def formula(parameters: Tensor, x: Tensor) -> Tensor:
        return operator.specification(parameters, x, *likelihood._operator_options(parameters), False)

    return formula


def contenders(case: Case, compiled: bool) -> dict[str, Formula]:
    found = {"torch": case.torch, "vaekit": case.likelihood.nll}
    if case.likelihood.operator is not None:
        found["formula"] = formula_of(case.likelihood)
    if compiled:
        torch._dynamo.reset()
        found["compiled"] = torch.compile(case.torch, dynamic=False)
    return found


def works(case: Case, direction: str, compiled: bool) -> dict[str, Callable[[], object]]:
    """Each contender's work."""
    parameters = case.parameters.clone().requires_grad_(direction == "both")
    gradient = torch.full((len(case.x),), 1.0 / len(case.x), device=case.x.device)

    def work(formula: Formula) -> None:
        if direction == "forward":
            with torch.no_grad():
                formula(parameters, case.x)
            return
        parameters.grad = None
        formula(parameters, case.x).backward(gradient)

    return {name: lambda formula=formula: work(formula) for name, formula in contenders(case, compiled).items()}


def measured(
    label: str, case: Case, direction: str, threads: int, bandwidth: float, options: argparse.Namespace
) -> list[list[object]]:
    device = options.device
    calls = {name: timed(work, device, 0.002) for name, work in works(case, direction, options.compile).items()}
    seconds = interleaved(calls, options.rounds)
    rows: list[list[object]] = []
    for name, values in seconds.items():
        relative, median = quartiles(ratios(values, seconds["torch"])), quartiles(values)[1]
        share = case.bytes(direction) / median / bandwidth
        rows.append([label, direction, threads, name, 1e6 * median, *relative, share, spread(values, 1e6, 1)])
    return rows


HEAD = ["case", "pass", "threads", "contender", "microseconds", "times torch, low", "times torch", "times torch, high", "of copy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="a pattern of cases")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", help="numbers of threads, one after the other (1 2); on the CPU only")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the baseline too")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    require(options.device)
    if options.device == "cuda" and options.threads:
        parser.error("--threads is for the CPU")
    torch.manual_seed(0)
    print(header(options.device))
    rows: list[list[object]] = []
    for threads in [torch.get_num_threads()] if options.device == "cuda" else options.threads or [1, 2]:
        torch.set_num_threads(threads)
        bandwidth = copy_bandwidth(options.device)
        for label in fnmatch.filter(CASES, options.only):
            case = CASES[label]().to(options.device)
            for direction in ("forward", "both"):
                rows += measured(label, case, direction, threads, bandwidth, options)
            # After each, since the time may be bounded from outside.
            write_csv(options.csv, [HEAD, *([*row[:4], *(f"{value:.4g}" for value in row[4:9])] for row in rows)])
    shown = [[*row[:4], row[9], f"{row[6]:.2f} ({row[5]:.2f} to {row[7]:.2f})", f"{row[8]:.1%}"] for row in rows]
    print(table([[*HEAD[:4], "microseconds", "times torch", "of copy"], *shown]))


if __name__ == "__main__":
    main()

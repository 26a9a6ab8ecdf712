"""Textbook densities in mpmath, to hold likelihoods against: nll(parameters, x) of one element, in numbers of many digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mpmath
import torch
from mpmath import mpf
from torch import Tensor

from vaekit.likelihoods import (
    Autoregressive,
    Bernoulli,
    Beta,
    Categorical,
    Columns,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Likelihood,
    Modalities,
    NegativeBinomial,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
)

DIGITS = 120  # differences of log-gamma functions of 1e35 lose 37


def bernoulli(parameters, x):
    (t,) = parameters
    return mpmath.log(1 + mpmath.exp(-abs(t))) + max(t, 0) - t * x


def gaussian(parameters, x):
    mean, logvar = parameters
    return (mpmath.log(2 * mpmath.pi) + logvar + (x - mean) ** 2 * mpmath.exp(-logvar)) / 2


def laplace(parameters, x):
    mean, log_scale = parameters
    return mpmath.log(2) + log_scale + abs(x - mean) * mpmath.exp(-log_scale)


def student_t(parameters, x):
    location, log_scale, log_df = parameters
    n = mpmath.exp(log_df)
    gammas = mpmath.loggamma(n / 2) - mpmath.loggamma((n + 1) / 2)
    ratio = (x - location) * mpmath.exp(-log_scale)
    return gammas + mpmath.log(n * mpmath.pi) / 2 + log_scale + (n + 1) / 2 * mpmath.log1p(ratio**2 / n)


def continuous_bernoulli(parameters, x):
    (t,) = parameters
    return (mpmath.log(mpmath.expm1(t) / t) if t else mpf(0)) - x * t


def beta(parameters, x):
    a, b = (mpmath.exp(p) for p in parameters)
    log_constant = mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)
    return log_constant - (a - 1) * mpmath.log(x) - (b - 1) * mpmath.log1p(-x)


def categorical(parameters, x):
    return mpmath.log(sum(mpmath.exp(p) for p in parameters)) - parameters[int(x)]


def discretized_logistic(parameters, x, levels=256):
    count = len(parameters) // 3
    logits, means, log_scales = parameters[:count], parameters[count : 2 * count], parameters[2 * count :]
    level, total, weights = int(mpmath.nint(x * (levels - 1))), mpf(0), mpf(0)
    for logit, mean, log_scale in zip(logits, means, log_scales, strict=True):
        below, above = ((mpf(2 * (level + side) - levels) / (levels - 1) - mean) * mpmath.exp(-log_scale) for side in (0, 1))
        # 1 / (1 + exp(-u)) has lost what is left of 1 at a large u: the tails are those of -u
        low = mpf(0) if level == 0 else 1 / (1 + mpmath.exp(-below))
        high = mpf(1) if level == levels - 1 else 1 / (1 + mpmath.exp(-above))
        inside = (
            high - low
            if below < 0
            else (1 / (1 + mpmath.exp(below)) if level else mpf(1))
            - (mpf(0) if level == levels - 1 else 1 / (1 + mpmath.exp(above)))
        )
        total, weights = total + mpmath.exp(logit) * inside, weights + mpmath.exp(logit)
    return mpmath.log(weights) - mpmath.log(total)


def poisson(parameters, x):
    (log_rate,) = parameters
    return mpmath.exp(log_rate) - x * log_rate + mpmath.loggamma(x + 1)


def negative_binomial(parameters, x):
    log_mean, log_theta = parameters
    mean, theta = mpmath.exp(log_mean), mpmath.exp(log_theta)
    log_choice = mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - mpmath.loggamma(x + 1)
    return -log_choice - theta * mpmath.log(theta / (theta + mean)) - x * mpmath.log(mean / (theta + mean))


def zero_inflated_negative_binomial(parameters, x):
    *counted, logit = parameters
    kept = 1 / (1 + mpmath.exp(logit))
    probability = kept * mpmath.exp(-negative_binomial(counted, x))
    return -mpmath.log(probability + (1 / (1 + mpmath.exp(-logit)) if x == 0 else 0))


class Case(NamedTuple):
    """A likelihood with all of its parameters from the decoder, its textbook density, and where to hold one against the other."""

    likelihood: Likelihood
    nll: Callable[[list[mpf], mpf], mpf]
    ordinary: list[tuple[float, ...]]
    extreme: list[tuple[float, ...]]
    values: list[float]


REAL = [-1e6, -3.0, -0.5, 0.0, 1e-20, 0.7, 2.0, 1e8]
PROPORTIONS = [1e-30, 1e-6, 0.1, 0.5, 0.75, 0.999]
COUNTS = [0.0, 1.0, 2.0, 9.0, 10.0, 37.0, 1000.0, 1e6]
LEVELS = [0.0, 1 / 255, 0.2, 128 / 255, 254 / 255, 1.0]

CASES = {
    "bernoulli": Case(Bernoulli(), bernoulli, [(0.0,), (1.5,), (-4.0,)], [(-1e4,), (90.0,)], [0.0, 0.3, 1.0]),
    "gaussian": Case(Gaussian("element"), gaussian, [(0.0, 0.0), (1.5, -1.0)], [(-1e3, 30.0), (2.0, -30.0)], REAL),
    "laplace": Case(Laplace("element"), laplace, [(0.0, 0.0), (1.5, -1.0)], [(-1e3, 60.0), (2.0, -60.0)], REAL),
    "student_t": Case(
        StudentT("element", freedom="element"),
        student_t,
        [(0.0, 0.0, 0.0), (1.5, -1.0, 1.4), (0.5, 2.0, 3.0)],
        [(1.0, -78.0, 0.5), (1.0, 78.0, 0.5), (0.0, 0.0, -50.0), (0.0, 0.0, 50.0), (0.5, -60.0, 20.0), (2.0, 0.0, 2.9957)],
        REAL,
    ),
    "continuous_bernoulli": Case(
        ContinuousBernoulli(),
        continuous_bernoulli,
        [(0.0,), (1.5,), (-4.0,), (0.49999,), (0.50001,)],
        [(1e-30,), (-1e-4,), (1e-3,), (0.03,), (90.0,), (-1e4,)],
        [0.0, 1e-6, 0.3, 0.5, 0.9, 1.0],
    ),
    "beta": Case(
        Beta(),
        beta,
        [(0.0, 0.0), (0.7, -0.5), (2.0, 1.0), (-2.0, -3.0)],
        [(14.0, 14.0), (14.0, 7.0), (-60.0, 2.0), (-60.0, -60.0), (70.0, 70.0), (2.2, 2.4), (-5.0, 30.0)],
        PROPORTIONS,
    ),
    "categorical": Case(
        Categorical(classes=3),
        categorical,
        [(0.0, 0.0, 0.0), (1.0, -2.0, 0.5)],
        [(1e4, -1e4, 0.0), (-80.0, -81.0, -82.0)],
        [0.0, 1.0, 2.0],
    ),
    "discretized_logistic": Case(
        DiscretizedLogistic(components=2),
        discretized_logistic,
        [(0.0, 0.0, 0.0, 0.0, 0.0, 0.0), (1.0, -1.0, -0.5, 0.7, -2.0, -4.0)],
        [
            (0.0, 0.0, -1.0, 1.0, -12.0, -12.0),
            (0.0, 0.0, 0.1, 0.3, -70.0, -9.0),
            (0.0, 0.0, 0.0, 0.0, 70.0, 70.0),
            (50.0, -50.0, 1e3, -1e3, -3.0, -3.0),
        ],
        LEVELS,
    ),
    "poisson": Case(
        Poisson(), poisson, [(0.0,), (1.5,), (-2.0,), (2.3,)], [(-80.0,), (13.8,), (13.8155,), (60.0,), (6.9,)], COUNTS
    ),
    "negative_binomial": Case(
        NegativeBinomial(),
        negative_binomial,
        [(0.0, 0.0), (1.5, 1.0), (-2.0, 2.0), (3.6, -1.0)],
        [
            (6.9, 75.0),
            (13.8155, 30.0),
            (13.8, 14.0),
            (13.8, 16.0),
            (20.0, -7.0),
            (3.0, -75.0),
            (70.0, 2.0),
            (-70.0, 2.0),
            (2.0, 2.3),
        ],
        COUNTS,
    ),
    "zero_inflated_negative_binomial": Case(
        ZeroInflatedNegativeBinomial(),
        zero_inflated_negative_binomial,
        [(0.0, 0.0, 0.0), (1.5, 1.0, -2.0), (3.6, -1.0, 1.0)],
        [(6.9, 75.0, -40.0), (13.8, 14.0, 40.0), (5.0, 5.0, -40.0), (-60.0, 2.0, -60.0), (-60.0, 2.0, 60.0), (70.0, 2.0, 0.0)],
        COUNTS,
    ),
}


# Made of other likelihoods or networks, or for sequences: tests/test_multimodal.py, tests/likelihoods/test_autoregressive.py.
OF_SEVERAL = frozenset({"autoregressive", "modalities", "recurrent"})

# Options that a registered likelihood cannot do without.
REQUIRED = {
    "categorical": {"classes": 3},
    "columns": {"columns": {"height": "gaussian", "sex": {"name": "categorical", "classes": 2}, "visits": "poisson"}},
}


def data_in_support(likelihood: Likelihood, shape: Sequence[int], seed: int = 0) -> Tensor:
    """float32 examples that any likelihood of the library takes as its own."""
    if isinstance(likelihood, Columns):
        columns = [data_in_support(part, shape[:-1], seed + number) for number, part in enumerate(likelihood.likelihoods)]
        return torch.stack(columns, -1)
    if isinstance(likelihood, Autoregressive):
        return data_in_support(likelihood.step, (shape[0], *likelihood.data_shape), seed)
    if isinstance(likelihood, Modalities):
        shapes = likelihood.shapes.items()
        return likelihood.joined(
            {name: data_in_support(likelihood.likelihood_of(name), (shape[0], *own)) for name, own in shapes}
        )
    u = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    steps = likelihood.levels - 1 if isinstance(likelihood, DiscretizedLogistic) else 0
    if likelihood.support.whole:
        return (u * (min(likelihood.support.highest, 6.0) + 1.0)).floor()
    if steps:
        return (u * steps).round() / steps
    return u if likelihood.support.bounds_included else 0.01 + 0.98 * u


def table(rows: Sequence[tuple[tuple[float, ...], float]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows (parameters, x) of one element each: natural parameters [N, P, 1], which require a gradient, and x [N, 1]."""
    parameters = torch.tensor([p for p, _ in rows], dtype=dtype)[:, :, None].requires_grad_()
    return parameters, torch.tensor([x for _, x in rows], dtype=dtype)[:, None]


def whole_table(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """All of a case's parameters with all of its values."""
    return table([(p, x) for p in case.ordinary + case.extreme for x in case.values], dtype)


def exact(case: Case, parameters: Tensor, x: Tensor) -> list[mpf]:
    """The textbook's nll of each row, from the very numbers in the tensors."""
    with mpmath.workdps(DIGITS):
        return [
            case.nll([mpf(v) for v in row], mpf(value))
            for row, value in zip(parameters[..., 0].tolist(), x[:, 0].tolist(), strict=True)
        ]


def exact_slopes(case: Case, parameters: Tensor, x: Tensor) -> list[list[float]]:
    """The derivatives of the textbook's nll of each row by its parameters."""
    slopes, step = [], mpf(10) ** -30
    with mpmath.workdps(DIGITS):
        for row, value in zip(parameters[..., 0].tolist(), x[:, 0].tolist(), strict=True):
            sides = [
                [case.nll([mpf(v) + side * step * (i == which) for i, v in enumerate(row)], mpf(value)) for side in (1, -1)]
                for which in range(len(row))
            ]
            slopes.append([float((above - below) / (2 * step)) for above, below in sides])
    return slopes


def rounding(case: Case, parameters: Tensor, x: Tensor) -> Tensor:
    """What a relative change of 1 in each number that goes into a row's nll changes in it, to first order, plus 1: [N]."""
    wide, x = parameters.detach().double().requires_grad_(), x.double()
    nll = case.likelihood.nll(wide, x)
    (slopes,) = torch.autograd.grad(nll.sum(), wide)
    logs = torch.where(x > 0, x, 1).log().abs()  # log x, or its logit, is subtracted from a parameter
    if isinstance(case.likelihood, Beta):
        logs = torch.maximum(logs, torch.log1p(-x).abs())
    return ((wide.detach().abs() + logs[:, None] + 1) * slopes.abs()).sum((1, 2)) + nll.detach().abs() + 1

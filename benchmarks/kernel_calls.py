"""Calls every kernel a few times, forward and backward, and holds the results against the CPU's: what a sanitizer watches.

The sizes are those at which kernels go wrong: rows that are no multiple of a vector, of a block, of a warp; one element; strides.
Arguments are made on the CPU, so that few kernels but ours run.

    compute-sanitizer --tool memcheck --error-exitcode 86 python benchmarks/kernel_calls.py --device cuda
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

import torch
from harness import require
from torch import Tensor

import vaekit
from vaekit import likelihoods
from vaekit.likelihoods import Likelihood
from vaekit.losses import squared_mmd
from vaekit.losses.total_correlation import log_aggregate, log_weights
from vaekit.ops.kernel_sum import kernel_sum

SHAPES = ((64, 20), (33, 3), (5, 129), (1, 1), (2, 3000))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 3e-2, torch.float16: 4e-3}

Call = tuple[str, Callable[..., tuple[Tensor, ...]], list[Tensor], torch.dtype]  # the tensors that have gradients come first


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def operator(mu: Tensor, logvar: Tensor, **options: object) -> tuple[Tensor, ...]:
    return vaekit.reparameterize_kl(mu, logvar, key=vaekit.make_key(5, device=mu.device), **options)


def calls() -> Iterator[Call]:
    for shape in SHAPES:
        for dtype in DTYPES:
            halves = normal(shape[0], 2 * shape[1], dtype=dtype).chunk(2, -1)  # rows with a stride, as an encoder's halves are
            yield f"reparameterize_kl {shape} {dtype}", operator, list(halves), dtype
    mu, logvar = normal(33, 129), normal(33, 129, seed=1)
    for options in ({"num_samples": 3}, {"reduce": "none"}):
        yield f"reparameterize_kl {options}", lambda mu, logvar, o=options: operator(mu, logvar, **o), [mu, logvar], mu.dtype
    prior = [normal(33, 129, seed=2), normal(33, 129, seed=3)]
    yield "reparameterize_kl prior", lambda m, v, *p: operator(m, v, prior=p), [mu, logvar, *prior], mu.dtype
    for name, likelihood, data in likelihoods_with_data():
        parameters = normal(len(data), likelihood.parameters_per_element, *data.shape[1:])
        # Data that asks for a gradient gets the formula, not the kernel.
        yield (
            f"nll of {name}",
            lambda p, x, of=likelihood: (of.to(p.device).nll(p, x.detach()),),
            [parameters, data],
            torch.float32,
        )
    counts = (3 * normal(70, 29).abs()).floor()
    for name, shared in (("one dispersion", normal()), ("a dispersion for each feature", normal(29, seed=6))):
        yield (
            f"nll of negative_binomial with {name}",
            lambda p, t, x: (torch.ops.vaekit.negative_binomial_nll(p, x.detach(), t, 0.0, False),),
            [normal(70, 1, 29), shared, counts],
            torch.float32,
        )
    eps = normal(65, 7, seed=4)
    yield (
        "log_aggregate",
        lambda *t: log_aggregate(*t, *log_weights("stratified", 65, 650)),
        [normal(65, 7), eps, eps],
        torch.float32,
    )
    yield "squared_mmd", lambda x, y: (squared_mmd(x, y),), [normal(65, 7), eps], torch.float32
    for within in (False, True):
        yield (
            f"kernel_sum of Gaussian kernels{' within a sample' * within}",
            lambda x, y, within=within: (kernel_sum(x, None if within else y, [1.0, 9.0], True),),
            [normal(65, 37), normal(33, 37, seed=7)],
            torch.float32,
        )


def likelihoods_with_data() -> Iterator[tuple[str, Likelihood, Tensor]]:
    for shape in ((33, 29), (5, 64), (2, 5000)):
        uniform = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        counts = (8 * uniform).floor() * (uniform > 0.5)
        for name in ("bernoulli", "gaussian", "laplace", "student_t", "continuous_bernoulli", "discretized_logistic"):
            yield f"{name} {shape}", likelihoods.create(name), (255 * uniform).round() / 255
        for name in ("poisson", "negative_binomial", "zero_inflated_negative_binomial"):
            yield f"{name} {shape}", likelihoods.create(name), counts


def results(function: Callable[..., tuple[Tensor, ...]], tensors: Sequence[Tensor], device: str) -> list[Tensor]:
    """Results and gradients, on the CPU."""
    own = [t.to(device).detach().requires_grad_() for t in tensors]
    found = [r for r in function(*own) if r.requires_grad]
    gradients = torch.autograd.grad(found, own, [torch.ones(r.shape, dtype=r.dtype).to(device) for r in found], allow_unused=True)
    return [t.detach().cpu() for t in (*found, *gradients) if t is not None]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    args = parser.parse_args(arguments)
    require(args.device)
    every = list(calls())
    for name, function, tensors, dtype in every:
        found, expected = results(function, tensors, args.device), results(function, tensors, "cpu")
        for have, want in zip(found, expected, strict=True):
            torch.testing.assert_close(
                have, want, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype], msg=lambda m, name=name: f"{name}: {m}"
            )
    kernel = vaekit.build_info()[f"{args.device} kernel"]
    print(f"{len(every)} calls on {args.device}, as on the CPU; {args.device} kernel: {kernel}")


if __name__ == "__main__":
    main()

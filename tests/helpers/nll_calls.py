"""Direct calls of the operators `vaekit::*_nll`, on any device and in any library, and their formulas."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from helpers.densities import data_in_support
from vaekit.likelihoods import (
    Bernoulli,
    DiscretizedLogistic,
    Gaussian,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from vaekit.ops.reference import compute_dtype

LIKELIHOODS = {
    "bernoulli": Bernoulli(),
    "gaussian of a fixed variance": Gaussian(sigma=0.5),
    "gaussian of a shared variance": Gaussian("shared", 0.5),
    "gaussian of a variance for each feature": Gaussian("shared", 0.5),
    "gaussian": Gaussian("element"),
    "discretized_logistic": DiscretizedLogistic(components=3),
    "discretized_logistic of one component": DiscretizedLogistic(components=1, levels=5),
    "poisson": Poisson(),
    "negative_binomial": NegativeBinomial(),
    "negative_binomial of a fixed dispersion": NegativeBinomial("fixed", 3.0),
    "negative_binomial of a shared dispersion": NegativeBinomial("shared", 3.0),
    "negative_binomial of a dispersion for each feature": NegativeBinomial("shared", 3.0),
    "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomial(),
    "zero_inflated_negative_binomial of a dispersion for each feature": ZeroInflatedNegativeBinomial("shared", 3.0),
}
# The largest error of an element, in units of 1 and its size.
NEAR = {torch.float32: 4e-6, torch.float64: 2e-12, torch.bfloat16: 8e-3, torch.float16: 1e-3}


class Call(NamedTuple):
    """An operator's operands."""

    operator: str
    parameters: Tensor
    x: Tensor
    options: tuple
    ignore_missing: bool = False

    def forward(self, namespace: str = "vaekit") -> Tensor:
        return getattr(getattr(torch.ops, namespace), self.operator)(self.parameters, self.x, *self.options, self.ignore_missing)

    def backward(self, grad: Tensor, namespace: str = "vaekit") -> list[Tensor]:
        operator = getattr(getattr(torch.ops, namespace), f"{self.operator}_backward")
        found = operator(grad, self.parameters, self.x, *self.options, self.ignore_missing)
        return [found] if isinstance(found, Tensor) else [t for t in found if t is not None]

    def both(self, grad: Tensor, namespace: str = "vaekit") -> list[Tensor]:
        return [self.forward(namespace), *self.backward(grad, namespace)]


def call_of(name: str, shape: tuple, dtype: torch.dtype = torch.float32, scale: float = 2.0) -> Call:
    likelihood = LIKELIHOODS[name]
    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(shape[0], likelihood.parameters_per_element, *shape[1:], generator=generator, dtype=torch.float64)
    x = data_in_support(likelihood, shape, 0).to(compute_dtype(dtype))
    return Call(likelihood.operator.name, (scale * parameters).to(dtype), x, options_of(name, dtype, shape))


def options_of(name: str, dtype: torch.dtype, shape: tuple) -> tuple:
    likelihood = LIKELIHOODS[name]
    options = likelihood._operator_options(torch.zeros(shape[0], likelihood.parameters_per_element, *shape[1:]))
    if name.endswith("each feature"):
        options = (torch.linspace(-2.0, 3.0, 2 * shape[-1])[::2], *options[1:])
    return tuple(o.detach().to(compute_dtype(dtype)) if isinstance(o, Tensor) else o for o in options)


def gradient_of(call: Call) -> Tensor:
    return torch.linspace(-1.0, 2.0, len(call.x), dtype=compute_dtype(call.parameters.dtype))


def by_formula(call: Call, grad: Tensor, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    operator = next(kind.operator for kind in map(type, LIKELIHOODS.values()) if kind.operator.name == call.operator)
    inputs = [t.to(dtype).requires_grad_() for t in (call.parameters, *call.options) if isinstance(t, Tensor)]
    rest = iter(inputs[1:])
    options = [next(rest) if isinstance(o, Tensor) else o for o in call.options]
    rows = operator.specification(inputs[0], call.x.to(dtype), *options, call.ignore_missing)
    return [rows.detach(), *torch.autograd.grad(rows, inputs, grad.to(dtype))]


def assert_like_the_formula(call: Call, grad: Tensor, found: list[Tensor]) -> None:
    """What `both` gave, against the formula in float64."""
    dtype, wide, event = call.parameters.dtype, compute_dtype(call.parameters.dtype), math.prod(call.x.shape[1:])
    rows, gradient, *shared = found
    right_rows, right_gradient, *right_shared = by_formula(call, grad)
    assert (rows.dtype, gradient.dtype) == (wide, dtype)
    torch.testing.assert_close(rows.double(), right_rows, rtol=NEAR[wide], atol=NEAR[wide] * event)
    # Where a gradient is a small difference of large terms, the formula in the same dtype says what can be asked for.
    unavoidable = float((by_formula(call, grad, wide)[1] - right_gradient).abs().max()) if gradient.numel() else 0.0
    torch.testing.assert_close(
        gradient.double(), right_gradient.to(dtype).double(), rtol=NEAR[dtype], atol=NEAR[dtype] + 2.0 * unavoidable
    )
    for have, want in zip(shared, right_shared, strict=True):
        torch.testing.assert_close(have.double(), want, rtol=1e-5, atol=1e-5 * float(grad.abs().sum() + 1) * math.sqrt(event))

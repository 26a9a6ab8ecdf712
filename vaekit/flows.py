"""Invertible networks with known Jacobians: the adapter of zuko's flows, for priors and posteriors.

G. Papamakarios, T. Pavlakou, I. Murray, "Masked Autoregressive Flow", 2017, arXiv:1705.07057; C. Durkan et al., "Neural Spline
Flows", 2019, arXiv:1906.04032.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vaekit.checks import checked_size, checked_sizes, checked_word

T = TypeVar("T", Tensor, Tensor | None)


class Invertible(nn.Module, ABC):
    """A map of vectors x [N, D] -> y [N, D], given a context [N, C] of each if it takes one, with an inverse and a Jacobian."""

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y and log |det dy/dx| [N], in one pass."""

    @abstractmethod
    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """x."""

    @abstractmethod
    def gradient_at_image(self, x: Tensor, context: Tensor | None, gradient: Tensor) -> Tensor:
        """d log q(y) / dy [N, D] of the density q that draws y have where x has one with d log p(x) / dx = gradient [N, D].

        The parameters and the context are constants, and so is the result. With y = f(x), of each map in turn,

            d log q(y) / dy = J^-T (d log p(x) / dx - d log |det J| / dx),    J = df/dx,

        as in L. Vaitl, L. Winkler, L. Richter, P. Kessel, "Fast and unified path gradient estimators for normalizing flows", ICLR
        2024, arXiv:2403.15881.
        """


class InvertibleNetwork(Invertible):
    """The map of one of zuko's flows, x [N, D] -> y [N, D], given a context [N, C] of each row if it takes one.

    It computes in float32 or float64, its weights' dtype, under autocast too, and takes empty batches, which zuko does not.

    Raises:
        TypeError: called with numbers of another dtype than its weights'.
    """

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.transform, self.base = flow.transform, flow.base

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y and log |det dy/dx| [N], in one pass."""
        self._check(x)
        with torch.autocast(x.device.type, enabled=False):
            y, log_slope = self.transform(_rows(context)).call_and_ladj(_rows(x))
        return y[: x.shape[0]], log_slope[: x.shape[0]]

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """x, in D passes through each of the networks."""
        self._check(y)
        with torch.autocast(y.device.type, enabled=False):
            x: Tensor = self.transform(_rows(context)).inv(_rows(y))
        return x[: y.shape[0]]

    def _check(self, x: Tensor) -> None:
        weight = next(self.parameters())
        if x.dtype != weight.dtype:
            raise TypeError(
                f"a flow computes in float32 or float64: its weights are {weight.dtype}, and it was given {x.dtype}; for half "
                "precision leave the model's weights in float32 and use torch.autocast"
            )

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Let y be x, whatever the context, until training moves it: with numbers of 0 every affine map and spline is that."""
        for transform in self.transform.transforms:
            last = transform.hyper[-1] if hasattr(transform, "hyper") else transform  # one number without a context has none
            for parameter in last.parameters():
                parameter.zero_()

    def gradient_at_image(self, x: Tensor, context: Tensor | None, gradient: Tensor) -> Tensor:
        """As `Invertible.gradient_at_image`.

        J is triangular in the map's order, so that back substitution gives the result: a backward pass through the map's network,
        without the map itself, for each of the D numbers in turn.
        """
        x, gradient, size = _rows(x.detach()), _rows(gradient.detach()), x.shape[0]
        context = None if context is None else _rows(context.detach())
        for transform in self.transform.transforms:
            with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
                x, gradient = _through_map(transform, x, context, gradient)
        return gradient[:size]


def _through_map(transform: Any, x: Tensor, context: Tensor | None, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """y and `gradient_at_image` of one map y_i = f(x_i; numbers_i), whose numbers_i a network makes of what is before x_i."""
    # The same x twice: what is mapped, and what the network reads.
    mapped, read = x.clone().requires_grad_(), x.clone().requires_grad_()
    outputs: list[Tensor] = []
    if not hasattr(transform, "meta"):  # a single number: nothing comes before it
        univariate = transform(context)
    else:
        hook = transform.hyper.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            univariate = transform.meta(context, read)
        finally:
            hook.remove()
    y, log_slope = univariate.call_and_ladj(mapped)

    def of(output: Tensor, by: Tensor, weight: Tensor) -> Tensor:
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        return torch.autograd.grad(output, by, weight, **options)[0]

    ones, one = torch.ones_like(y), torch.ones_like(log_slope)
    slope, right = of(y, mapped, ones), gradient - of(log_slope, mapped, one)
    if not outputs:
        return y.detach(), right / slope
    (numbers,) = outputs
    right = right - of(numbers, read, of(log_slope, numbers, one))
    by_number = of(y, numbers, ones).unflatten(-1, (x.shape[1], -1))
    solved = torch.zeros_like(x)
    for place in range(transform.passes - 1, -1, -1):
        later = of(numbers, read, (by_number * solved.unsqueeze(-1)).flatten(1))
        solved = torch.where(transform.order == place, (right - later) / slope, solved)
    return y.detach(), solved


def invertible_network(
    features: int, kind: str, transforms: int, hidden: Sequence[int], context: int = 0
) -> InvertibleNetwork | None:
    """An autoregressive map of `features` numbers, given `context` more; None where it consists of no transforms.

    Raises:
        ModuleNotFoundError: zuko is not installed.
        ValueError: invalid options.
    """
    checked_word("kind", kind, ("nsf", "maf"))
    checked_size("transforms", transforms, least=0)
    options = {"transforms": transforms, "hidden_features": checked_sizes("hidden", hidden), "context": context}
    try:
        from zuko import flows
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("flows are made by the package zuko: pip install 'vaekit[flows]'") from error
    make: Any = {"nsf": flows.NSF, "maf": flows.MAF}[kind]
    return InvertibleNetwork(make(features, **options)) if transforms else None


def _rows(values: T) -> T:
    """At least one row; gradients still go through."""
    return values if values is None or values.shape[0] else torch.cat((values, values.new_zeros(1, *values.shape[1:])))

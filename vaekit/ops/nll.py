"""Negative log likelihoods as operators of the dispatcher, `vaekit::bernoulli_nll` and its like: what all of them share.

An operator sums the elements of each example, [B, P, *S] and [B, *S] -> [B] nats, without a temporary of the data's size. Its
specification is the formula of an element in PyTorch, which is its default kernel too; a compiled library (native.py) registers
its own for a device. Backward is an operator of its own and keeps the inputs only. Derivatives of higher order, torch.func's
transforms, forward-mode differentiation and export take the formula itself, and so does what no kernel serves. So does
torch.compile, which fuses it, unless the formula is dear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vaekit.ops import dispatch, native, schema
from vaekit.ops.reference import compute_dtype

_NARROW = (torch.float16, torch.bfloat16)


def summed(
    elements: Callable[[Tensor, Tensor], Tensor], parameters: Tensor, x: Tensor, ignore_missing: bool, filler: float
) -> Tensor:
    """The sum over the elements of each example, those left out that are missing: [B, P, *S], [B, *S] -> [B].

    Args:
        elements: the nll of each element, [B, P, *S], [B, *S] without NaN -> [B, *S].
        parameters, x: computed in float64 for float64 parameters, in float32 otherwise.
        ignore_missing: whether NaN in x is a missing value.
        filler: a value in the support, which stands for one that is missing.

    Example:
        >>> square = lambda parameters, x: (parameters[:, 0] - x) ** 2
        >>> summed(square, torch.ones(1, 1, 2), torch.tensor([[3.0, torch.nan]]), True, 0.0)
        tensor([4.])
    """
    dtype = compute_dtype(parameters.dtype)
    parameters, x = parameters.to(dtype), x.to(dtype)
    if not ignore_missing:
        return elements(parameters, x).flatten(1).sum(-1)
    # Before the formula as well as after it: in a derivative, 0 times what the formula makes of a NaN or overflows to is NaN.
    missing = x.isnan()
    parameters = parameters.masked_fill(missing.unsqueeze(1), 0.0)
    return elements(parameters, x.masked_fill(missing, filler)).masked_fill(missing, 0.0).flatten(1).sum(-1)


class _Native(torch.autograd.Function):
    """An operator's compiled kernels, called as `_apply(operator, parameters, x, ...)`."""

    @staticmethod
    def forward(ctx: Any, operator: NllOperator, *arguments: Any) -> Tensor:
        ctx.operator = operator
        operator.keep(ctx, arguments, None)
        with dispatch.below_autograd():
            rows: Tensor = operator.forward(*arguments)
        return rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *ctx.operator.gradients(ctx, grad, ctx.needs_input_grad[1:]))


_apply = dispatch.eager_apply(_Native)


class NllOperator:
    """`vaekit::<name>` and `vaekit::<name>_backward`: (parameters, x, *options, ignore_missing) -> [B].

    Args:
        name: of the operator; the kernels in csrc/ have the same.
        elements: the specification, (parameters, x, *options) -> the nll of each element, all in the dtype to compute in.
        filler: a value in the support.
        options: the operator's own arguments as in its schema, "int levels" for example.
        dear: whether the formula takes so long that torch.compile should call the kernels too, instead of fusing it.
        shared: whether the first of them is "Tensor? <name>", a parameter [] that all elements share and that has a gradient, or
            one of the last dimensions of S, [C] or S itself for example, with a number for each feature.

    Example:
        >>> from vaekit.likelihoods import Bernoulli
        >>> Bernoulli.operator.name
        'bernoulli_nll'
    """

    def __init__(
        self,
        name: str,
        elements: Callable[..., Tensor],
        filler: float,
        options: str = "",
        *,
        dear: bool = False,
        shared: bool = False,
    ) -> None:
        self.name, self._elements, self._filler, self._is_dear = name, elements, filler, dear
        self._tensors = 3 if shared else 2  # the first arguments; the rest are options
        self._on_cpu, self._on_cuda = (native.has_kernel(device, name) for device in ("cpu", "cuda"))
        native.declare(name)
        arguments = ", ".join(part for part in ("Tensor parameters, Tensor x", options, "bool ignore_missing") if part)
        backward = f"{name}_backward"
        schema.LIBRARY.define(f"{name}({arguments}) -> Tensor")
        schema.LIBRARY.define(f"{backward}(Tensor grad, {arguments}) -> {'(Tensor, Tensor)' if shared else 'Tensor'}")
        schema.LIBRARY.impl(name, self.specification, "CompositeExplicitAutograd")
        schema.LIBRARY.impl(backward, self.default_backward, "CompositeExplicitAutograd")
        self.forward: Any = getattr(torch.ops.vaekit, name).default
        self.backward: Any = getattr(torch.ops.vaekit, backward).default
        torch.library.register_fake(f"vaekit::{name}", self._fake, lib=schema.LIBRARY)
        torch.library.register_fake(f"vaekit::{backward}", self._fake_backward, lib=schema.LIBRARY)
        torch.library.register_autograd(
            f"vaekit::{name}",
            lambda ctx, grad: self.gradients(ctx, grad, ctx.needs_input_grad),
            setup_context=self.keep,
            lib=schema.LIBRARY,
        )

    def __call__(self, parameters: Tensor, x: Tensor, *options: Any, ignore_missing: bool = False) -> Tensor:
        """The nll of each example, [B, P, *S], [B, *S] -> [B], differentiable; of shapes that were checked."""
        is_compiling = torch.compiler.is_compiling()
        if (is_compiling and not self._is_dear) or not self._serves(parameters, x, *options[: self._tensors - 2]):
            return self.specification(parameters, x, *options, ignore_missing)
        dtype = compute_dtype(parameters.dtype)
        if x.dtype != dtype and (x.dtype not in _NARROW or dtype == torch.float64):
            x = x.to(dtype)
        arguments = (parameters, x, *options, ignore_missing)
        rows: Tensor = self.forward(*arguments) if is_compiling else _apply(self, *arguments)
        return rows

    def _serves(self, parameters: Tensor, x: Tensor, shared: Tensor | None = None) -> bool:
        return (
            ((self._on_cpu and parameters.is_cpu) or (self._on_cuda and parameters.is_cuda))
            and parameters.is_floating_point()
            and x.device == parameters.device
            and not x.requires_grad
            and (shared is None or shared.shape == parameters.shape[2:][parameters.ndim - 2 - shared.ndim :])
            and not dispatch.transforms_are_active()
            and not dispatch.forward_mode_is_on()
            and not dispatch.is_recorded()
        )

    def specification(self, parameters: Tensor, x: Tensor, *rest: Any) -> Tensor:
        """The operator in PyTorch's own operations."""
        *options, ignore_missing = rest
        return summed(lambda p, data: self._elements(p, data, *options), parameters, x, ignore_missing, self._filler)

    def keep(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keeps the operator's arguments for `gradients`."""
        ctx.save_for_backward(*inputs[: self._tensors])
        ctx.options = inputs[self._tensors :]

    def gradients(self, ctx: Any, grad: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
        """One for each argument, differentiable where autograd records."""
        tensors = ctx.saved_tensors
        nothing = (None,) * len(ctx.options)
        if torch.is_grad_enabled() or needed[1]:
            return (*self._by_autograd(grad, tensors, ctx.options, needed), *nothing)
        with dispatch.below_autograd():
            result = self.backward(grad, *tensors, *ctx.options)
        to_parameters, *to_shared = result if self._tensors == 3 else (result,)
        return (to_parameters, None, *to_shared, *nothing)

    def _by_autograd(
        self, grad: Tensor, tensors: tuple[Tensor | None, ...], options: tuple[Any, ...], needed: tuple[bool, ...]
    ) -> list[Tensor | None]:
        """The gradients of the tensors by the specification."""
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            # A view, so that a tensor that is given twice has two gradients.
            inputs = [t.view_as(t) if n and t is not None else t for t, n in zip(tensors, needed, strict=False)]
            wanted = {i: t for i, t in enumerate(inputs) if needed[i] and t is not None}
            rows = self.specification(*inputs, *options)  # type: ignore[arg-type]
            found = torch.autograd.grad(rows, list(wanted.values()), grad, create_graph=create_graph)
        result: list[Tensor | None] = [None] * self._tensors
        for i, gradient in zip(wanted, found, strict=True):
            result[i] = gradient
        return result

    def default_backward(self, grad: Tensor, *arguments: Any) -> Any:
        """The backward operator in PyTorch's own operations."""
        x, options = arguments[1], arguments[self._tensors :]
        shared = arguments[2] if self._tensors == 3 else None

        def rows(parameters: Tensor, *shared: Tensor) -> Tensor:
            between = shared or (None,) * (self._tensors - 2)
            return self.specification(parameters, x, *between, *options)

        primals = (arguments[0],) if shared is None else (arguments[0], shared)
        found = [g.contiguous() for g in torch.func.vjp(rows, *primals)[1](grad)]
        return found[0] if self._tensors == 2 else (found[0], found[1] if shared is not None else None)

    def _fake(self, parameters: Tensor, x: Tensor, *rest: Any) -> Tensor:
        schema.check_device(self.name, (x, *rest), parameters, "parameters")
        return parameters.new_empty(parameters.shape[:1], dtype=compute_dtype(parameters.dtype))

    def _fake_backward(self, grad: Tensor, parameters: Tensor, x: Tensor, *rest: Any) -> Any:
        schema.check_device(self.name, (grad, x, *rest), parameters, "parameters")
        to_parameters = parameters.new_empty(parameters.shape)
        if self._tensors == 2:
            return to_parameters
        return to_parameters, None if rest[0] is None else rest[0].new_empty(rest[0].shape)

"""`torch.nn.Linear`, with each of its products by torch or by oneDNN, whichever is faster."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaekit.dense import choice, onednn
from vaekit.dense.choice import Products
from vaekit.ops.dispatch import is_recorded


class Linear(nn.Linear):
    """`torch.nn.Linear`, equal to it within rounding: the same parameters, names and arguments.

    What only torch's own operators can do, they do: other devices and dtypes than the CPU's float32, autocast, torch.compile and
    export, `torch.func`, forward-mode and second derivatives, and what listens to operators, to count them for example.

    Example:
        >>> layer = Linear(784, 200)
        >>> layer
        Linear(in_features=784, out_features=200, bias=True)
        >>> layer(torch.rand(64, 784)).shape
        torch.Size([64, 200])
    """

    def forward(self, input: Tensor) -> Tensor:
        """input [..., in_features] -> [..., out_features]."""
        # What is compiled or recorded is for other shapes too. Most layers are small, and called in a hurry.
        if torch.compiler.is_compiling() or is_recorded() or choice.is_small(input.numel(), self.out_features):
            return F.linear(input, self.weight, self.bias)
        weight, bias = self.weight, self.bias
        if not _is_torchs_alone(input, weight, bias):
            return F.linear(input, weight, bias)
        rows = input if input.ndim == 2 else input.reshape(-1, input.shape[-1])
        products = choice.chosen(len(rows), weight)
        if not any(products):
            return F.linear(input, weight, bias)
        result = _product(rows, weight, bias, products)
        return result if input.ndim == 2 else result.view(*input.shape[:-1], result.shape[-1])


def measured_for(model: nn.Module, rows: int) -> dict[str, str]:
    """What computes the dense layers of a model on the CPU that are called with so many rows, in words, by shape.

    Shapes that have not been measured yet are.
    """
    found: dict[str, str] = {}
    for module in model.modules():
        if isinstance(module, Linear) and _is_plain(module.weight) and onednn.is_free():
            features_out, features_in = module.weight.shape
            if not choice.is_small(rows * features_in, features_out):
                found[str(choice.shape_of(rows, features_in, features_out))] = str(choice.chosen(rows, module.weight))
    return found


def _is_torchs_alone(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether this is a product of matrices that nothing but torch's eager autograd has a part in."""
    if x.ndim < 2 or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        return False  # a vector, or what torch refuses
    if bias is not None and (bias.shape != weight.shape[:1] or not _is_plain(bias)):
        return False
    return _is_plain(x) and _is_plain(weight) and onednn.is_free()


def _is_plain(tensor: Tensor) -> bool:
    """Whether these are numbers in float32 in the processor's memory, and not what stands for some."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.dtype == torch.float32
        and tensor.is_cpu
        and tensor.layout == torch.strided
    )


class _Product(torch.autograd.Function):
    """x [N, I], weight [O, I], bias [O] -> [N, O]; keeps for backward what torch's own does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, products: Products) -> Tensor:
        needs_x, needs_weight, _, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        ctx.products = products
        return _forward(x, weight, bias, products)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        # A second derivative is recorded through torch's operators.
        products = ctx.products if not torch.is_grad_enabled() and onednn.is_free() else choice.PLAIN
        grad_x = grad_weight = grad_bias = None
        if needs_x:
            grad_x = onednn.product(grad, weight.t()) if products.grad_input else grad @ weight
        if needs_weight:
            grad_weight = onednn.product(grad.t(), x.t()) if products.grad_weight else grad.t() @ x
        if needs_bias:
            grad_bias = grad.sum(0)
        return grad_x, grad_weight, grad_bias, None


# Function.apply as it is outside of transforms, without its look at every argument; see vaekit.ops.dispatch.
_apply: Any = super(torch.autograd.Function, _Product).apply


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, products: Products) -> Tensor:
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)):
        result: Tensor = _apply(x, weight, bias, products)
        return result
    return _forward(x, weight, bias, products)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, products: Products) -> Tensor:
    return onednn.product(x, weight, bias) if products.forward else F.linear(x, weight, bias)

"""`vaekit::log_aggregate`: the logarithms of the aggregate posterior of a batch and of its marginals, at draws from it.

For rows i, which are examples `first`, `first` + 1, ... of the batch, and z_i = mu_i + exp(logvar_i / 2) eps_i:

    joint[i]        = log sum_j w_ij q(z_i | x_j)
    marginals[i, d] = log sum_j w_ij q(z_id | x_j)

with w_ij = e^own where j is the row's own example and 1 elsewhere. Its specification, in PyTorch, is `forward` and `backward`
here: the default kernels, a block of rows at a time, so that [B, B, D] is never held, nor in the second derivatives, which
differentiate `forward` block by block. A compiled library (native.py) registers its own. Derivatives of yet higher order,
torch.func's transforms and forward-mode differentiation take `forward` itself.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vaekit.ops import dispatch, native, schema
from vaekit.ops.pairwise import row_blocks, second_derivatives

_NAME, _OPTIONS = "log_aggregate", "Tensor mu, Tensor logvar, Tensor eps, SymInt first, float own"
_LOG_2PI = math.log(2.0 * math.pi)


class _Pairs:
    """log q(z_id | x_j), for some rows i at a time."""

    def __init__(self, mu: Tensor, logvar: Tensor, eps: Tensor, first: int, own: float) -> None:
        # Within these limits everything below is finite for means up to 1e18 in float32, and so no product is 0 times infinity.
        # They show at none but equal means: others are infinitely far apart, in units of such a sigma, with them as without.
        largest = math.log(torch.finfo(mu.dtype).max)
        self.rows = slice(first, first + len(eps))
        self.mu, self.mean, self.eps = mu[self.rows], mu.T.contiguous(), eps
        self.shift = torch.exp((0.5 * logvar[self.rows]).clamp(max=largest - 3.0)) * eps
        self.inverse_sigma = torch.exp((-0.5 * logvar).clamp(max=largest - 43.0)).T.contiguous()
        self.log_scale = 0.5 * (logvar.T + _LOG_2PI)
        self.first, self.own, self.example = first, own, torch.arange(len(mu), device=mu.device)
        self.blocks = row_blocks(len(eps), mu.numel(), mu.device)

    def log_densities(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """(z_id - mu_jd) / sigma_jd [b, D, B], log q(z_id | x_j) [b, D, B], log w_ij [b, B]."""
        # z_i - mu_j by way of mu_i - mu_j: where sigma is far below |mu|, z alone has lost the noise.
        standardized = (self.mu[rows].unsqueeze(-1) - self.mean).add(self.shift[rows].unsqueeze(-1)).mul(self.inverse_sigma)
        self.own_pairs(standardized, rows).copy_(self.eps[rows].T)
        log_density = torch.addcmul(-self.log_scale, standardized, standardized, value=-0.5)
        is_own = self.example[self.rows][rows].unsqueeze(-1) == self.example
        return standardized, log_density, is_own.to(self.mu.dtype).mul(self.own)

    def own_pairs(self, values: Tensor, rows: slice) -> Tensor:
        """Of values [b, D, B] those with i = j, a view [D, b]."""
        return values[:, :, self.first + rows.start : self.first + rows.stop].diagonal(dim1=0, dim2=2)


def forward(mu: Tensor, logvar: Tensor, eps: Tensor, first: int, own: float) -> tuple[Tensor, Tensor]:
    """`joint` [I] and `marginals` [I, D] of the rows, by differentiable operations."""
    pairs = _Pairs(mu, logvar, eps, first, own)
    joint, marginals = [mu.new_empty(0)], [mu.new_empty(0, mu.shape[1])]
    for rows in pairs.blocks:
        of_joint, of_marginals = _of_rows(pairs, rows)
        joint.append(of_joint)
        marginals.append(of_marginals)
    return torch.cat(joint), torch.cat(marginals)


def _of_rows(pairs: _Pairs, rows: slice) -> tuple[Tensor, Tensor]:
    _, log_density, log_weight = pairs.log_densities(rows)
    return (log_density.sum(1) + log_weight).logsumexp(-1), (log_density + log_weight.unsqueeze(1)).logsumexp(-1)


def backward(
    of_joint: Tensor,
    of_marginals: Tensor,
    joint: Tensor,
    marginals: Tensor,
    mu: Tensor,
    logvar: Tensor,
    eps: Tensor,
    first: int,
    own: float,
) -> tuple[Tensor, Tensor]:
    """The gradients of mu and logvar, [B, D] each, from those of the results, and the results themselves."""
    pairs = _Pairs(mu, logvar, eps, first, own)
    of_z, of_mean, of_logvar = [torch.zeros_like(mu[:0])], torch.zeros_like(pairs.mean), torch.zeros_like(pairs.mean)
    for rows in pairs.blocks:
        standardized, gradient, log_weight = pairs.log_densities(rows)
        # Each is a softmax over j times what comes in; their sum is the gradient of log q(z_id | x_j).
        through_joint = (gradient.sum(1) + log_weight - joint[rows, None]).exp_().mul_(of_joint[rows, None])
        gradient.add_(log_weight.unsqueeze(1)).sub_(marginals[rows, :, None]).exp_().mul_(of_marginals[rows, :, None])
        gradient.add_(through_joint.unsqueeze(1))
        of_logvar -= 0.5 * gradient.sum(0)
        pairs.own_pairs(gradient, rows).zero_()  # there (z - mu) / sigma is the noise, a constant
        gradient.mul_(standardized)
        of_mean += gradient.sum(0)
        of_logvar += 0.5 * standardized.mul_(gradient).sum(0)
        of_z.append(-gradient.mul_(pairs.inverse_sigma).sum(-1))
    of_row = torch.cat(of_z)
    of_mu, of_logvar = (of_mean * pairs.inverse_sigma).T.contiguous(), of_logvar.T.contiguous()
    of_mu[pairs.rows] += of_row
    of_logvar[pairs.rows] += of_row * 0.5 * pairs.shift
    return of_mu, of_logvar


schema.LIBRARY.define(f"{_NAME}({_OPTIONS}) -> (Tensor, Tensor)")
schema.LIBRARY.define(
    f"{_NAME}_backward(Tensor of_joint, Tensor of_marginals, Tensor joint, Tensor marginals, {_OPTIONS}) -> (Tensor, Tensor)"
)
schema.LIBRARY.impl(_NAME, forward, "CompositeExplicitAutograd")
schema.LIBRARY.impl(f"{_NAME}_backward", backward, "CompositeExplicitAutograd")
_forward = torch.ops.vaekit.log_aggregate.default
_backward = torch.ops.vaekit.log_aggregate_backward.default
_KERNELS = frozenset(device for device in ("cpu", "cuda") if native.has_kernel(device, _NAME))


@torch.library.register_fake(f"vaekit::{_NAME}", lib=schema.LIBRARY)  # type: ignore[untyped-decorator]
def _fake_forward(mu: Tensor, logvar: Tensor, eps: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    schema.check_device(_NAME, (logvar, eps), mu, "mu")
    return mu.new_empty(eps.shape[:1]), mu.new_empty(eps.shape)


@torch.library.register_fake(f"vaekit::{_NAME}_backward", lib=schema.LIBRARY)  # type: ignore[untyped-decorator]
def _fake_backward(
    of_joint: Tensor, of_marginals: Tensor, joint: Tensor, marginals: Tensor, mu: Tensor, *operands: Any
) -> tuple[Tensor, Tensor]:
    schema.check_device(_NAME, (of_joint, of_marginals, joint, marginals, *operands), mu, "mu")
    return mu.new_empty(mu.shape), mu.new_empty(mu.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs[:3])
    ctx.options = inputs[3:]


def _gradients(ctx: Any, of_joint: Tensor, of_marginals: Tensor) -> tuple[Tensor | None, ...]:
    """One for each argument of the operator, differentiable where autograd records."""
    arguments = (of_joint, of_marginals, *ctx.saved_tensors, *ctx.options)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        found = _Gradients.apply(*arguments)  # type: ignore[no-untyped-call]
    else:
        found = _backward(*arguments)
    return (*found, *(None,) * (1 + len(ctx.options)))


class _Gradients(torch.autograd.Function):
    """The operator's backward, which has derivatives of its own."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        of_joint, of_marginals, _, _, mu, logvar, eps, *ctx.options = arguments
        ctx.save_for_backward(of_joint, of_marginals, mu, logvar, eps)
        with dispatch.below_autograd():
            return _backward(*arguments)

    @staticmethod
    def backward(ctx: Any, of_mu: Tensor, of_logvar: Tensor) -> tuple[Tensor | None, ...]:
        of_joint, of_marginals, mu, logvar, eps = ctx.saved_tensors
        # So many arrays of a block's size are held at a time that the block is to be as much smaller.
        blocks = row_blocks(len(eps), 8 * mu.numel(), mu.device)
        found, by_results = second_derivatives(
            lambda rows, mu, logvar: _of_rows(_Pairs(mu, logvar, eps, *ctx.options), rows),
            blocks,
            (mu, logvar),
            (of_mu, of_logvar),
            (of_joint, of_marginals),
        )
        return *by_results, None, None, *found, *(None,) * (1 + len(ctx.options))


torch.library.register_autograd(f"vaekit::{_NAME}", _gradients, setup_context=_keep, lib=schema.LIBRARY)


class _Eager(torch.autograd.Function):
    """The operator, or where it is traced and no kernel serves it, operations that torch.compile can see into."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        if torch.compiler.is_compiling():
            results = forward(*arguments)
        else:
            with dispatch.below_autograd():
                results = _forward(*arguments)
        _keep(ctx, arguments, results)
        return results

    @staticmethod
    def backward(ctx: Any, of_joint: Tensor, of_marginals: Tensor) -> tuple[Tensor | None, ...]:
        if torch.compiler.is_compiling():
            joint, marginals, *tensors = ctx.saved_tensors
            return (*backward(of_joint, of_marginals, joint, marginals, *tensors, *ctx.options), None, None, None)
        return _gradients(ctx, of_joint, of_marginals)


def log_aggregate(mu: Tensor, logvar: Tensor, eps: Tensor, first: int, own: float) -> tuple[Tensor, Tensor]:
    """log sum_j w_ij q(z_i | x_j), and the same of each latent, q(z_id | x_j), at z_i = mu_i + exp(logvar_i / 2) eps_i.

    Args:
        mu, logvar: [B, D], float32 or float64: of all examples j.
        eps: [I, D], of the rows i, which are examples `first`, `first` + 1, ...; a constant.
        first: where the rows begin.
        own: log w_ij of a row's own example; w_ij is 1 elsewhere.

    Returns:
        [I] and [I, D], nats.

    Example:
        >>> joint, marginals = log_aggregate(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(1, 1), 1, 0.0)
        >>> torch.allclose(joint, torch.tensor(math.log(2 / math.sqrt(2 * math.pi))))
        True
    """
    arguments = (mu, logvar, eps, first, own)
    results: tuple[Tensor, Tensor]
    if dispatch.transforms_are_active() or dispatch.forward_mode_is_on():
        results = forward(*arguments)
    elif torch.compiler.is_compiling() and mu.device.type in _KERNELS:
        results = _forward(*arguments)
    else:
        results = _Eager.apply(*arguments)  # type: ignore[no-untyped-call]
    return results

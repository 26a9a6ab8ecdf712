"""The ways into `vaekit::reparameterize_kl`, and every use of a name that torch does not call public.

The formulas of autograd.py and vmap.py are registered on the operator, for torch.compile, and are here once more as
autograd.Functions: torch.func's transforms see no others, and in eager mode they cost a quarter of what the dispatcher's autograd
costs, which is most of a small call.

vaekit has to work with every torch from 2.10 on, so no private name is needed: each has a substitute with which everything still
works, only slower.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from vaekit.ops import autograd, reference, schema, vmap
from vaekit.ops.operands import BACKWARD_TENSORS, GRADIENTS, MU, TENSORS, Operands, backward_operands, halves, wanted

_Function = TypeVar("_Function", bound=Callable[..., Any])
_EVENT_DIMS = Operands._fields.index("event_dims")

# Whether a torch.func transform (vmap, grad, ...) is running. If it goes: always yes, the slower way that is right everywhere.
transforms_are_active: Any = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)

# Keeps the dispatcher from asking once more what needs a gradient. If it goes: it asks, to no effect, as recording is off there.
below_autograd: Any = getattr(torch._C, "_AutoDispatchBelowAutograd", contextlib.nullcontext)

# Keeps a function out of compiled graphs. If it goes: torch.compiler.disable, which imports the compiler at once; that takes as
# long as importing torch.
uncompiled: Any = getattr(torch, "_disable_dynamo", None) or torch.compiler.disable


def constant_in_graphs(function: _Function) -> _Function:
    """A function that runs while torch.compile traces it, and leaves the graph whole: torch.compiler.assume_constant_result.

    Which imports the compiler, only to set this attribute.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


# The pair of hooks that the next saved tensor will meet, or None. If it goes: always some, and every tensor is kept as it is.
_top_hooks: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda ignore_is_tracing: True)


def saved_tensors_have_hooks() -> bool:
    """Whether somebody else looks after what is kept for backward, by `torch.autograd.graph.saved_tensors_hooks`.

    Example:
        >>> with torch.autograd.graph.save_on_cpu():
        ...     inside = saved_tensors_have_hooks()
        >>> inside, saved_tensors_have_hooks()
        (True, False)
    """
    return _top_hooks(False) is not None


def forward_mode_is_on() -> bool:
    """Whether a level of forward-mode differentiation is entered.

    Example:
        >>> forward_mode_is_on()
        False
    """
    # If it goes: always yes, and everything prepares for a derivative that nobody takes.
    return bool(getattr(forward_ad, "_current_level", 0) >= 0)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Any:
        return schema.forward(*arguments)

    setup_context = staticmethod(autograd.setup_context)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = wanted(ctx.needs_input_grad)
        return autograd.by_operand(*call_backward(grad_z, grad_kl, *ctx.saved_tensors, *ctx.options, needed, False))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        operands, out_dims = vmap.batched_forward(info, in_dims, arguments)
        return call_forward(*operands), out_dims


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Any:
        return schema.backward(*arguments)

    setup_context = staticmethod(autograd.setup_backward_context)
    backward = staticmethod(autograd.double_backward)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        widened, out_dims = vmap.batched_backward(info, in_dims, arguments)
        return call_backward(*widened), out_dims


class _EagerForward(torch.autograd.Function):
    """_Forward without a setup_context of its own, for which torch would bind the arguments anew: 25 microseconds.

    Here logvar may be None: mu then is a packed tensor, and backward gives one gradient for it.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        autograd.setup_context(ctx, arguments, None)
        if forward_mode_is_on():
            ctx.save_for_forward(*arguments[TENSORS])
        with below_autograd():
            return schema.forward(*unpacked(arguments))

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Tensor | None, ...]:
        arguments, needed = (*ctx.saved_tensors, *ctx.options), wanted(ctx.needs_input_grad)
        packed = arguments[1] is None and bool(needed & MU)
        return autograd.by_operand(*call_backward(grad_z, grad_kl, *unpacked(arguments), needed, packed))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        tensors = (*ctx.saved_tensors, *ctx.options)
        operands = Operands(*unpacked(tensors))
        if tensors[1] is None and tangents[0] is not None:
            tangents = (*halves(tangents[0], operands.event_dims), *tangents[2:])
        return autograd.jvp(operands, tangents)


class _EagerBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        autograd.setup_backward_context(ctx, arguments, None)
        if forward_mode_is_on():
            ctx.save_for_forward(*arguments[BACKWARD_TENSORS])
        with below_autograd():
            return schema.backward(*arguments)

    backward = staticmethod(autograd.double_backward)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        arguments = (*ctx.saved_tensors, *ctx.options)
        operands, needed, packed = backward_operands(arguments[GRADIENTS.stop :])
        linear = call_backward(*tangents[GRADIENTS], *operands, needed, packed)
        return autograd.backward_jvp(operands, arguments[GRADIENTS], tangents[GRADIENTS.stop :], linear, packed)


def unpacked(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The forward operator's arguments with mu and logvar apart."""
    if arguments[1] is not None:
        return arguments
    return (*halves(arguments[0], arguments[_EVENT_DIMS]), *arguments[2:])


def eager_apply(function: type[torch.autograd.Function]) -> Any:
    """Function.apply as it is outside of transforms, without its look at every argument.

    If Function.apply comes to do more than look, this leaves it out: tests/ops/test_dispatch.py compares the two.
    """
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


_apply_eagerly = eager_apply(_EagerForward)


def call_forward(*arguments: Any) -> Any:
    """The forward operator, differentiable, wherever it is called from."""
    if torch.compiler.is_compiling():
        return plain(arguments) if forward_mode_is_on() else schema.forward(*unpacked(arguments))
    if transforms_are_active():
        if forward_mode_is_on():
            return plain(arguments)
        return _Forward.apply(*unpacked(arguments))  # type: ignore[no-untyped-call]
    return _apply_eagerly(*arguments)


def plain(arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """The operator in operations that have derivatives in every mode and order: the rules of autograd.Functions do not nest.

    Example:
        >>> plain(Operands(torch.zeros(3, 2), torch.zeros(3, 2), eps=torch.ones(3, 2)))[1]
        tensor([0., 0., 0.])
    """
    o = Operands(*unpacked(arguments))
    return autograd.plain(o, reference.noise(o.mu, o.key, o.eps, o.num_samples, o.row_start, o.event_dims))


def call_backward(*arguments: Any) -> Any:
    """The same for the backward operator."""
    if torch.compiler.is_compiling():
        return schema.backward(*arguments)
    if transforms_are_active():
        return _Backward.apply(*arguments)  # type: ignore[no-untyped-call]
    if torch.is_grad_enabled() or forward_mode_is_on():
        return _EagerBackward.apply(*arguments)  # type: ignore[no-untyped-call]
    with below_autograd():
        return schema.backward(*arguments)


for _name, _function in ((schema.FORWARD, _Forward), (schema.BACKWARD, _Backward)):
    torch.library.register_autograd(_name, _function.backward, setup_context=_function.setup_context, lib=schema.LIBRARY)
    torch.library.register_vmap(_name, _function.vmap, lib=schema.LIBRARY)


def is_traced() -> bool:
    """Whether what runs is being compiled, exported or traced, so that no value may decide what is computed.

    Example:
        >>> is_traced()
        False
    """
    return torch.compiler.is_compiling() or is_recorded()


def is_recorded() -> bool:
    """Whether what runs is being exported or traced, to be run for batches of other sizes too.

    Example:
        >>> is_recorded()
        False
    """
    return torch.compiler.is_exporting() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]

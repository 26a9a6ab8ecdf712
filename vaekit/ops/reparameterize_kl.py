"""The operator `vaekit::reparameterize_kl`: schema, fake kernel, autograd, vmap rule and the public wrapper.

Forward and backward are operators of the dispatcher; the pure-PyTorch reference is their default kernel. Backward is itself
differentiable, in closed form, to any order. Given a key it makes the noise again; where no compiled kernel serves a device, the
wrapper makes the noise once and gives it to the operator as eps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vaekit.ops import native, philox, reference

_LIBRARY = torch.library.Library("vaekit", "DEF")
_COMMON = (
    "Tensor mu, Tensor logvar, Tensor? key, Tensor? eps, Tensor? prior_mu, Tensor? prior_logvar, "
    "SymInt? num_samples, SymInt row_start, int event_dims, bool reduce_event"
)
_LIBRARY.define(f"reparameterize_kl({_COMMON}) -> (Tensor, Tensor)")
_LIBRARY.define(f"reparameterize_kl_backward(Tensor? grad_z, Tensor? grad_kl, {_COMMON}) -> (Tensor, Tensor, Tensor, Tensor)")
_LIBRARY.impl("reparameterize_kl", reference.forward, "CompositeExplicitAutograd")
_LIBRARY.impl("reparameterize_kl_backward", reference.backward, "CompositeExplicitAutograd")

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NAME, _BACKWARD_NAME = "vaekit::reparameterize_kl", "vaekit::reparameterize_kl_backward"
_forward_op = torch.ops.vaekit.reparameterize_kl.default
_backward_op = torch.ops.vaekit.reparameterize_kl_backward.default


def reparameterize_kl(
    mu: Tensor,
    logvar: Tensor,
    *,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    eps: Tensor | None = None,
    num_samples: int | None = None,
    row_start: int = 0,
    prior: tuple[Tensor, Tensor] | None = None,
    reduce: str = "event",
    event_dims: int = 1,
) -> tuple[Tensor, Tensor]:
    """Draw from the diagonal Gaussian N(mu, exp(logvar)) and give its divergence from a Gaussian prior, in one operator.

    The draw is z = mu + exp(logvar / 2) eps (Kingma and Welling 2013, arXiv:1312.6114, section 2.4), differentiable in mu
    and logvar; the divergence is exact (ibid., appendix B). The noise eps is a pure function of the key: the same key gives
    the same noise on every device and at any number of threads.

    Args:
        mu: float [..., D], the means; float16, bfloat16, float32 or float64, any strides.
        logvar: the log variances, shape, dtype and device of mu. It is not clamped.
        key: int64 (or uint64) [2], (seed, offset), on mu's device; see `vaekit.make_key`.
        generator: where a key is drawn from if none is given; by default torch's global generator of mu's device.
        eps: the noise itself, [..., D], or [num_samples, ..., D], instead of a key; a constant.
        num_samples: K draws for each row; sample k is what a single draw with (seed, offset + k 2^40) gives.
        row_start: the first row's number in the whole batch, so that a process that holds rows r, r + 1, ... draws what one
            process with all rows would have drawn for them. A row is one event.
        prior: (mu, logvar) of the prior, each broadcastable to mu's shape; None is the standard normal.
        reduce: "event" sums the divergence over an event; "none" gives it element by element.
        event_dims: how many of the last dimensions form one event.

    Returns:
        z: [..., D], or [K, ..., D] with num_samples, in mu's dtype.
        kl: nats, [...] (or [..., D] with reduce="none"); float64 for float64, otherwise float32. Does not depend on the draw.
        An element that is not finite stays in its row: logvar = +inf gives kl = +inf and z = +-inf (NaN where the noise is
        exactly 0, as some draws in ten million are), logvar = -inf gives kl = +inf and z = mu, mu = +-inf gives kl = +inf and
        z = mu, NaN gives NaN; two infinities that meet in one element combine as in IEEE arithmetic.

    Raises:
        TypeError: an argument that is not a tensor, or whose dtype is not supported.
        ValueError: shapes, devices or options that do not fit together.

    Example:
        >>> import vaekit
        >>> mu, logvar = torch.zeros(3, 2), torch.zeros(3, 2)
        >>> z, kl = vaekit.reparameterize_kl(mu, logvar, key=vaekit.make_key(0))
        >>> z.shape, kl
        (torch.Size([3, 2]), tensor([0., 0., 0.]))
    """
    _check_parameters(mu, logvar, event_dims)
    if reduce not in ("event", "none"):
        raise ValueError(f'reduce has to be "event" or "none", got {reduce!r}')
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"num_samples has to be at least 1, got {num_samples}")
    if row_start < 0:
        raise ValueError(f"row_start has to be at least 0, got {row_start}")
    if eps is None:
        key = philox.resolve_key(key, generator, mu.device)
    elif key is not None or generator is not None:
        raise ValueError("eps is the noise itself; give it without a key and without a generator")
    else:
        _check_eps(eps, mu, num_samples)
    prior_mu, prior_logvar = (None, None) if prior is None else _checked_prior(prior, mu)

    options = (num_samples, row_start, event_dims, reduce == "event")
    if not native.serves(mu):
        return _without_kernel(mu, logvar, key, eps, prior_mu, prior_logvar, *options)
    result: tuple[Tensor, Tensor] = _call_forward(mu, logvar, key, eps, prior_mu, prior_logvar, *options)
    return result


def _without_kernel(
    mu: Tensor, logvar: Tensor, key: Tensor | None, eps: Tensor | None, prior_mu: Tensor | None, prior_logvar: Tensor | None,
    num_samples: int | None, row_start: int, event_dims: int, reduce_event: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The operator where only the reference serves the device."""
    if eps is None and not torch._C._are_functorch_transforms_active():
        # Making the noise is most of the reference's time: so it is kept for backward and not, as the operator would, made again.
        eps, key = reference.noise(mu, key, None, num_samples, row_start, event_dims), None
    arguments = (mu, logvar, key, eps, prior_mu, prior_logvar, num_samples, row_start, event_dims, reduce_event)
    if torch.compiler.is_compiling():
        # Traced into the graph, where Inductor fuses it with its surroundings; an operator would be opaque to it.
        result: tuple[Tensor, Tensor] = _Inlined.apply(*arguments)  # type: ignore[no-untyped-call]
    else:
        if mu.is_cuda:
            native.warn_without_cuda_kernel(stacklevel=4)
        result = _call_forward(*arguments)
    return result


def _check_parameters(mu: Tensor, logvar: Tensor, event_dims: int) -> None:
    if not isinstance(mu, Tensor) or not isinstance(logvar, Tensor):
        raise TypeError(f"mu and logvar have to be tensors, got {type(mu).__name__} and {type(logvar).__name__}")
    if mu.dtype not in _DTYPES:
        raise TypeError(
            "mu has to be a floating-point tensor of float16, bfloat16, float32 or float64, "
            f"got {mu.dtype}; convert it, mu.float() for example"
        )
    if mu.dtype != logvar.dtype:
        raise TypeError(f"mu and logvar have to share a dtype, got {mu.dtype} and {logvar.dtype}")
    if mu.shape != logvar.shape:
        raise ValueError(
            f"mu and logvar have to have the same shape, got {tuple(mu.shape)} and {tuple(logvar.shape)}; expand a shared one"
        )
    if mu.device != logvar.device:
        raise ValueError(f"mu and logvar have to be on one device, got {mu.device} and {logvar.device}")
    if not 1 <= event_dims <= mu.ndim:
        raise ValueError(
            f"event_dims has to be between 1 and the {mu.ndim} dimensions of mu, whose shape is {tuple(mu.shape)}, "
            f"got {event_dims}"
        )


def _check_eps(eps: Tensor, mu: Tensor, num_samples: int | None) -> None:
    expected = (*([] if num_samples is None else [num_samples]), *mu.shape)
    if eps.requires_grad:
        raise ValueError("eps is a constant of the operator and gets no gradient; pass eps.detach()")
    if tuple(eps.shape) != expected:
        raise ValueError(f"eps has to have the shape {expected}, got {tuple(eps.shape)}")
    if eps.dtype not in (mu.dtype, reference.compute_dtype(mu.dtype)):
        raise TypeError(f"eps has to be {mu.dtype} or {reference.compute_dtype(mu.dtype)}, got {eps.dtype}")
    if eps.device != mu.device:
        raise ValueError(f"eps has to be on mu's device {mu.device}, got {eps.device}")


def _checked_prior(prior: tuple[Tensor, Tensor], mu: Tensor) -> tuple[Tensor, Tensor]:
    prior_mu, prior_logvar = prior
    for name, value in (("mu", prior_mu), ("logvar", prior_logvar)):
        if not isinstance(value, Tensor) or value.dtype != mu.dtype or value.device != mu.device:
            given = f"{value.dtype} on {value.device}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"the prior's {name} has to be a tensor of {mu.dtype} on {mu.device} like mu, got {given}")
        fits = value.ndim <= mu.ndim and all(
            have in (1, want) for have, want in zip(value.shape[::-1], mu.shape[::-1], strict=False)
        )
        if not fits:
            raise ValueError(f"the prior's {name} of shape {tuple(value.shape)} does not broadcast to mu's {tuple(mu.shape)}")
    return prior_mu.expand(mu.shape), prior_logvar.expand(mu.shape)


# --- what the dispatcher and autograd need to know -----------------------------------------------------------------------


@torch.library.register_fake(_NAME)  # type: ignore[untyped-decorator]
def _fake(
    mu: Tensor,
    logvar: Tensor,
    key: Tensor | None,
    eps: Tensor | None,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    num_samples: int | None,
    row_start: int,
    event_dims: int,
    reduce_event: bool,
) -> tuple[Tensor, Tensor]:
    samples = () if num_samples is None else (num_samples,)
    kl_shape = mu.shape[: mu.ndim - event_dims] if reduce_event else mu.shape
    return mu.new_empty((*samples, *mu.shape)), mu.new_empty(kl_shape, dtype=reference.compute_dtype(mu.dtype))


@torch.library.register_fake(_BACKWARD_NAME)  # type: ignore[untyped-decorator]
def _backward_fake(
    grad_z: Tensor | None, grad_kl: Tensor | None, mu: Tensor, logvar: Tensor, key: Any, eps: Any, prior_mu: Any, *_: Any
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    prior = (None, None) if prior_mu is None else (mu.new_empty(mu.shape), mu.new_empty(mu.shape))
    return mu.new_empty(mu.shape), mu.new_empty(mu.shape), *prior


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6])
    ctx.options = inputs[6:]


def _backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Tensor | None, ...]:
    gradients = _call_backward(grad_z, grad_kl, *ctx.saved_tensors, *ctx.options)
    return _input_gradients(*gradients)


def _input_gradients(
    of_mu: Tensor, of_logvar: Tensor, of_prior_mu: Tensor | None, of_prior_logvar: Tensor | None
) -> tuple[Tensor | None, ...]:
    """In the order of the operator's inputs: mu, logvar, key, eps, prior_mu, prior_logvar, four options."""
    return of_mu, of_logvar, None, None, of_prior_mu, of_prior_logvar, None, None, None, None


torch.library.register_autograd(_NAME, _backward, setup_context=_setup_context, lib=_LIBRARY)


def noise(
    like: Tensor, key: Tensor | None, eps: Tensor | None, num_samples: int | None, row_start: int, event_dims: int
) -> Tensor:
    """eps [K?, *like.shape] in the compute dtype, with the bits that the operator's kernel gives it: a draw from N(0, 1)."""
    if eps is not None or not native.serves(like):
        return reference.noise(like, key, eps, num_samples, row_start, event_dims)
    zeros = torch.zeros(like.shape, dtype=reference.compute_dtype(like.dtype), device=like.device)
    drawn: Tensor = _forward_op(zeros, zeros, key, None, None, None, num_samples, row_start, event_dims, False)[0]
    return drawn


def _setup_backward_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:8])
    ctx.options = inputs[8:]


def _double_backward(
    ctx: Any, of_mu: Tensor | None, of_logvar: Tensor | None, of_prior_mu: Tensor | None, of_prior_logvar: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradient of the backward operator, from differentiable PyTorch operations alone.

    `of_x` is the incoming gradient of backward's output for x. With c = mu - m, w = exp(-s), d = logvar - s and G the gradient
    of kl, backward's outputs are for mu: sum_k g_k + G c w, logvar: sigma/2 sum_k g_k eps_k + G expm1(d)/2,
    m: -G c w, s: -G (c^2 w + expm1(d))/2; below are their derivatives in each input.
    """
    grad_z, grad_kl, mu, logvar, key, eps, prior_mu, prior_logvar = ctx.saved_tensors
    num_samples, row_start, event_dims, reduce_event = ctx.options
    dtype = reference.compute_dtype(mu.dtype)
    zero = torch.zeros((), dtype=dtype, device=mu.device)
    by_mu, by_logvar = (zero if g is None else g.to(dtype) for g in (of_mu, of_logvar))
    by_prior_mu, by_prior_logvar = (
        zero if g is None or prior_mu is None else g.to(dtype) for g in (of_prior_mu, of_prior_logvar)
    )
    wide_mu, wide_logvar = mu.to(dtype), logvar.to(dtype)
    if prior_mu is None:
        center, precision, half, shift = wide_mu, zero + 1.0, zero + 1.0, wide_logvar
    else:
        half = torch.exp(-0.5 * prior_logvar.to(dtype))
        center, precision = wide_mu - prior_mu.to(dtype), half * half
        shift = wide_logvar - prior_logvar.to(dtype)

    to_grad_z = to_grad_kl = None
    to_mu = to_logvar = to_prior_logvar = zero
    if grad_z is not None:
        eps = noise(mu, key, eps, num_samples, row_start, event_dims)
        half_sigma = 0.5 * torch.exp(0.5 * wide_logvar)
        to_grad_z = (by_mu + half_sigma * by_logvar * eps).expand(grad_z.shape).to(grad_z.dtype)
        scaled = grad_z.to(dtype) * eps
        to_logvar = 0.5 * half_sigma * by_logvar * (scaled if num_samples is None else scaled.sum(0))
    if grad_kl is not None:
        through_mu, through_logvar = by_mu - by_prior_mu, by_logvar - by_prior_logvar
        scale = center * half * half
        elements = through_mu * scale + 0.5 * (through_logvar * torch.expm1(shift) - by_prior_logvar * center * scale)
        elements = elements.expand(mu.shape)
        to_grad_kl = reference.sum_event(elements, event_dims) if reduce_event else elements
        weight = reference.over_event(grad_kl, event_dims, reduce_event)
        to_mu = weight * (through_mu * precision - by_prior_logvar * scale)
        curvature = 0.5 * weight * torch.exp(shift) * through_logvar
        to_logvar = to_logvar + curvature
        to_prior_logvar = weight * scale * (0.5 * by_prior_logvar * center - through_mu) - curvature
    to_prior: tuple[Tensor | None, Tensor | None] = (None, None)
    if prior_mu is not None:
        to_prior = (-to_mu).expand(mu.shape).to(mu.dtype), to_prior_logvar.expand(mu.shape).to(mu.dtype)
    to_mu, to_logvar = to_mu.expand(mu.shape).to(mu.dtype), to_logvar.expand(mu.shape).to(mu.dtype)
    return (to_grad_z, to_grad_kl, to_mu, to_logvar, None, None, *to_prior, None, None, None, None)


torch.library.register_autograd(_BACKWARD_NAME, _double_backward, setup_context=_setup_backward_context, lib=_LIBRARY)


class _Inlined(torch.autograd.Function):
    """The reference with the operator's own backward formula, made of operations that torch.compile can see into."""

    # Named as they are, not as *arguments: torch.compile counts them to find out whether the first one is a context.
    forward = staticmethod(reference.forward)

    setup_context = staticmethod(_setup_context)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Tensor | None, ...]:
        return _input_gradients(*reference.backward(grad_z, grad_kl, *ctx.saved_tensors, *ctx.options))


# --- vmap ----------------------------------------------------------------------------------------------------------------


def _batched(info: Any, in_dims: Sequence[int | None], tensors: Sequence[Tensor | None], options: Sequence[Any]) -> list[Any]:
    """mu, logvar, key, eps, prior_mu, prior_logvar with the mapped dimension in front of mu's, and the noise as eps.

    Every slice has its own element 0 of the stream, which one call over the larger batch would not give: so the noise is made
    here, slice by slice of the key, and passed on.
    """
    mu, logvar, key, eps, prior_mu, prior_logvar = (
        t if t is None or dim is None else t.movedim(dim, 0) for t, dim in zip(tensors, in_dims, strict=True)
    )
    num_samples, row_start, event_dims, _ = options
    assert mu is not None

    def mapped(position: int) -> bool:
        return in_dims[position] is not None

    slice_ = mu.new_empty(mu.shape[1:]) if mapped(0) else mu
    if eps is None:
        assert key is not None
        keys = key.unbind(0) if mapped(2) else [key]
        drawn = [noise(slice_, k, None, num_samples, row_start, event_dims) for k in keys]
        eps = torch.stack(drawn) if mapped(2) else drawn[0]
    eps_mapped = mapped(3) or mapped(2)
    eps = eps if eps_mapped else eps.expand(info.batch_size, *eps.shape)
    if num_samples is not None:
        eps = eps.movedim(0, 1)

    def widen(value: Tensor | None, position: int) -> Tensor | None:
        return value if value is None or mapped(position) else value.expand(info.batch_size, *value.shape)

    return [widen(mu, 0), widen(logvar, 1), None, eps, widen(prior_mu, 4), widen(prior_logvar, 5)]


def _vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, tuple[int, int]]:
    options = arguments[6:]
    tensors = _batched(info, in_dims[:6], arguments[:6], options)
    return _call_forward(*tensors, *options), (0 if options[0] is None else 1, 0)


def _backward_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, tuple[int | None, ...]]:
    options = arguments[8:]
    tensors = _batched(info, in_dims[2:8], arguments[2:8], options)
    grads: list[Tensor | None] = []
    for gradient, dim, front in zip(arguments[:2], in_dims[:2], (0 if options[0] is None else 1, 0), strict=True):
        if gradient is not None:
            gradient = gradient.movedim(dim, 0) if dim is not None else gradient.expand(info.batch_size, *gradient.shape)
            gradient = gradient.movedim(0, front)
        grads.append(gradient)
    prior_dim = None if tensors[4] is None else 0
    return _call_backward(*grads, *tensors, *options), (0, 0, prior_dim, prior_dim)


torch.library.register_vmap(_NAME, _vmap, lib=_LIBRARY)
torch.library.register_vmap(_BACKWARD_NAME, _backward_vmap, lib=_LIBRARY)


# --- the ways in ---------------------------------------------------------------------------------------------------------
# The formulas registered on the operator above are here once more as autograd.Functions: torch.func's transforms see no others,
# and in eager mode they cost a quarter of what the dispatcher's autograd costs, which is most of a small call.


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Any:
        return _forward_op(*arguments)

    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_backward)
    vmap = staticmethod(_vmap)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Any:
        return _backward_op(*arguments)

    setup_context = staticmethod(_setup_backward_context)
    backward = staticmethod(_double_backward)
    vmap = staticmethod(_backward_vmap)


class _EagerForward(torch.autograd.Function):
    """_Forward without a setup_context of its own, for which torch would bind the arguments anew: 25 microseconds."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        _setup_context(ctx, arguments, None)
        with torch._C._AutoDispatchBelowAutograd():
            return _forward_op(*arguments)

    backward = staticmethod(_backward)


class _EagerBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        _setup_backward_context(ctx, arguments, None)
        with torch._C._AutoDispatchBelowAutograd():
            return _backward_op(*arguments)

    backward = staticmethod(_double_backward)


# Function.apply as it is outside of transforms, without its look at every argument.
_apply_eagerly: Any = super(torch.autograd.Function, _EagerForward).apply


def _call_forward(*arguments: Any) -> Any:
    if torch.compiler.is_compiling():
        return _forward_op(*arguments)
    if torch._C._are_functorch_transforms_active():
        return _Forward.apply(*arguments)  # type: ignore[no-untyped-call]
    return _apply_eagerly(*arguments)


def _call_backward(*arguments: Any) -> Any:
    if torch.compiler.is_compiling():
        return _backward_op(*arguments)
    if torch._C._are_functorch_transforms_active():
        return _Backward.apply(*arguments)  # type: ignore[no-untyped-call]
    if torch.is_grad_enabled() or torch.autograd.forward_ad._current_level >= 0:
        return _EagerBackward.apply(*arguments)  # type: ignore[no-untyped-call]
    with torch._C._AutoDispatchBelowAutograd():
        return _backward_op(*arguments)

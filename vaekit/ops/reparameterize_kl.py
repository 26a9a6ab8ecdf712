"""`reparameterize_kl`: the operator's public wrapper and its checks.

Forward and backward are operators of the dispatcher (schema.py), whose default kernel is the pure-PyTorch reference. Backward is
itself differentiable, in closed form, to any order (autograd.py). Given a key it makes the noise again; where no compiled kernel
serves a device, the wrapper makes the noise once and gives it to the operator as eps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vaekit.ops import dispatch, native, philox, reference
from vaekit.ops.autograd import Inlined
from vaekit.ops.operands import Operands, checked_count, halves

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def reparameterize_kl(
    mu: Tensor | None = None,
    logvar: Tensor | None = None,
    *,
    packed: Tensor | None = None,
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
        packed: [..., 2 D], both as one layer gives them, instead of mu and logvar: the first half of the event's first dimension
            holds the means, the second the log variances. Its gradient is written as one tensor, which that of
            `packed.chunk(2, -1)` is joined of.
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
        Each element is right to a millionth of itself. With a prior in float32, where logvar - prior logvar is above 16, it is
        right to five millionths: there the rounding of the difference counts, as the divergence has its exponential.
        An element that is not finite stays in its row: logvar = +inf gives kl = +inf and z = +-inf (NaN where the noise is
        exactly 0, as some draws in ten million are), logvar = -inf gives kl = +inf and z = mu, mu = +-inf gives kl = +inf and
        z = mu, NaN gives NaN; two infinities that meet in one element combine as in IEEE arithmetic.

    Raises:
        TypeError: an argument that is not a tensor, or whose dtype is not supported; a count that is not a whole number.
        ValueError: shapes, devices or options that do not fit together.

    Example:
        >>> import vaekit
        >>> mu, logvar = torch.zeros(3, 2), torch.zeros(3, 2)
        >>> z, kl = vaekit.reparameterize_kl(mu, logvar, key=vaekit.make_key(0))
        >>> z.shape, kl
        (torch.Size([3, 2]), tensor([0., 0., 0.]))
    """
    if type(event_dims) is not int:
        event_dims = checked_count("event_dims", event_dims)
    if packed is None:
        _check_parameters(mu, logvar, event_dims)
    elif mu is None and logvar is None:
        mu = packed
        _check_packed(packed, event_dims)
    else:
        raise TypeError("packed holds mu and logvar; give it without them")
    assert mu is not None
    if reduce != "event" and reduce != "none":
        raise ValueError(f'reduce has to be "event" or "none", got {reduce!r}')
    if num_samples is not None:
        num_samples = checked_count("num_samples", num_samples, 1)
    if type(row_start) is not int or row_start < 0:
        row_start = checked_count("row_start", row_start, 0)
    if eps is None:
        key = philox.resolve_key(key, generator, mu.device)
    elif key is not None or generator is not None:
        raise ValueError("eps is the noise itself; give it without a key and without a generator")
    else:
        _check_eps(eps, _like_mu(mu, logvar, event_dims), num_samples)
    prior_mu, prior_logvar = (None, None) if prior is None else _checked_prior(prior, _like_mu(mu, logvar, event_dims))

    arguments = (mu, logvar, key, eps, prior_mu, prior_logvar, num_samples, row_start, event_dims, reduce == "event")
    if not native.serves(mu):
        return _without_kernel(arguments)
    result: tuple[Tensor, Tensor] = dispatch.call_forward(*arguments)
    return result


def _like_mu(mu: Tensor, logvar: Tensor | None, event_dims: int) -> Tensor:
    """mu, or the half of a packed tensor that it is; for its shape."""
    return mu if logvar is not None else halves(mu, event_dims)[0]


def _without_kernel(arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """The operator where only the reference serves the device."""
    o = Operands(*arguments)
    if torch.compiler.is_compiling() and dispatch.forward_mode_is_on():
        return dispatch.plain(arguments)
    if o.eps is None and not dispatch.transforms_are_active():
        # Most of the reference's time goes into the noise, so it is kept for backward instead of being made again.
        like = _like_mu(o.mu, o.logvar, o.event_dims)
        eps = reference.noise(like, o.key, None, o.num_samples, o.row_start, o.event_dims)
        arguments = o._replace(key=None, eps=eps)
    if torch.compiler.is_compiling():
        # Traced into the graph, where Inductor fuses it with its surroundings; an operator would be opaque to it.
        result: tuple[Tensor, Tensor] = Inlined.apply(*dispatch.unpacked(arguments))  # type: ignore[no-untyped-call]
    else:
        if o.mu.is_cuda:
            native.warn_without_cuda_kernel(stacklevel=4)
        result = dispatch.call_forward(*arguments)
    return result


def _check_parameters(mu: Tensor | None, logvar: Tensor | None, event_dims: int) -> None:
    if not isinstance(mu, Tensor) or not isinstance(logvar, Tensor):
        raise TypeError(f"mu and logvar have to be tensors, got {type(mu).__name__} and {type(logvar).__name__}")
    if (dtype := mu.dtype) not in _DTYPES:
        raise _of_another_dtype("mu", mu)
    if dtype != logvar.dtype:
        raise TypeError(f"mu and logvar have to share a dtype, got {mu.dtype} and {logvar.dtype}")
    if mu.shape != logvar.shape:
        raise ValueError(
            f"mu and logvar have to have the same shape, got {tuple(mu.shape)} and {tuple(logvar.shape)}; expand a shared one"
        )
    if mu.device != logvar.device:
        raise ValueError(f"mu and logvar have to be on one device, got {mu.device} and {logvar.device}")
    if not 1 <= event_dims <= mu.ndim:
        raise _other_event_dims("mu", mu, event_dims)


def _check_packed(packed: Tensor, event_dims: int) -> None:
    if not isinstance(packed, Tensor):
        raise TypeError(f"packed has to be a tensor, got {type(packed).__name__}")
    if packed.dtype not in _DTYPES:
        raise _of_another_dtype("packed", packed)
    if not 1 <= event_dims <= packed.ndim:
        raise _other_event_dims("packed", packed, event_dims)
    size = packed.shape[-event_dims]
    if size % 2 != 0:
        raise ValueError(
            f"packed has to have mu and logvar as the halves of dimension {-event_dims}, but that has {size} elements; "
            f"its shape is {tuple(packed.shape)}"
        )


def _of_another_dtype(name: str, parameters: Tensor) -> TypeError:
    return TypeError(
        f"{name} has to be a floating-point tensor of float16, bfloat16, float32 or float64, "
        f"got {parameters.dtype}; convert it, {name}.float() for example"
    )


def _other_event_dims(name: str, parameters: Tensor, event_dims: int) -> ValueError:
    return ValueError(
        f"event_dims has to be between 1 and the {parameters.ndim} dimensions of {name}, whose shape is "
        f"{tuple(parameters.shape)}, got {event_dims}"
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

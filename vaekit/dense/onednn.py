"""oneDNN's product of matrices by an operator that torch brings and does not call public, and when not to call it.

Every private name of torch that the dense layers use is here. None is needed: without one of them the layers compute by
`torch.nn.functional.linear`, and `vaekit doctor` says why.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vaekit.ops.dispatch import forward_mode_is_on, transforms_are_active

VARIABLE = "VAEKIT_ONEDNN"  # =0: never

# What torch.compile makes of a dense layer: y = x @ weight.T + bias, and an activation, here "none". If it goes, or takes
# other arguments: obstacle() says so.
_linear_pointwise: Any = getattr(getattr(torch.ops, "mkldnn", None), "_linear_pointwise", None)

# What float32 products may be rounded to, by `torch.set_float32_matmul_precision` and its relatives; the public functions raise
# an error where both the old and the new way of setting it were used. If it goes: obstacle() says so.
_precision_of: Any = getattr(torch._C, "_get_fp32_precision_getter", None)

# How many modes listen to the operators that are called, to count, trace or fake them. If they go: as if some did.
_operator_modes: Any = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_function_modes: Any = getattr(torch._C, "_len_torch_function_stack", lambda: 1)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias for x [N, I], weight [O, I], bias [O], all float32 on the CPU, in any layout; not differentiable."""
    result: Tensor = _linear_pointwise(x, weight, bias, "none", [], "")
    return result


def is_free() -> bool:
    """Whether nothing but eager autograd has a part in what is being computed.

    torch's own operators are what compilers, exporters, transforms, autocast and modes know.
    """
    return not (
        torch.compiler.is_compiling()
        or transforms_are_active()
        or torch.is_autocast_enabled("cpu")
        or _operator_modes()
        or _function_modes()
        or forward_mode_is_on()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or _precision_of is None
        or _precision_of("mkldnn", "matmul") not in ("none", "ieee")
        or not torch.backends.mkldnn.enabled
    )


@cache
def obstacle() -> str | None:
    """Why oneDNN is not used here, in words; None where it may be. Found out once, by calling it."""
    if os.environ.get(VARIABLE, "").strip() == "0":
        return f"{VARIABLE}=0 is set"
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without oneDNN"
    missing = {"mkldnn::_linear_pointwise": _linear_pointwise, "torch._C._get_fp32_precision_getter": _precision_of}
    for name, found in missing.items():
        if found is None:
            return f"this torch ({torch.__version__}) has no {name}"
    try:
        return _self_test()
    except (RuntimeError, TypeError, AttributeError) as error:  # another signature, or a processor it does not run on
        return f"its product of matrices fails ({type(error).__name__}: {error})"


def _self_test() -> str | None:
    """Compare the three products of a layer, in odd sizes and as the views that they are called on, with float64."""
    with torch.no_grad():
        for rows, features_in, features_out in ((1, 1, 1), (7, 33, 19), (64, 65, 130), (3, 512, 5)):
            x, weight = _waves(rows, features_in), _waves(features_out, features_in)
            grad, bias = _waves(rows, features_out), _waves(1, features_out)[0]
            for a, b, c in ((x, weight, bias), (x, weight, None), (grad, weight.t(), None), (grad.t(), x.t(), None)):
                wide, shift = (a.double(), b.double().t()), torch.zeros(1) if c is None else c.double()
                expected = wide[0] @ wide[1] + shift
                # The bound of N. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.5: in any order.
                bound = (a.shape[1] + 1) * 6e-8 * (wide[0].abs() @ wide[1].abs() + shift.abs())
                found = product(a, b, c)
                if found.shape != expected.shape or not bool(((found - expected).abs() <= bound).all()):
                    return f"its product of {tuple(a.shape)} and {tuple(b.t().shape)} is wrong"
    return None


def _waves(rows: int, columns: int) -> Tensor:
    """Numbers in [-1, 1], the same each time, that no generator is asked for."""
    return torch.arange(1, rows * columns + 1, dtype=torch.float32).mul(0.7).sin().view(rows, columns)

"""The operands of `vaekit::reparameterize_kl` by name, in the order of its schema; csrc/operator.h has the same struct."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.checks import whole_number, whole_number_wanted

SCHEMA = (
    "Tensor mu, Tensor logvar, Tensor? key, Tensor? eps, Tensor? prior_mu, Tensor? prior_logvar, "
    "SymInt? num_samples, SymInt row_start, int event_dims, bool reduce_event"
)


class Operands(NamedTuple):
    """The ten operands of the forward operator; the backward operator takes grad_z and grad_kl before them."""

    mu: Tensor
    logvar: Tensor
    key: Tensor | None = None
    eps: Tensor | None = None
    prior_mu: Tensor | None = None
    prior_logvar: Tensor | None = None
    num_samples: int | None = None
    row_start: int = 0
    event_dims: int = 1
    reduce_event: bool = True


# Tensors and options of the bare arguments that an autograd.Function is called with. To name them all would cost every call.
_COUNT = Operands._fields.index("num_samples")
TENSORS, OPTIONS = slice(0, _COUNT), slice(_COUNT, None)
GRADIENTS = slice(0, 2)  # grad_z and grad_kl, before the operands of the backward operator
BACKWARD_TENSORS, BACKWARD_OPTIONS = slice(0, 2 + _COUNT), slice(2 + _COUNT, None)


def checked_count(name: str, value: int, least: int | None = None) -> int:
    """`value`: an int, one of numpy's or torch's, or a symbolic one of torch.compile's, which stays as it is.

    Raises:
        TypeError: not a whole number, as 2.5 or True.
        ValueError: below `least`.

    Example:
        >>> checked_count("num_samples", 2.5, 1)
        Traceback (most recent call last):
        TypeError: num_samples has to be a whole number of at least 1, got 2.5
    """
    if type(value) is not int and not isinstance(value, torch.SymInt):
        whole = whole_number(value)
        if whole is None:
            raise TypeError(whole_number_wanted(name, value, least))
        value = whole
    if least is not None and value < least:
        raise ValueError(whole_number_wanted(name, value, least))
    return value

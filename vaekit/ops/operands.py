"""The operands of `vaekit::reparameterize_kl` by name, in the order of its schema; csrc/operator.h has the same struct."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.checks import whole_number, whole_number_wanted

SCHEMA = (
    "Tensor mu, Tensor logvar, Tensor? key, Tensor? eps, Tensor? prior_mu, Tensor? prior_logvar, "
    "SymInt? num_samples, SymInt row_start, int event_dims, bool reduce_event"
)

# `wanted` says which gradients the backward operator gives, a sum of the numbers below; `packed`, whether those of mu and logvar
# come as the halves of one tensor, in the place of mu's.
BACKWARD_SCHEMA = f"Tensor? grad_z, Tensor? grad_kl, {SCHEMA}, int wanted=15, bool packed=False"
MU, LOGVAR, PRIOR_MU, PRIOR_LOGVAR = 1, 2, 4, 8
ALL = MU | LOGVAR | PRIOR_MU | PRIOR_LOGVAR


class Operands(NamedTuple):
    """The ten operands of the forward operator; the backward operator takes grad_z and grad_kl before them.

    In dispatch.py logvar may be None: mu then is a packed tensor, which `halves` takes apart.
    """

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


def backward_operands(arguments: Sequence[Any]) -> tuple[Operands, int, bool]:
    """The operands, `wanted` and `packed` of the backward operator's arguments behind the gradients.

    The dispatcher leaves out what is as the schema says.
    """
    count = len(Operands._fields)
    given = arguments[count:]
    return Operands(*arguments[:count]), given[0] if given else ALL, len(given) > 1 and given[1]


def outputs(o: Operands, wanted: int, packed: bool) -> tuple[bool, bool, bool, bool]:
    """Which of the backward operator's four outputs there are; the others are None.

    Example:
        >>> outputs(Operands(torch.zeros(3), torch.zeros(3)), ALL, packed=True)
        (True, False, False, False)
    """
    of_mu, of_logvar, of_prior_mu, of_prior_logvar = (bool(wanted & number) for number in (MU, LOGVAR, PRIOR_MU, PRIOR_LOGVAR))
    prior = o.prior_mu is not None
    return of_mu or packed, of_logvar and not packed, of_prior_mu and prior, of_prior_logvar and prior


def wanted(needs: Sequence[bool]) -> int:
    """The gradients to give, where `needs` says of each operand whether it needs one.

    Example:
        >>> wanted((False, True, False, False, False, True)) == LOGVAR | PRIOR_LOGVAR
        True
    """
    return needs[0] | needs[1] << 1 | needs[4] << 2 | needs[5] << 3


def halves(packed: Tensor, event_dims: int) -> tuple[Tensor, Tensor]:
    """mu and logvar as views of a packed tensor: the halves of the first dimension of an event.

    Example:
        >>> halves(torch.arange(4.0).reshape(1, 4), 1)
        (tensor([[0., 1.]]), tensor([[2., 3.]]))
    """
    mu, logvar = packed.chunk(2, packed.ndim - event_dims)
    return mu, logvar


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

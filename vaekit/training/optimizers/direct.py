"""The step of torch's fused Adam on the CPU, without what surrounds its kernel.

`Adam.step` sorts the tensors by device, calls hooks, tells a profiler, and counts each parameter's steps in a call of its own.
For twelve parameters that is a third of the kernel's time, and a thirtieth of a small model's step.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

import torch
from torch import Tensor

# The kernels, which have no public name. If one goes, or takes other arguments, the optimizer's own step is taken.
_KERNELS: dict[bool, Any] = {False: getattr(torch, "_fused_adam_", None), True: getattr(torch, "_fused_adamw_", None)}


class DirectAdam:
    """Takes the steps of a fused `torch.optim.Adam` or `AdamW` on the CPU, with the same state and to the same bits.

    Steps that the kernel alone would not take as the optimizer does are left to it: the first of a parameter, which makes its
    state; those of another class, or with hooks, a rate in a tensor, complex numbers, or parameters that are no plain tensors.

    Args:
        optimizer: of any class.
        hooks: numbers of hooks around its step that need not be called.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> adam = torch.optim.Adam([weight], fused=True)
        >>> direct = DirectAdam(adam)
        >>> weight.grad = torch.ones(3)
        >>> direct.step(torch.tensor(False))  # the first is the optimizer's own
        False
        >>> adam.step()
        >>> direct.step(torch.tensor(False)), adam.state[weight]["step"]
        (True, tensor(2.))
    """

    def __init__(self, optimizer: torch.optim.Optimizer, hooks: Collection[int] = ()) -> None:
        self._optimizer, self._hooks = optimizer, frozenset(hooks)
        self._counters: list[_Counters] = []
        self._is_known = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW) and _kernels_take_their_arguments()

    @torch.no_grad()
    def step(self, bad: Tensor) -> bool:
        """Take a step, which leaves everything as it is where `bad`, a bool scalar, is set.

        Returns:
            whether it was one to be taken here; if not, nothing has happened.
        """
        if not self._is_known or not self._is_bare():
            return False
        groups = [_Group(group, self._optimizer.state) for group in self._optimizer.param_groups]
        if not all(group.is_simple for group in groups):
            return False
        if len(self._counters) != len(groups):
            self._counters = [_Counters() for _ in groups]
        found_inf = bad.float()
        for group, counters in zip(groups, self._counters, strict=True):
            if group.parameters:
                group.step(counters.of(group.states), found_inf)
        return True

    def _is_bare(self) -> bool:
        """Whether nobody has put something around the optimizer's step: hooks, or as schedulers do another function."""
        optimizer: Any = self._optimizer
        hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
        return all(self._hooks >= numbered.keys() for numbered in hooks) and "step" not in vars(optimizer)


class _Group:
    """What the kernel takes of a group of parameters: those that have a gradient."""

    def __init__(self, group: dict[str, Any], state: Any) -> None:
        self.options = group
        self.parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        self.gradients = [p.grad for p in self.parameters]
        self.states: list[dict[str, Tensor]] = [state.get(p, {}) for p in self.parameters]

    @property
    def is_simple(self) -> bool:
        """Whether the kernel alone does all that the optimizer does."""
        group, first = self.options, self.parameters[0] if self.parameters else None
        return (
            bool(group["fused"])
            and not group["differentiable"]
            and all(isinstance(number, (int, float)) for number in (group["lr"], *group["betas"]))
            and all(self.states)  # which the optimizer makes in its first step
            and all(
                type(p) is torch.nn.Parameter
                and p.is_cpu
                and p.dtype is first.dtype  # type: ignore[union-attr]
                and p.is_floating_point()
                and p.grad.layout is torch.strided  # type: ignore[union-attr]
                for p in self.parameters
            )
        )

    def step(self, counters: Tensor, found_inf: Tensor) -> None:
        group, states = self.options, self.states
        counters += 1
        _KERNELS[group.get("decoupled_weight_decay", False)](
            self.parameters,
            self.gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
            [state["step"] for state in states],
            amsgrad=group["amsgrad"],
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            grad_scale=None,
            found_inf=found_inf,
        )
        counters -= found_inf


class _Counters:
    """The numbers of the steps of some parameters, in one tensor, of which each parameter's is a view."""

    def __init__(self) -> None:
        self._all = torch.zeros(0)
        self._each: list[Tensor] = []

    def of(self, states: list[dict[str, Tensor]]) -> Tensor:
        """The tensor; where the optimizer has others, after a state was loaded for example, they become views."""
        if len(states) != len(self._each) or any(s["step"] is not own for s, own in zip(states, self._each, strict=True)):
            self._all = torch.stack([state["step"] for state in states])
            self._each = list(self._all.unbind(0))
            for state, own in zip(states, self._each, strict=True):
                state["step"] = own
        return self._all


@cache
def _kernels_take_their_arguments() -> bool:
    """Whether a step of each kernel gives what the optimizer's own does."""
    for kind in (torch.optim.Adam, torch.optim.AdamW):
        own, direct = torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.ones(5))
        optimizers = [kind([p], lr=0.1, weight_decay=0.1, fused=True) for p in (own, direct)]
        for p, optimizer in zip((own, direct), optimizers, strict=True):
            p.grad = torch.arange(5.0)
            optimizer.step()
            p.grad = torch.arange(5.0) - 2.0
        optimizers[0].step()
        group = _Group(optimizers[1].param_groups[0], optimizers[1].state)
        try:
            with torch.no_grad():
                group.step(_Counters().of(group.states), torch.zeros(()))
        except (TypeError, RuntimeError):
            return False
        if not torch.equal(own, direct):
            return False
    return True

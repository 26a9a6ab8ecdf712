"""The optimizer Lion: X. Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, arXiv:2302.06675, algorithm 2."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class _Lion(torch.optim.Optimizer):
    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                first, second = group["betas"]
                weight.mul_(1.0 - group["lr"] * group["weight_decay"])
                weight.sub_(torch.lerp(weight.grad, momentum, first).sign(), alpha=group["lr"])
                momentum.lerp_(weight.grad, 1.0 - second)


def lion(
    params: Iterable[Any], lr: float, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Steps of one size, along the sign of a running average of the gradient."""
    return _Lion(params, lr=lr, betas=tuple(betas), weight_decay=weight_decay)

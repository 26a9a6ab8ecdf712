"""The optimizer Signum: J. Bernstein et al., "signSGD", 2018, arXiv:1802.04434, algorithm 2."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class _Signum(torch.optim.Optimizer):
    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1.0 - group["beta"])
                weight.mul_(1.0 - group["lr"] * group["weight_decay"])
                weight.sub_(momentum.sign(), alpha=group["lr"])


def signum(params: Iterable[Any], lr: float, beta: float = 0.9, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """Steps of one size, along the sign of a running average of the gradient."""
    return _Signum(params, lr=lr, beta=beta, weight_decay=weight_decay)

"""Gradients in float16, which ends at 65504 and at 6e-8: scaled so that they fit, by a scale that finds its own size.

P. Micikevicius et al., "Mixed Precision Training", ICLR 2018, arXiv:1710.03740, section 3.2.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

SMALLEST = 2.0**-14  # a gradient that overflows at this scale is above 1e9, or infinite at any


class Scaler(torch.amp.GradScaler):
    """PyTorch's: a step whose gradients overflow is left out, and halves the scale; 2000 without double it.

    It knows how many steps were left out, without waiting for the device.

    Args:
        device: of the objective.

    Example:
        >>> scaler = Scaler(torch.device("cpu"))
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> sgd = torch.optim.SGD([weight], lr=0.1)
        >>> scaler.scale(3e38 * weight).sum().backward()
        >>> scaler.step(sgd)
        >>> scaler.update()
        >>> weight.item(), scaler.left_out, scaler.get_scale()
        (1.0, 1, 32768.0)
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device.type)
        self._one = torch.ones((), device=device)
        self._left_out = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def left_out(self) -> int:
        """How many steps were left out."""
        return int(self._left_out)

    def update(self, new_scale: float | torch.Tensor | None = None) -> None:
        before = self.scale(self._one)
        super().update(new_scale)
        self._left_out += self.scale(self._one) < before

    def leave_out(self) -> None:
        """End a step whose gradients were unscaled and are not used; the scale stays."""
        super().update(self.scale(self._one))

    def failure(self) -> str:
        """Why no scale can help any more; empty as long as one may."""
        if self.get_scale() >= SMALLEST:
            return ""
        return (
            f'the gradient has not been finite in float16 (precision="16") at any scale down to {SMALLEST:.2g}: it is larger '
            'than 1e9, or not finite at all. precision="bf16" has the range of float32'
        )

    def warn_of_left_out(self, steps: int) -> None:
        """Warn of a run of so many steps that has hardly begun."""
        if steps and 2 * self.left_out >= steps:
            warnings.warn(
                f'{self.left_out} of {steps} steps were left out: with precision="16" gradients overflow until a scale is found '
                f"that they fit, which is {self.get_scale():g} by now. Train for longer, or in bf16",
                UserWarning,
                stacklevel=3,
            )

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "left_out": self.left_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "left_out"})
        self._left_out.fill_(state_dict["left_out"])

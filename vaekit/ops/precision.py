"""How wide a device can compute."""

from __future__ import annotations

import torch


def wide(device: torch.device) -> torch.dtype:
    """The dtype for long sums on a device: float64, or float32 where there is no other, on MPS.

    Example:
        >>> wide(torch.device("cpu")), wide(torch.device("mps"))
        (torch.float64, torch.float32)
    """
    return torch.float32 if device.type == "mps" else torch.float64

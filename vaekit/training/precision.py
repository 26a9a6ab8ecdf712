"""The precision of a run's networks: what is asked for, and what that is on a device, for weights of a dtype."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch

from vaekit.checks import checked_word

PRECISIONS = ("32", "bf16", "16", "auto")
_LOWER = {"bf16": torch.bfloat16, "16": torch.float16}


class Precision(NamedTuple):
    """What a run computes in.

    Attributes:
        name: "32", the weights' dtype; "bf16" or "16", encoder and decoder by autocast in bfloat16 or float16.
        weights: the weights' dtype.
        why: why it was chosen, where that was left to fit.
    """

    name: str
    weights: torch.dtype
    why: str = ""

    @classmethod
    def choose(cls, wanted: str | int, device: torch.device, weights: torch.dtype) -> Precision:
        """The precision that is asked for; for "auto" bf16 on a GPU that has it, and 32 elsewhere.

        Raises:
            ValueError: another word; the device has no autocast to it.
            TypeError: a lower one for weights in float64.

        Example:
            >>> Precision.choose("auto", torch.device("cpu"), torch.float32)
            Precision(name='32', weights=torch.float32, why='no GPU that computes in bfloat16')
        """
        name, why = checked_word("precision", str(wanted), PRECISIONS), ""
        if name == "auto":
            name, why = _chosen(device, weights)
        if (lower := _LOWER.get(name)) is not None:
            if weights == torch.float64:
                raise TypeError(
                    f'precision="{name}" is {lower} for networks whose weights are float32, and the model has some in float64; '
                    'vae.float() makes them float32, precision="32" trains it in float64'
                )
            if not _has_autocast(device.type, lower):
                raise ValueError(
                    f'precision="{name}" needs autocast to {lower}, which {device.type} does not have here; take "32"'
                )
        return cls(name, weights, why)

    @property
    def lower(self) -> torch.dtype | None:
        """What the networks compute in, where that is not the weights' dtype."""
        return _LOWER.get(self.name)

    def __str__(self) -> str:
        dtype = str(self.lower or self.weights).removeprefix("torch.")
        where = f"networks in {dtype}, all else in float32" if self.lower else f"in {dtype}"
        return where + (f" (auto: {self.why})" if self.why else "")


def _chosen(device: torch.device, weights: torch.dtype) -> tuple[str, str]:
    """What "auto" is, and why."""
    if weights == torch.float64:
        return "32", "the weights are float64"
    if device.type != "cuda":
        return "32", "no GPU that computes in bfloat16"
    with torch.cuda.device(device):
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    name = torch.cuda.get_device_name(device)
    return ("bf16", f"{name} computes in bfloat16") if is_native else ("32", f"{name} only emulates bfloat16")


def _has_autocast(kind: str, dtype: torch.dtype) -> bool:
    """Whether autocast to a dtype is more than a warning on a kind of device."""
    if not torch.amp.is_autocast_available(kind):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.autocast(kind, dtype):
                return torch.is_autocast_enabled(kind)
        except RuntimeError:
            return False

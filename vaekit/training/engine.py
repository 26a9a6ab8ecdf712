"""Devices and precision: the one file that knows lightning-fabric."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vaekit.training.precision import Precision
from vaekit.training.scaling import Scaler

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Engine:
    """One device, at one precision.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps", or a `torch.device`.
        precision: "32", "bf16", "16" or "auto"; see `Precision`. The data keeps the dtype that it has: a likelihood needs every
            digit of a count.
        weights: the weights' dtype.

    Attributes:
        precision: what that is here.
        scaler: of gradients in float16; None elsewhere.

    Raises:
        ValueError: a device that does not exist, or is not here, or has no such precision.
        TypeError: a lower precision than that of float64.
    """

    def __init__(
        self, device: str | torch.device = "auto", precision: str | int = "32", weights: torch.dtype = torch.float32
    ) -> None:
        chosen = resolved(device)
        self.precision = Precision.choose(precision, chosen, weights)
        self.scaler = Scaler(chosen) if self.precision.lower == torch.float16 else None
        self._fabric = _fabric(chosen, self.precision, self.scaler)
        self.device: torch.device = self._fabric.device

    def __str__(self) -> str:
        """The device and the precision, in words."""
        return described(self.device, self.precision)

    def setup(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Model and optimizer as a step calls them: on the device, under the precision."""
        return self._fabric.setup(model, optimizer)  # type: ignore[no-any-return]

    def backward(self, objective: Tensor) -> None:
        """Add the gradients of the objective to those of the parameters."""
        self._fabric.backward(objective)

    def state_dict(self) -> dict[str, Any]:
        """What evolves here, as plain data: that of the scaler, where there is one."""
        return {} if self.scaler is None else {"scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])


def described(device: torch.device, precision: Precision) -> str:
    """A device and a precision, in words."""
    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return f"on {device}{gpu}, {precision}"


def resolved(device: str | torch.device) -> torch.device:
    """The device of a name; for "auto" a GPU if there is one.

    Raises:
        ValueError: there is no such device, or it is not here.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f'device has to be "auto", "cpu", "cuda", "cuda:1" or "mps" for example, got {device!r}') from error
    try:
        torch.empty(0, device=chosen)
    except Exception as error:  # every kind of device has its own way of not being there
        raise _not_here(chosen, error) from error
    return chosen


def _not_here(device: torch.device, error: Exception) -> ValueError:
    return ValueError(f"there is no device {str(device)!r} here ({error}); `vaekit doctor` lists what there is")


def _fabric(device: torch.device, precision: Precision, scaler: Scaler | None) -> Fabric:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # imports of its own that warn of themselves
        from lightning_fabric import Fabric
        from lightning_fabric.plugins import MixedPrecision

    class LeavesData(MixedPrecision):
        """Autocast without Fabric's conversion of inputs, which rounds a count of 1001 to 1000 before the model sees it."""

        def convert_input(self, data: Any) -> Any:
            return data

        def convert_output(self, data: Any) -> Any:
            return data

    plugins: list[Any] = []
    if precision.lower is not None:
        plugins.append(LeavesData("16-mixed" if scaler else "bf16-mixed", device.type, scaler))
    devices: Any = 1 if device.type == "cpu" else [device.index or 0]
    try:
        return Fabric(accelerator=device.type, devices=devices, plugins=plugins or None)
    except Exception as error:
        raise _not_here(device, error) from error

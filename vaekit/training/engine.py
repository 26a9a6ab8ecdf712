"""Devices and precision: the one file that knows lightning-fabric."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = ("32-true", "bf16-mixed")  # 16-mixed scales gradients, which has to be undone before they are clipped


class Engine:
    """One device, at one precision.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps", or a `torch.device`.
        precision: "32-true" computes in the weights' dtype; "bf16-mixed" by autocast, which leaves the data in the dtype that it
            has: a likelihood needs every digit of a count.

    Raises:
        ValueError: a device that does not exist, or is not here; another precision.
    """

    def __init__(self, device: str | torch.device = "auto", precision: str = "32-true") -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision has to be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self._fabric = _fabric(device, precision)
        self.device: torch.device = self._fabric.device

    def setup(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Model and optimizer as a step calls them: on the device, under the precision."""
        return self._fabric.setup(model, optimizer)  # type: ignore[no-any-return]

    def backward(self, objective: Tensor) -> None:
        """Add the gradients of the objective to those of the parameters."""
        self._fabric.backward(objective)


def _fabric(device: str | torch.device, precision: str) -> Fabric:
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

    def plugins(kind: str) -> dict[str, Any]:
        return {} if precision == "32-true" else {"plugins": [LeavesData(precision, kind)]}  # type: ignore[arg-type]

    if str(device) == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return Fabric(accelerator="auto", devices=1, **plugins(kind))
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f'device has to be "auto", "cpu", "cuda", "cuda:1" or "mps" for example, got {device!r}') from error
    try:
        torch.empty(0, device=chosen)
        devices: Any = 1 if chosen.type == "cpu" else [chosen.index or 0]
        return Fabric(accelerator=chosen.type, devices=devices, **plugins(chosen.type))
    except Exception as error:  # every kind of device has its own way of not being there
        raise ValueError(f"there is no device {str(chosen)!r} here ({error}); `vaekit doctor` lists what there is") from error

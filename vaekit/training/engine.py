"""Devices, processes and precision: the one file that knows lightning-fabric, for all but one process in float32."""

from __future__ import annotations

import atexit
import gc
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from vaekit import dense
from vaekit.gathering import Ranks
from vaekit.memory import keep_freed_blocks
from vaekit.ops.applied import applied
from vaekit.training.precision import Precision
from vaekit.training.processes import Place, Reasons, checked_devices, checked_strategy, place_of_this_process
from vaekit.training.scaling import Scaler
from vaekit.training.shards import Shards

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Engine:
    """One device of one or several processes, at one precision.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps", or a `torch.device`.
        precision: "32", "bf16", "16" or "auto"; see `Precision`. The data keeps the dtype that it has: a likelihood needs every
            digit of a count.
        weights: the weights' dtype.
        devices: how many, or the numbers of some GPUs; each needs a process, which torchrun starts.
        strategy: how several processes train one model: "ddp", each holds all of it; "auto" is that too; "fsdp", each holds a
            part.

    Attributes:
        device: of this process.
        precision: what that is here.
        scaler: of gradients in float16; None elsewhere.
        ranks: all processes of the run.
        shards: the model's weights, divided among them or not.

    Raises:
        ValueError: a device that does not exist, or is not here, or has no such precision; devices that torchrun has not started
            processes for.
        TypeError: a lower precision than that of float64.
    """

    def __init__(
        self,
        device: str | torch.device = "auto",
        precision: str | int = "32",
        weights: torch.dtype = torch.float32,
        devices: int | Sequence[int] = 1,
        strategy: str = "auto",
    ) -> None:
        devices = checked_devices(devices)
        place = place_of_this_process(devices)
        chosen = _of_this_process(resolved(device), devices, place)
        self.precision = Precision.choose(precision, chosen, weights)
        self.scaler = Scaler(chosen) if self.precision.lower == torch.float16 else None
        self.shards = Shards()
        self._networks: Sequence[nn.Module] = ()
        divide = self._divide if checked_strategy(strategy) == "fsdp" else None
        self._fabric: Fabric | None = None  # which has nothing to do then, but takes seconds to import, and a share of each step
        if place.world > 1 or self.precision.lower is not None:
            self._fabric = _fabric(chosen, self.precision, self.scaler, devices, place, divide)
        self.device: torch.device = _with_index(chosen) if self._fabric is None else self._fabric.device
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        elif self.device.type == "cpu":
            keep_freed_blocks()
        self.ranks = Ranks()
        self._reasons = Reasons(place)
        if place.world > 1:
            assert self._fabric is not None
            with _without_talk():
                self._fabric.launch()
            _part_at_exit()
            self.ranks = Ranks(place.rank, place.world, _group_on_the_cpu())
            _hear_advice_once(self.device)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What the processes do together: where one fails, the others say why; warnings come from the first alone.

        Raises:
            OtherProcessError: another process has failed.
        """
        with self._reasons.told(), warnings.catch_warnings():
            if self.ranks.rank:
                warnings.simplefilter("ignore")
            yield

    def __str__(self) -> str:
        """The device and the precision, in words."""
        world = self.ranks.world
        return described(self.device, self.precision) + (f", in {world} processes" if world > 1 else "")

    def setup_model(self, model: nn.Module, networks: Sequence[nn.Module]) -> Any:
        """The model as a step calls it: on the device, under the precision, with gradients averaged over processes.

        Of several processes all get the weights and buffers of the first.

        Args:
            model: on the device. Its parameters are others from now on, where they are divided.
            networks: those parts of it whose layers are large.
        """
        if self._fabric is None:
            return model.to(self.device)
        self._networks = networks
        return self._fabric.setup_module(model)

    def setup_optimizer(self, optimizer: torch.optim.Optimizer) -> Any:
        """The optimizer of the model's parameters, as a step calls it."""
        return optimizer if self._fabric is None else self._fabric.setup_optimizers(optimizer)

    @contextmanager
    def part_of_step(self, model: Any, *, averages: bool) -> Iterator[None]:
        """Forward and backward of a part of a step, after which the processes average their gradients, or do not yet."""
        is_alone = self.ranks.world == 1 or self.shards.is_put_together
        fabric = None if averages or is_alone else self._fabric
        holds_back = nullcontext() if fabric is None else fabric.no_backward_sync(model)
        with holds_back, self.shards.within_step(averages=averages):
            yield

    def _divide(self, model: nn.Module, mesh: Any) -> nn.Module:
        for tensor in (*model.parameters(), *model.buffers()):
            distributed.broadcast(tensor.detach(), 0)
        return self.shards.divide(model, self._networks, mesh["data_parallel"])

    def backward(self, objective: Tensor) -> None:
        """Add the gradients of the objective to those of the parameters."""
        if self._fabric is None:
            objective.backward()
        else:
            self._fabric.backward(objective)

    def state_dict(self) -> dict[str, Any]:
        """What evolves here, as plain data: the scaler, where there is one, and what computes the dense layers."""
        scaler = {} if self.scaler is None else {"scaler": self.scaler.state_dict()}
        products = dense.state()
        return {**scaler, "dense": products} if products else scaler

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        dense.restore(state.get("dense", {}))


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
    return _checked(chosen)


def _of_this_process(device: torch.device, devices: int | Sequence[int], place: Place) -> torch.device:
    """The device of this process, of several of a kind.

    Raises:
        ValueError: one device for several processes, numbers of devices that are no GPUs, or a device that is not here.
    """
    if not isinstance(devices, int) and device.type != "cuda":
        raise ValueError(f"devices={list(devices)} are numbers of GPUs, but the device is {device.type!r}")
    if not isinstance(devices, int) and device.index is not None and [device.index] != list(devices):
        raise ValueError(f"device={str(device)!r} and devices={list(devices)} say different things; give one of them")
    if place.world > 1 and (device.index is not None or device.type not in ("cpu", "cuda")):
        raise ValueError(f'{place.world} processes cannot share device={str(device)!r}; give device="cuda" or device="cpu"')
    if device.type != "cuda" or (place.world == 1 and isinstance(devices, int)):
        return device
    return _checked(torch.device("cuda", place.local_rank if isinstance(devices, int) else devices[place.local_rank]))


def _with_index(device: torch.device) -> torch.device:
    """The device as a tensor on it names it: cuda is cuda:0."""
    return torch.device(device.type, device.index or 0) if device.type in ("cuda", "mps") else device


def _checked(device: torch.device) -> torch.device:
    try:
        torch.zeros(1, device=device).tolist()  # on "meta" it can be made, and not read
    except Exception as error:  # every kind of device has its own way of not being there
        raise _not_here(device, error) from error
    return device


def _not_here(device: torch.device, error: Exception) -> ValueError:
    return ValueError(f"there is no device {str(device)!r} here ({error}); `vaekit doctor` lists what there is")


def _fabric(
    device: torch.device,
    precision: Precision,
    scaler: Scaler | None,
    devices: int | Sequence[int],
    place: Place,
    divide: Callable[[nn.Module, Any], nn.Module] | None,
) -> Fabric:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # imports of its own that warn of themselves
        from lightning_fabric import Fabric
        from lightning_fabric.plugins import MixedPrecision
        from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy
        from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    class LeavesData(MixedPrecision):
        """Autocast without Fabric's conversion of inputs, which rounds a count of 1001 to 1000 before the model sees it."""

        def convert_input(self, data: Any) -> Any:
            return data

        def convert_output(self, data: Any) -> Any:
            return data

    plugins: list[Any] = []
    if precision.lower is not None:
        plugins.append(LeavesData("16-mixed" if scaler else "bf16-mixed", device.type, scaler))
    options: dict[str, Any] = {"devices": 1 if device.type == "cpu" else [device.index or 0]}
    if place.world > 1:
        plugins.append(TorchElasticEnvironment())
        numbers = list(range(place.local_world)) if isinstance(devices, int) else list(devices)
        backend, of_all = ("nccl", numbers) if device.type == "cuda" else ("gloo", place.local_world)
        # Which parameters an objective leaves out may change from step to step.
        strategy: Any = DDPStrategy(process_group_backend=backend, find_unused_parameters=True)
        if divide is not None:
            strategy = ModelParallelStrategy(
                divide, data_parallel_size=place.world, tensor_parallel_size=1, process_group_backend=backend
            )
        options = {"devices": of_all, "num_nodes": place.machines, "strategy": strategy}
    try:
        return Fabric(accelerator=device.type, plugins=plugins or None, **options)
    except Exception as error:
        raise _not_here(device, error) from error


@contextmanager
def _without_talk() -> Iterator[None]:
    """Fabric says on standard error who has joined."""
    logger = logging.getLogger("lightning_fabric")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


class _FromInside(torch.autograd.Function):
    """Calls a function from within PyTorch, whose warnings then are Python's and not written to standard error."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[], None]) -> Tensor:
        with torch.enable_grad():
            function()
        return x


@cache
def _hear_advice_once(device: torch.device) -> None:
    """PyTorch advises each process once to turn off what finds unused parameters, if there are none: now, and silently."""
    model = nn.parallel.DistributedDataParallel(nn.Linear(1, 1).to(device), find_unused_parameters=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        applied(_FromInside, torch.zeros(1, 1, device=device), lambda: model(torch.zeros(1, 1, device=device)))


@cache
def _part_at_exit() -> None:
    """End what connects the processes before the interpreter ends: threads of gloo that are left to it can abort the process."""
    atexit.register(_part)


def _part() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()  # a group that is held in a cycle ends its threads when that goes


def _group_on_the_cpu() -> Any:
    """A group of all processes that communicates on the CPU; None if the default one does."""
    return None if "gloo" in distributed.get_backend() else distributed.new_group(backend="gloo")

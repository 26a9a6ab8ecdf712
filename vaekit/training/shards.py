"""A model whose weights are divided among the processes of a run, by PyTorch's `fully_shard`, and put together at times.

S. Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2019, arXiv:1910.02054, stage 3;
Y. Zhao et al., "PyTorch FSDP", 2023, arXiv:2304.11277. It is divided within the steps. Whatever else looks at it, validation,
files, callbacks, sees all of it, in every process: the same object as before, with the same parameters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, distributed, nn
from torch.utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor  # imported where it is used: that takes half as long as importing torch

UNIT = 2**16  # weights, from which on a layer is put together by itself, just before it is needed
_HOOKS = "_hooks"  # in the names of the dictionaries in which a module keeps them


def is_part(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is one that is divided among processes."""
    module = sys.modules.get("torch.distributed.tensor")  # without which there is none
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor that may be divided; in the same memory."""
    return tensor.to_local() if is_part(tensor) else tensor


@torch.no_grad()
def assign(tensor: Tensor, value: Tensor) -> None:
    """Give a tensor that may be divided the values of a whole one, of which each process takes its part.

    Example:
        >>> zeros = torch.zeros(2)
        >>> assign(zeros, torch.ones(2))
        >>> zeros
        tensor([1., 1.])
    """
    local(tensor).copy_(local(_divided(value.to(tensor.device), tensor)))


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be divided; every process has to ask for it."""
    if not is_part(tensor):
        return tensor.detach()
    gathered: Tensor = tensor.full_tensor().detach()
    return gathered


def norm(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all of them together, as `torch.nn.utils.get_total_norm` has it; every process has to ask for it.

    Example:
        >>> norm([torch.tensor([3.0]), torch.tensor([4.0])])
        tensor(5.)
    """
    if not any(map(is_part, gradients)):
        return torch.nn.utils.get_total_norm(gradients)
    # Squared in double precision, whose range holds the square of any single one.
    square = local(gradients[0]).new_zeros((), dtype=torch.float64)
    if divided := [local(one) for one in gradients if one.ndim]:
        square = torch.nn.utils.get_total_norm(divided).double().square()
        distributed.all_reduce(square)
    if scalars := [local(one) for one in gradients if not one.ndim]:  # of which every process has all
        square = square + torch.nn.utils.get_total_norm(scalars).double().square()
    return square.sqrt().to(gradients[0].dtype)


@dataclass(frozen=True)
class _Weight:
    """A parameter of the model in its two forms.

    Attributes:
        module, name: where it is.
        whole: the parameter that the model had; without memory while the model is divided.
        part: what takes its place meanwhile.
    """

    module: nn.Module
    name: str
    whole: nn.Parameter
    part: nn.Parameter

    @property
    def is_scalar(self) -> bool:
        """Whether it has no axis by which it could be divided: every process has it."""
        return self.part.ndim == 0


class Shards:
    """The weights of a run's model. Until `divide` is called, every process holds all of them, and nothing here does anything.

    Attributes:
        is_divided: whether the model's parameters are parts at the moment.
    """

    def __init__(self) -> None:
        self.is_divided = False
        self._weights: list[_Weight] = []
        self._clothes: list[_Clothes] = []
        self._buffers: list[tuple[nn.Module, str]] = []
        self._is_in_step = False
        self._handles: list[RemovableHandle] = []

    @property
    def is_put_together(self) -> bool:
        """Whether the model is whole at the moment, and divided at others."""
        return bool(self._weights) and not self.is_divided

    def divide(self, model: nn.Module, networks: Sequence[nn.Module], mesh: Any) -> nn.Module:
        """Divide the weights among the processes of a mesh, and return the model.

        Large layers of the networks are put together one after the other, within a step; everything else at once.

        Args:
            model: called in every step; its parameters and buffers are on the device, and the same in all processes.
            networks: parts of it.
            mesh: the device mesh of the processes.
        """
        from torch.distributed.fsdp import fully_shard

        places = [(m, name, p) for m in model.modules() for name, p in m._parameters.items() if p is not None]
        self._buffers = [(m, name) for m in model.modules() for name, b in m._buffers.items() if b is not None]
        scalars = {p for _, _, p in places if p.ndim == 0}
        self._clothes = [_Clothes(m) for m in model.modules()]
        for layer in [*_large_layers(networks), model]:
            fully_shard(layer, mesh=mesh, ignored_params=scalars)
        for clothes in self._clothes:
            clothes.remember()
        for module, name, parameter in places:
            if parameter.ndim == 0:
                copy = _in_every_process(parameter.detach(), mesh)
                module._parameters[name] = nn.Parameter(copy, requires_grad=parameter.requires_grad)
            part = module._parameters[name]
            assert part is not None
            self._weights.append(_Weight(module, name, parameter, part))
        self._handles = [network.register_forward_pre_hook(self._check) for network in networks]
        self.is_divided = True
        self._let_go()
        return model

    @contextmanager
    def within_step(self, *, averages: bool) -> Iterator[None]:
        """Forward and backward of a part of a step, after which the processes average their gradients, or do not yet."""
        if not self.is_divided:
            yield
            return
        scalars = [weight for weight in self._weights if weight.is_scalar]
        for module, name in self._buffers:  # those of the first count, as without division
            distributed.broadcast(getattr(module, name), 0)
        for weight in scalars:
            weight.module._parameters[weight.name] = weight.whole
        self._is_in_step = True
        try:
            yield
        finally:
            self._is_in_step = False
            for weight in scalars:
                weight.module._parameters[weight.name] = weight.part
        for weight in scalars if averages else ():
            if (gradient := weight.whole.grad) is not None:
                distributed.all_reduce(gradient)
                part: Any = weight.part
                average = gradient / distributed.get_world_size()
                weight.part.grad = _in_every_process(average, part.device_mesh)
                weight.whole.grad = None

    def put_together(self) -> None:
        """The whole model in every process, until it is taken apart again. Every process has to do this at the same time."""
        if not self.is_divided:
            return
        for clothes in self._clothes:
            clothes.reshard()
        tensors = [whole(weight.part) for weight in self._weights]
        for weight, tensor in zip(self._weights, tensors, strict=True):
            weight.whole.data, weight.whole.grad = tensor, None
            weight.whole.requires_grad_(weight.part.requires_grad)
            weight.module._parameters[weight.name] = weight.whole
        for clothes in self._clothes:
            clothes.take_off()
        self.is_divided = False

    def take_apart(self) -> None:
        """The parts in the place of the whole model, with what has been done to it meanwhile."""
        if self.is_divided or not self._weights:
            return
        for weight in self._weights:
            assign(weight.part, weight.whole.detach())
            weight.part.requires_grad_(weight.whole.requires_grad)
            weight.module._parameters[weight.name] = weight.part
        self.is_divided = True
        self._let_go()
        for clothes in self._clothes:
            clothes.put_on()

    @contextmanager
    def ended(self) -> Iterator[None]:
        """The model is afterwards what it was before it was divided, whatever happens here."""
        try:
            yield
        finally:
            self.end()

    def end(self) -> None:
        """The model is what it was before it was divided. If it is divided still, its weights are gone, and on no device."""
        for weight in self._weights if self.is_divided else ():
            gone = torch.empty(weight.part.shape, dtype=weight.part.dtype, device="meta")
            weight.module._parameters[weight.name] = nn.Parameter(gone, requires_grad=weight.part.requires_grad)
        for clothes in self._clothes:
            clothes.take_off()
            clothes.forget()
        for handle in self._handles:
            handle.remove()
        self.is_divided, self._weights, self._clothes = False, [], []

    def gathered(self, state: Any) -> Any:
        """A state of plain data, with every tensor in it whole: on the CPU in the first process, None in the others.

        Every process has to do this at the same time.
        """
        if not self._weights:
            return state
        is_first = distributed.get_rank() == 0
        return _each_tensor(state, lambda tensor: found.cpu() if (found := whole(tensor)) is not None and is_first else None)

    def divided(self, state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The state of an optimizer, as `gathered` gave it, for one of the weights' parts."""
        if not self._weights:
            return state
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        of_each = state["state"].items()
        tensors = [(n, name, v) for n, own in of_each for name, v in own.items() if isinstance(v, Tensor)]
        counts = {name for number, name, value in tensors if parameters[number].ndim and not value.ndim}  # of steps, for example
        own = {
            number: {name: v if name in counts else _like(v, parameters[number]) for name, v in values.items()}
            for number, values in of_each
        }
        return {**state, "state": own}

    def _check(self, network: nn.Module, given: Any) -> None:
        """Refuse a call for which the other processes would have to do the same."""
        if self.is_divided and not self._is_in_step:
            raise RuntimeError(
                'with strategy="fsdp" the weights are divided among the processes until the end of the epoch, and the model '
                "cannot be called; do it in on_epoch_end, where it is whole"
            )

    def _let_go(self) -> None:
        """Of the memory of the whole weights."""
        for weight in self._weights:
            weight.whole.grad = None
            weight.whole.data = local(weight.part.detach()) if weight.is_scalar else weight.whole.data.new_empty(0)


class _Clothes:
    """What `fully_shard` puts on a module, its class, hooks and attributes: taken off and put on again."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._class, self._attributes = module, type(module), set(vars(module))
        self._divided_class = self._class
        self._added: set[str] = set()
        self._hooks: list[tuple[dict[int, Any], int, Any]] = []

    def remember(self) -> None:
        """The module has been dressed."""
        self._divided_class, self._added = type(self._module), set(vars(self._module)) - self._attributes

    def reshard(self) -> None:
        """Let go of the weights that the module may have put together."""
        if self._divided_class is not self._class:
            module: Any = self._module
            module.reshard()

    def take_off(self) -> None:
        self._module.__class__ = self._class
        for name, hooks in vars(self._module).items():
            if name.endswith(_HOOKS) and isinstance(hooks, dict):
                for number in [number for number, hook in hooks.items() if _is_of_torch(hook)]:
                    self._hooks.append((hooks, number, hooks.pop(number)))

    def put_on(self) -> None:
        self._module.__class__ = self._divided_class
        for hooks, number, hook in self._hooks:
            hooks[number] = hook
            hooks.move_to_end(number, last=False)  # type: ignore[attr-defined]
        self._hooks = []

    def forget(self) -> None:
        for name in self._added:
            vars(self._module).pop(name, None)
        for _, number, _ in self._hooks:
            self._module._forward_pre_hooks_with_kwargs.pop(number, None)
        # PyTorch has no way back, and refuses to divide a module twice, as a second fit would.
        from torch.distributed import _composable_state

        vars(_composable_state)["_module_state_mapping"].pop(self._module, None)


def _is_of_torch(hook: Any) -> bool:
    """Whether `fully_shard` has registered it."""
    return str(getattr(getattr(hook, "hook", hook), "__module__", "")).startswith("torch.distributed.fsdp")


def _large_layers(networks: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """The layers in a row that are worth being put together by themselves.

    PyTorch's and vaekit's own, which take and give tensors: of a module that gives something else, a posterior for example,
    `fully_shard` would not know when its gradients are computed.
    """
    rows = [module for network in networks for module in network.modules() if isinstance(module, nn.Sequential)]
    for layer in dict.fromkeys(layer for row in rows for layer in row):
        is_known = type(layer).__module__.partition(".")[0] in ("torch", "vaekit") and not isinstance(layer, nn.Sequential)
        if is_known and sum(parameter.numel() for parameter in layer.parameters()) >= UNIT:
            yield layer


def _divided(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process has, as the parts of one that is divided."""
    if not is_part(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def _like(value: Any, parameter: Tensor) -> Any:
    """What an optimizer keeps of a parameter, divided as that is where it has the same shape, and whole otherwise."""
    if not isinstance(value, Tensor) or not is_part(parameter):
        return value
    value = value.to(parameter.device)
    if value.shape == parameter.shape:
        return _divided(value, parameter)
    return _in_every_process(value, parameter.device_mesh)


def _in_every_process(value: Tensor, mesh: Any) -> DTensor:
    """A tensor of which every process has all."""
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(value, mesh, [Replicate()], run_check=False)


def _each_tensor(value: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _each_tensor(one, change) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_each_tensor(one, change) for one in value)
    return value

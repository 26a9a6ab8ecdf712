"""Weights drawn from a seed, without touching torch's global generators: those belong to the whole process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from vaekit.ops import philox

_DRAWS = {
    *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli, torch.multinomial, torch.poisson),
    *(torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.random_, torch.Tensor.bernoulli_, torch.Tensor.exponential_),
    *(torch.Tensor.geometric_, torch.Tensor.cauchy_, torch.Tensor.log_normal_, torch.Tensor.bernoulli, torch.Tensor.multinomial),
    *(f for f in vars(torch.nn.init).values() if inspect.isfunction(f) and "generator" in inspect.signature(f).parameters),
}


class _OwnGenerators(TorchFunctionMode):
    """Gives what draws in this thread a generator of our own, one for each device, all of one seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _DRAWS and kwargs.get("generator") is None:
            tensor = next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)), None)
            device = torch.device(kwargs.get("device") or torch.get_default_device()) if tensor is None else tensor.device
            if device.type != "meta":  # which draws nothing
                kwargs["generator"] = self._generator(device)
        return func(*args, **kwargs)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device)
            self.generators[device].manual_seed(self.seed)
        return self.generators[device]


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """What is drawn in this thread comes from generators of this seed; the numbers are those that torch.manual_seed(seed) gives.

    Raises:
        TypeError, ValueError: a seed that is not a whole number of 64 bits.

    Example:
        >>> with drawing_from(0):
        ...     drawn = torch.nn.Linear(2, 1).weight
        >>> _ = torch.manual_seed(0)
        >>> torch.equal(drawn, torch.nn.Linear(2, 1).weight)
        True
    """
    philox.make_key(seed)  # which refuses what is not a whole number of 64 bits
    with _OwnGenerators(seed):
        yield

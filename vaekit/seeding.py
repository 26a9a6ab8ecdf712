"""Weights drawn from a seed without the global generators, which belong to the whole process; a run borrows those."""

from __future__ import annotations

import inspect
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vaekit.ops import philox, streams

_DRAWS = {
    *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli, torch.multinomial, torch.poisson),
    *(torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.random_, torch.Tensor.bernoulli_, torch.Tensor.exponential_),
    *(torch.Tensor.geometric_, torch.Tensor.cauchy_, torch.Tensor.log_normal_, torch.Tensor.bernoulli, torch.Tensor.multinomial),
    *(f for f in vars(torch.nn.init).values() if inspect.isfunction(f) and "generator" in inspect.signature(f).parameters),
}


_WITHOUT_GENERATOR = {  # or in some versions of torch without: these draw from the global generator, which is lent to them
    *(torch.rand_like, torch.randn_like, torch.randint_like, torch.dropout, torch.dropout_, torch.binomial),
    *(torch.rrelu, torch.rrelu_),
    *(getattr(torch, name) for name in ("_standard_gamma", "_sample_dirichlet") if hasattr(torch, name)),  # torch.distributions'
    *(torch.alpha_dropout, torch.feature_dropout, torch.feature_alpha_dropout),
    *(f for name, f in vars(torch.nn.functional).items() if inspect.isfunction(f) and ("dropout" in name or "rrelu" in name)),
    torch.nn.functional.gumbel_softmax,
}
_lending = threading.Lock()


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
        draws, asks = func in _DRAWS, func in _WITHOUT_GENERATOR
        if not (draws or asks) or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        tensor = next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)), None)
        device = torch.device(kwargs.get("device") or (torch.get_default_device() if tensor is None else tensor.device))
        if device.type == "meta":  # which draws nothing
            return func(*args, **kwargs)
        device = torch.empty(0, device=device).device  # "cuda" and "cuda:0" are one
        if draws:
            return func(*args, **{**kwargs, "generator": self._generator(device)})
        with _lent(self._generator(device)):
            return func(*args, **kwargs)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device)
            self.generators[device].manual_seed(self.seed)
        return self.generators[device]


@contextmanager
def _lent(generator: torch.Generator) -> Iterator[None]:
    """The global generator of the generator's device goes on from its state for a while, and then from its own again."""
    index = generator.device.index or 0
    shared = torch.cuda.default_generators[index] if generator.device.type == "cuda" else torch.default_generator
    with _lending:
        before = shared.get_state()
        shared.set_state(generator.get_state())
        try:
            yield
        finally:
            generator.set_state(shared.get_state())
            shared.set_state(before)


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """What is drawn in this thread comes from generators of this seed; the numbers are those that torch.manual_seed(seed) gives.

    Functions that take no generator, dropout for example, are lent the global one: another thread that draws at that very moment
    would share it.

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


class Seeds(NamedTuple):
    """Of the global generators: torch's on every device, Python's and NumPy's."""

    torch: int
    python: int
    numpy: int


def seeds_of(keys: Tensor) -> list[Seeds]:
    """The seeds that keys, int64 [N, 2], stand for.

    NumPy's and torch's generators are one algorithm, Mersenne Twister: the same seed for both would give both the same numbers.
    """
    words = [philox.fold_in(keys, number)[:, 0].tolist() for number in (streams.Generators.PYTHON, streams.Generators.NUMPY)]
    return [Seeds(*each) for each in zip(keys[:, 0].tolist(), *words, strict=True)]


@contextmanager
def own_generators(device: torch.device) -> Iterator[None]:
    """The global generators of torch (the CPU's and the device's), Python and NumPy are afterwards as they were before."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def reseed(device: torch.device, seeds: Seeds) -> None:
    """Seed those global generators, from which layers such as dropout draw, and loaders that shuffle and augment."""
    torch.default_generator.manual_seed(seeds.torch)  # torch.manual_seed would reseed every device
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seeds.torch)
    elif device.type == "mps":
        torch.mps.manual_seed(seeds.torch)
    random.seed(seeds.python)
    with suppress(TypeError):  # a bit generator that its owner has put into the place of NumPy's own, and seeds
        np.random.seed(seeds.numpy & 0xFFFFFFFF)

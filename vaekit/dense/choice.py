"""Which library computes the products of a dense layer: measured once for a shape, then fixed.

A decision is a function of the machine and the shape, and of nothing else: not of how often the layer was called, nor of whether
gradients are wanted. Otherwise a run that is resumed, or a model that is loaded, would compute other last digits than before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.dense import onednn, record

# Multiplications in a product. Below, even twice the speed would not pay for a Python function in autograd.
LEAST_WORK = 4_000_000
# Above so many rows both libraries are as fast as they get, and measuring would take long.
MOST_ROWS = 256

_CLEARLY = 1.1  # times as fast: what repeated measurements differ by at most, on a busy machine too
_OVERHEAD = 40e-6  # seconds: of an autograd function in Python beside torch's own, forward and backward, several times over
_BUDGET = 0.05  # seconds that measuring a shape may take, once each product has been timed a few times
_ROUNDS = range(3, 20)
_SHOWN = 5  # shapes that `vaekit doctor` says more of

Seconds = Mapping[str, tuple[float, float]]  # for each product, by the names of `Products`: by torch, by oneDNN


class Products(NamedTuple):
    """Which of a dense layer's products oneDNN computes; torch's `linear` and `mm` the others.

    Attributes:
        forward: y = x W' + b.
        grad_input: of x, g W.
        grad_weight: of W, g' x.
    """

    forward: bool = False
    grad_input: bool = False
    grad_weight: bool = False

    def __str__(self) -> str:
        named = [name for name, is_chosen in self._asdict().items() if is_chosen]
        return f"oneDNN: {', '.join(named)}" if named else "torch"


PLAIN = Products()


class Shape(NamedTuple):
    """What a decision is taken for.

    Attributes:
        threads: of torch.
        rows: of x, rounded up to a power of two.
        features_in, features_out: of the layer.
    """

    threads: int
    rows: int
    features_in: int
    features_out: int

    @property
    def name(self) -> str:
        """In a checkpoint."""
        return "-".join(map(str, self))

    @property
    def without_threads(self) -> str:
        """In a file's name: what the measurements are of."""
        return "-".join(map(str, self[1:]))

    @classmethod
    def named(cls, name: str) -> Shape:
        """The one that `name` stands for.

        Raises:
            ValueError: it stands for none.
        """
        return cls(*map(int, name.split("-", 3)))

    def __str__(self) -> str:
        return f"{self.rows} x {self.features_in} to {self.features_out}, threads: {self.threads}"


_decided: dict[Shape, Products] = {}
_forced: Products | None = None


def shape_of(rows: int, features_in: int, features_out: int) -> Shape:
    """The shape of a layer that is called with so many rows, at torch's present number of threads.

    Example:
        >>> [shape_of(rows, 784, 2000).rows for rows in (1, 2, 3, 64, 65, 5000)]
        [1, 2, 4, 64, 128, 256]
    """
    return Shape(torch.get_num_threads(), min(1 << (rows - 1).bit_length(), MOST_ROWS), features_in, features_out)


def is_small(inputs: int, features_out: int) -> bool:
    """Whether a layer with so many numbers as inputs, in all rows, is too small for a decision."""
    return inputs * features_out < (LEAST_WORK if _forced is None else 1)


def chosen(rows: int, weight: Tensor) -> Products:
    """The decision for a layer's weight [O, I] and rows of inputs; measures it where this machine has none yet.

    To be called where `onednn.is_free()`.
    """
    if _forced is not None:
        return PLAIN if onednn.obstacle() else _forced
    features_out, features_in = weight.shape
    if is_small(rows * features_in, features_out) or onednn.obstacle():
        return PLAIN
    shape = shape_of(rows, features_in, features_out)
    if (known := _decided.get(shape)) is None:
        known = _decided[shape] = _of_this_machine(shape, weight)
    return known


def _of_this_machine(shape: Shape, weight: Tensor) -> Products:
    seconds = _kept(shape)
    if seconds is None:
        seconds = measured(shape, weight.detach())
        times = {name: {"torch": own, "oneDNN": other} for name, (own, other) in seconds.items()}
        record.keep(shape.without_threads, {"seconds": times})
        seconds = _kept(shape) or seconds  # which may be another process's, that was first
    return decided(seconds, shape.threads)


def _kept(shape: Shape) -> Seconds | None:
    try:
        times = (record.read(shape.without_threads) or {})["seconds"]
        return {name: (float(times[name]["torch"]), float(times[name]["oneDNN"])) for name in Products._fields}
    except (KeyError, TypeError, ValueError):  # there is none, or something else in its place
        return None


def decided(seconds: Seconds, threads: int) -> Products:
    """The products that oneDNN computes: none, if those that it computes clearly faster do not pay for the detour.

    If they do, it computes all but those where torch is clearly faster: in a training step what lies between is slower with both
    libraries at work in a layer than with one.

    Args:
        seconds: of one thread.
        threads: that share them.

    Example:
        >>> large = {"forward": (2.6e-3, 2.3e-3), "grad_input": (3.0e-3, 2.1e-3), "grad_weight": (2.5e-3, 2.9e-3)}
        >>> str(decided(large, threads=2))
        'oneDNN: forward, grad_input'
        >>> str(decided({**large, "grad_weight": (2.5e-3, 2.5e-3)}, threads=2))
        'oneDNN: forward, grad_input, grad_weight'
        >>> small = {"forward": (60e-6, 40e-6), "grad_input": (60e-6, 55e-6), "grad_weight": (60e-6, 70e-6)}
        >>> str(decided(small, threads=2))
        'torch'
    """
    faster = Products(**{name: own >= _CLEARLY * other for name, (own, other) in seconds.items()})
    no_slower = Products(**{name: other < _CLEARLY * own for name, (own, other) in seconds.items()})
    if _saved(seconds, faster) < _OVERHEAD * threads:
        return PLAIN
    return no_slower if _saved(seconds, no_slower) >= _OVERHEAD * threads else faster


def _saved(seconds: Seconds, products: Products) -> float:
    return sum(own - other for name, (own, other) in seconds.items() if getattr(products, name))


def measured(shape: Shape, weight: Tensor) -> Seconds:
    """The processor time of each product in one thread, by torch and by oneDNN in turn, the shortest of several.

    In one thread, and its own clock: several wait for each other where the machine is busy, by turns so long that the times say
    nothing. They share a product evenly, by either library. The number of threads is set in a thread of its own, as it is a
    thread's own; the caller's stays.
    """
    with ThreadPoolExecutor(1) as beside:
        return beside.submit(_measured_in_one_thread, shape, weight).result()


def _measured_in_one_thread(shape: Shape, weight: Tensor) -> Seconds:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return _timed_in_turn(_contenders(shape, weight))
    finally:
        torch.set_num_threads(threads)  # which threads that begin later take


def _contenders(shape: Shape, weight: Tensor) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]:
    x, grad = torch.ones(shape.rows, shape.features_in), torch.ones(shape.rows, shape.features_out)
    bias = torch.ones(shape.features_out)
    return {
        "forward": (lambda: F.linear(x, weight, bias), lambda: onednn.product(x, weight, bias)),
        "grad_input": (lambda: grad @ weight, lambda: onednn.product(grad, weight.t())),
        "grad_weight": (lambda: grad.t() @ x, lambda: onednn.product(grad.t(), x.t())),
    }


def _timed_in_turn(contenders: Mapping[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]) -> Seconds:
    for both in contenders.values():
        for work in both:
            work()  # the first call makes a plan
    best = dict.fromkeys(contenders, (math.inf, math.inf))
    started = time.perf_counter()
    for number in range(_ROUNDS.stop):
        if number >= _ROUNDS.start and time.perf_counter() - started > _BUDGET:
            break
        for name, (own, other) in contenders.items():
            best[name] = min(best[name][0], _timed(own)), min(best[name][1], _timed(other))
    return best


# On some systems it ticks too slowly for this.
_clock = time.thread_time if time.get_clock_info("thread_time").resolution <= 1e-6 else time.perf_counter


def _timed(work: Callable[[], Tensor]) -> float:
    started = _clock()
    work()
    return _clock() - started


@contextmanager
def forced(products: Products) -> Iterator[None]:
    """Within it, every layer that could takes these, whatever its size and whatever was measured: to test and to time them."""
    global _forced
    earlier, _forced = _forced, products
    try:
        yield
    finally:
        _forced = earlier


def state() -> dict[str, Any]:
    """The decisions of this process, as plain data: with them another one computes the same last digits."""
    decisions = {shape.name: list(products) for shape, products in sorted(_decided.items())}
    return {"machine": record.name(), "decisions": decisions} if decisions else {}


def restore(kept: Mapping[str, Any]) -> None:
    """Take the decisions that `state` gave in another process, if this machine is one like it."""
    if kept and kept["machine"] == record.name():
        _decided.update({Shape.named(name): Products(*each) for name, each in kept["decisions"].items()})


def described() -> dict[str, str]:
    """What the dense layers use here and why, in words, and what was measured of the shapes where oneDNN saves most."""
    if reason := onednn.obstacle():
        return {"dense layers": f"torch ({reason})"}
    threads, measurements = torch.get_num_threads(), dict(_all_kept())
    decisions = {shape: decided(seconds, threads) for shape, seconds in measurements.items()}
    by_onednn = [shape for shape, decision in decisions.items() if any(decision)]
    by_onednn.sort(key=lambda shape: -_saved(measurements[shape], decisions[shape]))
    found = {
        "dense layers": "torch or oneDNN, whichever was faster when a shape was first met here; shapes measured: "
        f"{len(decisions)}, with a product by oneDNN: {len(by_onednn)}; kept in {record.folder()}"
    }
    for shape in by_onednn[:_SHOWN]:
        times = (f"{name} {1e6 * own:.0f} and {1e6 * other:.0f} us" for name, (own, other) in measurements[shape].items())
        found[str(shape)] = f"{decisions[shape]}; torch and oneDNN in one thread: {', '.join(times)}"
    return found


def _all_kept() -> Iterator[tuple[Shape, Seconds]]:
    """What is kept of this machine, for the present number of threads."""
    for name in record.shapes():
        try:
            shape = Shape.named(f"{torch.get_num_threads()}-{name}")
        except (ValueError, TypeError):  # another's file
            continue
        if (seconds := _kept(shape)) is not None:
            yield shape, seconds

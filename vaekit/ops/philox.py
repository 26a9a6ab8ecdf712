"""The noise: a pure function of a key, in plain PyTorch.

Philox4x32-10 from J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011, and normals by G. E. P. Box and M. E. Muller, "A note on the generation of random normal deviates", 1958.
The stream is the one of PyTorch's stateless `torch.func._random.normal`, so that PyTorch is an independent check.

A **key** is an int64 tensor (..., 2), (seed, offset), whose bits are read as unsigned. PyTorch has little arithmetic on
unsigned tensors, so a 32-bit word lives in the low half of an int64; a 64-bit product wraps, which leaves its low 64 bits
right, and a mask after the arithmetic shift removes the copied sign.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57  # Random123, philox.h
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85  # Random123, philox.h: the key's increment from round to round
_ROUNDS = 10

SAMPLE_STRIDE = 1 << 40  # offset between the streams of two samples of one call


def make_key(seed: int, offset: int = 0, *, device: torch.device | str | None = None) -> Tensor:
    """The key of the noise stream (seed, offset).

    Args:
        seed, offset: integers in [-2^63, 2^64), read modulo 2^64.
        device: where the noise will be drawn.

    Returns:
        int64 [2].

    Raises:
        TypeError: not an integer.
        ValueError: an integer that 64 bits do not hold.

    Example:
        >>> make_key(0, 1)
        tensor([0, 1])
    """
    words = []
    for name, value in (("seed", seed), ("offset", offset)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} has to be a whole number, got {value!r}")
        if not -(1 << 63) <= value < 1 << 64:
            raise ValueError(f"{name} has to fit in 64 bits, got {value}")
        words.append(value - (1 << 64) if value >= 1 << 63 else value)
    return torch.tensor(words, dtype=torch.int64, device=device)


def draw_key(generator: torch.Generator | None, device: torch.device) -> Tensor:
    """A fresh key, int64 [2], from `generator` or, without one, from the device's global generator."""
    low, high = -(1 << 63), (1 << 63) - 1
    if generator is None:  # torch.compile traces randint only without a generator argument
        return torch.randint(low, high, (2,), dtype=torch.int64, device=device)
    return torch.randint(low, high, (2,), dtype=torch.int64, device=device, generator=generator)


def fold_in(key: Tensor, data: int | Tensor) -> Tensor:
    """The key derived from `key` for the number `data`, as PyTorch's `fold_in` and in the spirit of JAX's.

    With x0..x3 the Philox words at (seed, offset + data) the new key is (x0 | x1 << 32, x2 | x3 << 32).

    Args:
        key: int64 [..., 2].
        data: an integer, or an int64 tensor [*S], which gives one key for each number.

    Returns:
        int64 [..., 2], or [*S, 2] for a key [2].

    Example:
        >>> fold_in(make_key(42), torch.arange(3)).shape
        torch.Size([3, 2])
    """
    x0, x1, x2, x3 = words(key[..., 0], key[..., 1] + data)
    return torch.stack((x0 | x1 << 32, x2 | x3 << 32), dim=-1)


def words(seed: Tensor, counter: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four 32-bit words of Philox4x32-10 for key `seed` and counter (low, high, 0, 0) of `counter`.

    Args:
        seed: int64, broadcastable to `counter`; its bits are the 64-bit key.
        counter: int64 [*S].

    Returns:
        Four int64 tensors [*S] with values in [0, 2^32).

    Example:
        >>> [hex(int(x)) for x in words(torch.tensor(0), torch.tensor(0))]  # Random123's own test vector
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    seed, counter = torch.broadcast_tensors(seed, counter) if seed.ndim else (seed, counter)
    rounds = torch.arange(_ROUNDS, dtype=torch.int64, device=seed.device)
    keys_0 = (((seed & _LOW).unsqueeze(-1) + rounds * _WEYL_0) & _LOW).unbind(-1)
    keys_1 = (((seed >> 32 & _LOW).unsqueeze(-1) + rounds * _WEYL_1) & _LOW).unbind(-1)
    x0, x1 = counter & _LOW, counter >> 32 & _LOW
    x2 = x3 = torch.zeros_like(x0)
    for key_0, key_1 in zip(keys_0, keys_1, strict=True):
        product_0, product_1 = x0 * _MULTIPLIER_0, x2 * _MULTIPLIER_1
        x0 = (product_1 >> 32).bitwise_and_(_LOW).bitwise_xor_(x1).bitwise_xor_(key_0)
        x2 = (product_0 >> 32).bitwise_and_(_LOW).bitwise_xor_(x3).bitwise_xor_(key_1)
        x1, x3 = product_1.bitwise_and_(_LOW), product_0.bitwise_and_(_LOW)
    return x0, x1, x2, x3


def normal(key: Tensor, shape: Sequence[int], dtype: torch.dtype, start: int = 0) -> Tensor:
    """Standard normal noise: elements start, start + 1, ... of the stream of `key`, row-major in `shape`.

    Args:
        key: int64 [*K, 2].
        shape: the shape of one draw.
        dtype: float32 (four values from a Philox block) or float64 (two).
        start: the first element's position in the stream.

    Returns:
        `dtype` [*K, *shape].

    Example:
        >>> normal(make_key(0), (4,), torch.float32)
        tensor([ 0.9911, -0.9247, -0.6176, -0.4821])
    """
    radius, angle = _uniform_pairs(key, shape, dtype, start)
    radius = (-2.0 * radius.log()).sqrt_()
    cos, sin = _cos_sin_turns(angle)
    return _in_stream_order(torch.stack((radius * cos, radius * sin), dim=-1), key, shape, dtype, start)


def uniform(key: Tensor, shape: Sequence[int], dtype: torch.dtype, start: int = 0) -> Tensor:
    """Uniform noise in (0, 1]: the u from which `normal` makes its values, in the same order; arguments as there.

    Example:
        >>> bool((uniform(make_key(0), (1000,), torch.float32) <= 1).all())
        True
    """
    pairs = torch.stack(_uniform_pairs(key, shape, dtype, start), dim=-1)
    return _in_stream_order(pairs, key, shape, dtype, start)


def _values_per_block(dtype: torch.dtype) -> int:
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"noise is drawn in float32 or float64, not {dtype}")
    return 2 if dtype == torch.float64 else 4


def _uniform_pairs(key: Tensor, shape: Sequence[int], dtype: torch.dtype, start: int) -> tuple[Tensor, Tensor]:
    """The uniforms of every block that the draw touches, as first and second of a pair: each [*K, blocks, pairs]."""
    per_block, count = _values_per_block(dtype), math.prod(shape)
    first, last = start // per_block, (start + count + per_block - 1) // per_block
    blocks = torch.arange(first, last, dtype=torch.int64, device=key.device)
    x0, x1, x2, x3 = words(key[..., :1], key[..., 1:] + blocks)
    if dtype == torch.float64:
        u0, u1 = ((high << 21 | low >> 11).to(dtype) * 2**-53 + 2**-54 for high, low in ((x0, x1), (x2, x3)))
        return u0.unsqueeze(-1), u1.unsqueeze(-1)
    u0, u1, u2, u3 = (x.to(dtype) * 2**-32 + 2**-33 for x in (x0, x1, x2, x3))
    return torch.stack((u0, u2), dim=-1), torch.stack((u1, u3), dim=-1)


def _in_stream_order(pairs: Tensor, key: Tensor, shape: Sequence[int], dtype: torch.dtype, start: int) -> Tensor:
    """[*K, blocks, pairs, 2] -> [*K, *shape], from the first element that was asked for."""
    skipped, count = start % _values_per_block(dtype), math.prod(shape)
    stream = pairs.reshape(*key.shape[:-1], pairs.shape[-3] * pairs.shape[-2] * 2)
    return stream[..., skipped : skipped + count].reshape(*key.shape[:-1], *shape)


def _cos_sin_turns(turns: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi `turns`, for turns in (0, 1].

    Reduced exactly to an eighth of a turn either side of a quarter first: 2 pi u rounded to float32 is off by up to 4e-7,
    which Box-Muller's radius would multiply by up to 6.6.
    """
    quarter = (turns * 4.0).round_()
    angle = (turns - quarter * 0.25) * (2.0 * math.pi)
    cos, sin = angle.cos(), angle.sin()
    odd = (quarter == 1.0) | (quarter == 3.0)
    cos, sin = torch.where(odd, sin, cos), torch.where(odd, cos, sin)
    cos = torch.where((quarter == 1.0) | (quarter == 2.0), -cos, cos)
    sin = torch.where((quarter == 2.0) | (quarter == 3.0), -sin, sin)
    return cos, sin

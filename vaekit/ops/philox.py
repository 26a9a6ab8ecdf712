"""The noise: a pure function of a key, in plain PyTorch.

Philox4x32-10 from J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011, and normals by G. E. P. Box and M. E. Muller, "A note on the generation of random normal deviates", 1958.
The stream is the one of PyTorch's stateless `torch.func._random.normal`, so that PyTorch is an independent check.

A **key** is an int64 tensor (..., 2), (seed, offset), whose bits are read as unsigned. PyTorch has little arithmetic on
unsigned tensors, so a 32-bit word lives in the low half of an int64; a 64-bit product wraps, which leaves its low 64 bits
right, and masking after the arithmetic shift clears the copies of the sign.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.ops.operands import checked_count

_LOW = 0xFFFFFFFF
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57  # Random123, philox.h
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85  # Random123, philox.h: the key's increment from round to round
_ROUNDS = 10
_PIECE = 1 << 17  # values
_VALUES_PER_BLOCK = {torch.float32: 4, torch.float64: 2}

SAMPLE_STRIDE = 1 << 40  # offset between the streams of two samples of one call


def make_key(seed: int, offset: int = 0, *, device: torch.device | str | None = None) -> Tensor:
    """The key of the noise stream of `seed`, begun at block `offset`.

    Different seeds are different streams; offsets are places in one stream. `make_key(seed, offset + 1)` gives the noise of
    `make_key(seed, offset)` from its fifth float32 value (its third float64 value) on, so that draws at neighbouring offsets have
    nearly all their noise in common. For a draw that has nothing to do with another, derive its key with `fold_in`.

    Args:
        seed, offset: integers in [-2^63, 2^64), read modulo 2^64; the offset counts blocks of four float32 or two float64 values.
        device: where the noise will be drawn.

    Returns:
        int64 [2].

    Raises:
        TypeError: not an integer.
        ValueError: an integer that 64 bits do not hold.

    Example:
        >>> make_key(0, 1)
        tensor([0, 1])
        >>> normal(make_key(0, 1), (2,), torch.float32)  # a place in the stream of seed 0
        tensor([-0.1536,  0.1808])
        >>> normal(make_key(0), (6,), torch.float32)[4:]
        tensor([-0.1536,  0.1808])
        >>> normal(fold_in(make_key(0), 1), (2,), torch.float32)  # a stream of its own
        tensor([-1.0427,  1.2758])
    """
    words = []
    for name, value in (("seed", seed), ("offset", offset)):
        value = checked_count(name, value)
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


def resolve_key(key: Tensor | None, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """The key that was given, checked and as int64 [2], or a fresh one.

    Raises:
        TypeError: a key that is not an int64 or uint64 tensor.
        ValueError: a key of another shape or on another device; a key together with a generator.
    """
    if key is None:
        return draw_key(generator, device)
    if generator is not None:
        raise ValueError("give a key or a generator, not both: a key already fixes the noise")
    if not isinstance(key, Tensor) or key.dtype not in (torch.int64, torch.uint64):
        given = key.dtype if isinstance(key, Tensor) else type(key).__name__
        raise TypeError(f"key has to be an int64 tensor (seed, offset), got {given}; vaekit.make_key(seed) makes one")
    if tuple(key.shape) != (2,):
        raise ValueError(f"key has to have the shape (2,), (seed, offset), got {tuple(key.shape)}")
    if key.device != device:
        raise ValueError(f"key has to be on the device {device}, got {key.device}; use key.to({str(device)!r})")
    return _signed(key)


def _signed(key: Tensor) -> Tensor:
    """A key of PyTorch's own, uint64, by its bits."""
    return key.view(torch.int64) if key.dtype == torch.uint64 else key


def fold_in(key: Tensor, data: int | Tensor) -> Tensor:
    """The key derived from `key` for the number `data`: each number gives a stream of its own.

    It is PyTorch's `fold_in`, in the spirit of JAX's: one key for a run, and from it one for each step, layer or draw.
    With x0..x3 the Philox words at (seed, offset + data) the new key is (x0 | x1 << 32, x2 | x3 << 32).

    Args:
        key: int64 (or uint64) [..., 2].
        data: an integer, or an int64 tensor [*S], which gives one key for each number.

    Returns:
        int64 [..., 2], or [*S, 2] for a key [2].

    Example:
        >>> fold_in(make_key(42), torch.arange(3)).shape
        torch.Size([3, 2])
    """
    key = _signed(key)
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
    rounds = torch.arange(_ROUNDS, dtype=torch.int64, device=seed.device)
    keys_0 = ((seed & _LOW).unsqueeze(-1) + rounds * _WEYL_0).bitwise_and_(_LOW).unbind(-1)
    keys_1 = ((seed >> 32 & _LOW).unsqueeze(-1) + rounds * _WEYL_1).bitwise_and_(_LOW).unbind(-1)
    # Of x1 and x3 only the low halves matter, until the end. In the first round x2 and x3 are 0, and so is a product and then x1.
    x3 = (counter & _LOW) * _MULTIPLIER_0
    x0 = (counter >> 32).bitwise_xor_(keys_0[0]).bitwise_and_(_LOW)
    x2 = (x3 >> 32).bitwise_xor_(keys_1[0]).bitwise_and_(_LOW)
    x1 = torch.zeros_like(x3)
    for key_0, key_1 in zip(keys_0[1:], keys_1[1:], strict=True):
        product_0, product_1 = x0 * _MULTIPLIER_0, x2 * _MULTIPLIER_1
        x0 = (product_1 >> 32).bitwise_xor_(x1).bitwise_xor_(key_0).bitwise_and_(_LOW)
        x2 = (product_0 >> 32).bitwise_xor_(x3).bitwise_xor_(key_1).bitwise_and_(_LOW)
        x1, x3 = product_1, product_0
    return x0, x1 & _LOW, x2, x3 & _LOW


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
    if key.device.type == "mps":  # the one device without float64
        return normal(key.cpu(), shape, dtype, start).to(key.device)
    count = math.prod(shape)
    if key.device.type == "cpu" and not torch.compiler.is_compiling():
        # The hundred passes over the words stay in the cache. As many pieces for each thread: PyTorch splits from 2^15 words on.
        piece = _PIECE * torch.get_num_threads()
        if count > piece:
            pieces = [_normal(key, (min(piece, count - i),), dtype, start + i) for i in range(0, count, piece)]
            return torch.cat(pieces, dim=-1).reshape(*key.shape[:-1], *shape)
    return _normal(key, shape, dtype, start)


def _normal(key: Tensor, shape: Sequence[int], dtype: torch.dtype, start: int) -> Tensor:
    first, second = _uniform_pairs(key, shape, dtype, start)
    radius = first.log_().mul_(-2.0).sqrt_().double()
    angle = second.double().mul_(
        2.0 * math.pi
    )  # in float64: rounded to float32 it would be wrong next to the zeros of cos and sin
    pairs = angle.cos().mul_(radius).to(dtype), angle.sin_().mul_(radius).to(dtype)
    return _in_stream_order(*pairs, key, shape, start)


def uniform(key: Tensor, shape: Sequence[int], dtype: torch.dtype, start: int = 0) -> Tensor:
    """Uniform noise in (0, 1]: the u from which `normal` makes its values, in the same order; arguments as there.

    Example:
        >>> bool((uniform(make_key(0), (1000,), torch.float32) <= 1).all())
        True
    """
    return _in_stream_order(*_uniform_pairs(key, shape, dtype, start), key, shape, start)


def _uniform_pairs(key: Tensor, shape: Sequence[int], dtype: torch.dtype, start: int) -> tuple[Tensor, Tensor]:
    """The first and the second uniform of every pair in every block that the draw touches.

    Each is `dtype` [*K, pairs, blocks], with two pairs to a block in float32 and one in float64.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"noise is drawn in float32 or float64, not {dtype}")
    per_block, count = _VALUES_PER_BLOCK[dtype], math.prod(shape)
    begin, end = start // per_block, (start + count + per_block - 1) // per_block
    blocks = torch.arange(begin, end, dtype=torch.int64, device=key.device)
    x0, x1, x2, x3 = words(key[..., :1], key[..., 1:] + blocks)
    if dtype == torch.float64:
        wide = (x0 << 21 | x1 >> 11, x2 << 21 | x3 >> 11)
        first, second = (bits.unsqueeze(-2).to(dtype).mul_(2**-53).add_(2**-54) for bits in wide)
    else:
        planes = (torch.stack((x0, x2), dim=-2), torch.stack((x1, x3), dim=-2))
        first, second = (bits.to(dtype).mul_(2**-32).add_(2**-33) for bits in planes)
    return first, second


def _in_stream_order(first: Tensor, second: Tensor, key: Tensor, shape: Sequence[int], start: int) -> Tensor:
    """Twice [*K, pairs, blocks] -> [*K, *shape], from the first element that was asked for."""
    pairs, blocks = first.shape[-2:]
    skipped, count = start % (2 * pairs), math.prod(shape)
    stream = torch.stack((first, second), dim=-1).transpose(-3, -2).reshape(*key.shape[:-1], 2 * pairs * blocks)
    return stream[..., skipped : skipped + count].reshape(*key.shape[:-1], *shape)

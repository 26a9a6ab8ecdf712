"""The CUDA library run on the CPU (cuda_library.cpp): its operators against the reference and, to the bit, the CPU kernel."""

import os
import subprocess
import sys

import pytest
import torch
from helpers.cuda_on_cpu import CPU_FUSES, NATURAL, REVERSED, SHUFFLED
from helpers.operands import assert_like_the_reference, backward_scales, calls, forward_scales
from helpers.strategies import DTYPES
from hypothesis import given
from hypothesis import strategies as st

from vaekit import make_key
from vaekit.ops import native, reference
from vaekit.ops.operands import ALL, LOGVAR, MU, PRIOR_LOGVAR, PRIOR_MU, Operands


@pytest.fixture
def on_cuda(launches):
    """The operators of the CUDA library, called with a gradient for backward's results where they are wanted."""
    launches(NATURAL, 0, 1)
    operators = torch.ops.vaekit_cuda_on_cpu
    return operators.reparameterize_kl.default, operators.reparameterize_kl_backward.default


def on_cpu():
    return torch.ops.vaekit.reparameterize_kl.default, torch.ops.vaekit.reparameterize_kl_backward.default


def both_ways(operators, arguments, gradients=None):
    forward, backward = operators
    z, kl = forward(*arguments)
    if gradients is None:
        generator = torch.Generator().manual_seed(1)
        gradients = (torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in (z, kl))
    return z, kl, *backward(*gradients, *arguments)


def assert_like_the_cpu_kernel(got, expected):
    """z and the gradients of elements, which no sum goes into, to the bit; sums over a row to 1e-6."""
    if not native.LOADED or not CPU_FUSES:
        return
    _, kl, *_ = got
    torch.testing.assert_close(kl, expected[1], rtol=1e-6 if kl.dtype == torch.float32 else 1e-14, atol=0, equal_nan=True)
    for name, have, want in zip(("z", "kl", "mu", "logvar", "prior mu", "prior logvar"), got, expected, strict=True):
        if name != "kl":
            assert (have is None and want is None) or torch.equal(have.nan_to_num(nan=7.0), want.nan_to_num(nan=7.0)), name


orders = st.one_of(st.just((NATURAL, 0)), st.just((REVERSED, 0)), st.tuples(st.just(SHUFFLED), st.integers(0, 2**63)))


@given(calls(), orders, st.sampled_from(["both", "z", "kl"]), st.booleans())
def test_every_call_is_the_reference_and_the_cpu_kernel(library, arguments, order, which, broadcast):
    library.set_launches(*order, 1)
    operators = torch.ops.vaekit_cuda_on_cpu
    forward, backward = operators.reparameterize_kl.default, operators.reparameterize_kl_backward.default
    z, kl = forward(*arguments)
    assert_like_the_reference((z, kl), reference.forward(*arguments), forward_scales(arguments))
    grad_z, grad_kl = torch.randn(z.shape).to(z.dtype), torch.randn(kl.shape).to(kl.dtype)
    if broadcast:  # what the gradient of a sum looks like
        grad_z, grad_kl = torch.ones((), dtype=z.dtype).expand(z.shape), torch.ones((), dtype=kl.dtype).expand(kl.shape)
    gradients = (grad_z if which != "kl" else None, grad_kl if which != "z" else None)
    got = backward(*gradients, *arguments)
    assert_like_the_reference(got, reference.backward(*gradients, *arguments), backward_scales(*gradients, arguments))
    assert_like_the_cpu_kernel((z, kl, *got), (*on_cpu()[0](*arguments), *on_cpu()[1](*gradients, *arguments)))


@given(calls(), st.sampled_from(["both", "z", "kl"]), st.integers(0, ALL), st.booleans())
def test_what_is_wanted_has_the_bits_that_it_has_among_all(library, arguments, which, wanted, packed):
    backward = torch.ops.vaekit_cuda_on_cpu.reparameterize_kl_backward.default
    z, kl = reference.forward(*arguments)
    gradients = (torch.randn(z.shape).to(z.dtype) if which != "kl" else None, torch.randn_like(kl) if which != "z" else None)
    everything = backward(*gradients, *arguments)
    got = backward(*gradients, *arguments, wanted, packed)
    if packed:
        assert got[1] is None
        got = (*got[0].chunk(2, arguments.mu.ndim - arguments.event_dims), *got[2:])
        wanted |= MU | LOGVAR
    for number, have, want in zip((MU, LOGVAR, PRIOR_MU, PRIOR_LOGVAR), got, everything, strict=True):
        assert (have is None) == (want is None or not wanted & number)
        assert have is None or torch.equal(have.nan_to_num(nan=7.0), want.nan_to_num(nan=7.0))


# Rows for every group of threads (1 to 32, the block), of several steps, of several segments and more of these than blocks;
# 16 bytes at a time and not; more rows than blocks.
SHAPES = [
    *[(3, n) for n in (1, 2, 3, 4, 5, 8, 12, 20, 31, 32, 33, 64, 128, 129, 200, 256, 512, 1000, 1001, 1024, 2048, 2049, 4096)],
    *[(2, 4097), (2, 4100), (1, 12_000), (2, 8192), (1, 40 * 4096), (1, 33 * 4096 + 5)],
    *[(9000, 2), (2100, 4), (600, 65), (300, 128), (40, 1500), (70, 1028)],
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_the_cpu_kernel(on_cuda, shape, dtype):
    mu, logvar = torch.randn(*shape[:-1], 2 * shape[-1]).to(dtype).chunk(2, dim=-1)
    arguments = Operands(mu, logvar, make_key(5, 2**64 - 3))
    got = both_ways(on_cuda, arguments)
    assert_like_the_reference(got[:2], reference.forward(*arguments), forward_scales(arguments))
    assert_like_the_cpu_kernel(got, both_ways(on_cpu(), arguments))
    if shape[0] < 10:
        prior = torch.randn(shape[-1:]).to(dtype).expand(shape), torch.randn(shape).to(dtype)
        for options in ((3, 1, 1, True), (None, 2, 1, False)):
            arguments = Operands(mu, logvar, make_key(5), None, *prior, *options)
            assert_like_the_cpu_kernel(both_ways(on_cuda, arguments), both_ways(on_cpu(), arguments))


LAYOUTS = {
    "channels last": lambda: torch.randn(3, 5, 2, 4).to(memory_format=torch.channels_last),
    "transposed rows": lambda: torch.randn(6, 4, 8).transpose(0, 1),
    "transposed within a row": lambda: torch.randn(4, 8, 6).transpose(1, 2),
    "every second row": lambda: torch.randn(8, 16)[::2],
    "every third element": lambda: torch.randn(4, 48)[:, ::3],
    "one row for all": lambda: torch.randn(16).expand(4, 16),
    "one element for all": lambda: torch.randn(4, 1).expand(4, 16),
    "one number for all": lambda: torch.randn(()).expand(4, 3, 16),
    "not at a multiple of 16 bytes": lambda: torch.randn(4 * 16 + 1)[1:].view(4, 16),
    "rows not at multiples of 16 bytes": lambda: torch.randn(4, 17)[:, :16],
    "halves of channels": lambda: torch.randn(3, 8, 4, 4).chunk(2, dim=1)[1],
}


@pytest.mark.parametrize("event_dims", [1, 2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts_change_nothing(on_cuda, layout, event_dims):
    mu, logvar, prior_mu, prior_logvar = (LAYOUTS[layout]() for _ in range(4))
    if mu.ndim < event_dims:
        return
    eps = torch.stack([LAYOUTS[layout]() for _ in range(2)], dim=-1).movedim(-1, 0)
    for samples, prior, noise in ((None, (None, None), None), (2, (prior_mu, prior_logvar), None), (2, (None, None), eps)):
        key = make_key(3) if noise is None else None
        arguments = Operands(mu, logvar, key, noise, *prior, samples, event_dims=event_dims)
        dense = Operands(*(t.contiguous() if isinstance(t, torch.Tensor) else t for t in arguments))._replace(key=key)
        forward, backward = on_cuda
        z, kl = forward(*arguments)
        grad_z, grad_kl = torch.randn(z.shape).mT.contiguous().mT, torch.randn(*kl.shape, 2)[..., 0]
        got = (z, kl, *backward(grad_z, grad_kl, *arguments))
        plain = (*forward(*dense), *backward(grad_z.contiguous(), grad_kl.contiguous(), *dense))
        torch.testing.assert_close(got[1], plain[1], rtol=1e-6, atol=0)  # other threads may add the row up
        for have, want in zip(got[:1] + got[2:], plain[:1] + plain[2:], strict=True):
            assert (have is None and want is None) or torch.equal(have, want)
            assert have is None or have.is_contiguous()
        torch.testing.assert_close((z, kl), tuple(reference.forward(*arguments)), rtol=1e-5, atol=1e-6)


def shifted(tensor, how):
    """The same numbers where 16 bytes cannot be taken at a time: from another address, with rows or samples one further apart."""
    if how == "base":
        other = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:].view(tensor.shape)
    elif how == "rows":
        other = torch.empty(*tensor.shape[:-1], tensor.shape[-1] + 1, dtype=tensor.dtype)[..., :-1]
    else:
        size = tensor[0].numel() + 1
        other = torch.empty(len(tensor) * size, dtype=tensor.dtype).as_strided(tensor.shape, (size, *tensor[0].stride()))
    return other.copy_(tensor)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operand", ["mu", "logvar", "eps", "prior_mu", "prior_logvar", "grad_z", "grad_kl"])
def test_one_operand_that_is_not_aligned_changes_no_bit(on_cuda, operand, dtype):
    forward, backward = on_cuda
    wide = reference.compute_dtype(dtype)
    for reduce_event, eps_dtype in ((True, dtype), (False, wide)):
        tensors = {name: torch.randn(4, 16).to(dtype) for name in ("mu", "logvar", "prior_mu", "prior_logvar")}
        tensors["eps"], tensors["grad_z"] = torch.randn(2, 4, 16).to(eps_dtype), torch.randn(2, 4, 16).to(dtype)
        tensors["grad_kl"] = torch.randn(4, *([] if reduce_event else [16])).to(wide)

        def call(mu, logvar, eps, prior_mu, prior_logvar, grad_z, grad_kl, reduce_event=reduce_event):
            arguments = Operands(mu, logvar, None, eps, prior_mu, prior_logvar, num_samples=2, reduce_event=reduce_event)
            return (*forward(*arguments), *backward(grad_z, grad_kl, *arguments))

        expected = call(**tensors)
        for how in ("base", "rows", "samples"):
            got = call(**{**tensors, operand: shifted(tensors[operand], how)})
            for have, want in zip(got[:1] + got[2:], expected[:1] + expected[2:], strict=True):
                assert torch.equal(have, want)
            torch.testing.assert_close(got[1], expected[1], rtol=1e-6, atol=0)


def test_a_key_may_have_a_stride(on_cuda):
    mu = torch.randn(3, 8)
    spread = torch.tensor([5, 99, -7])[::2]
    got, expected = (both_ways(on_cuda, Operands(mu, mu, key)) for key in (spread, make_key(5, -7)))
    for have, want in zip(got, expected, strict=True):
        assert have is None or torch.equal(have, want)


OBSTACLE = """
import ctypes, sys, torch
operators = torch.library.Library("vaekit_cuda_on_cpu", "DEF")
operators.define("reparameterize_kl(Tensor x) -> Tensor")
library = ctypes.CDLL(sys.argv[1])
library.vaekit_cuda_obstacle.restype = ctypes.c_char_p
print(torch._C._dispatch_has_kernel_for_dispatch_key("vaekit_cuda_on_cpu::reparameterize_kl", "CPU"))
print(library.vaekit_cuda_obstacle().decode())
"""


@pytest.mark.parametrize(
    ("driver", "registered", "told"),
    [
        ("12060", False, "it was built with CUDA 13.0, and the driver here is for CUDA 12.6"),
        ("13000", True, ""),
        ("14020", True, ""),
        ("0", True, ""),  # no driver at all
    ],
)
def test_a_driver_that_is_too_old_is_told_and_nothing_registered(library, build_folder, driver, registered, told):
    command = [sys.executable, "-c", OBSTACLE, build_folder / "cuda_library.so"]
    environment = {**os.environ, "CUDA_ON_CPU_DRIVER": driver}
    done = subprocess.run(command, cwd=build_folder, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(registered), *([told] if told else [""])]


@pytest.mark.parametrize("shape", [(600, 8), (33, 20), (5, 1100), (3, 9000)])
def test_the_order_of_threads_and_the_number_of_processors_change_no_bit(on_cuda, launches, shape):
    arguments = Operands(torch.randn(shape), torch.randn(shape), make_key(1))
    expected = both_ways(on_cuda, arguments)
    for order, seed, processors in ((REVERSED, 0, 1), (SHUFFLED, 1, 1), (SHUFFLED, 2, 3), (NATURAL, 0, 132)):
        launches(order, seed, processors)
        for have, want in zip(both_ways(on_cuda, arguments), expected, strict=True):
            assert (have is None and want is None) or torch.equal(have, want)


@pytest.mark.parametrize("shape", [(5, 2), (5, 20), (5, 1001), (3, 4099)])
def test_a_row_has_the_same_bits_alone_and_in_any_batch(on_cuda, shape):
    mu, logvar, key = torch.randn(shape), torch.randn(shape), make_key(4)
    forward, _ = on_cuda
    z, kl = forward(*Operands(mu, logvar, key))
    for row in range(len(mu)):
        alone_z, alone_kl = forward(*Operands(mu[row:][:1].clone(), logvar[row:][:1].clone(), key, row_start=row))
        torch.testing.assert_close(alone_z[0], z[row], rtol=0, atol=0)
        # Where the row does not begin with a block of the noise, other threads add it up.
        torch.testing.assert_close(alone_kl[0], kl[row], rtol=2e-7 if shape[1] % 4 else 0, atol=0)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 0), (2, 0, 3)])
def test_without_elements(on_cuda, shape):
    empty = torch.randn(shape)
    arguments = Operands(empty, empty, make_key(0), None, empty, empty, num_samples=2)
    z, kl, *gradients = both_ways(on_cuda, arguments)
    assert z.shape == (2, *shape)
    assert torch.equal(kl, torch.zeros(shape[:-1]))
    assert all(g.shape == shape for g in gradients)


def test_what_is_not_finite_stays_in_its_row(on_cuda):
    mu, logvar = torch.zeros(5, 64), torch.zeros(5, 64)
    logvar[0, 3], logvar[1, 3], mu[2, 3], mu[3, 3] = float("inf"), -float("inf"), float("nan"), float("inf")
    arguments = Operands(mu, logvar, make_key(0))
    got = both_ways(on_cuda, arguments)
    z, kl = got[:2]
    assert kl.tolist()[0] == kl.tolist()[1] == kl.tolist()[3] == float("inf")
    assert kl[2].isnan()
    assert kl[4] == 0
    assert z[0, 3].isinf()
    assert z[1, 3] == 0
    assert z.isfinite().sum() == z.numel() - 3
    assert_like_the_cpu_kernel(got, both_ways(on_cpu(), arguments))


def test_calls_that_do_not_fit_together_are_refused(on_cuda):
    forward, backward = on_cuda
    mu, key = torch.zeros(2, 3), make_key(0)
    with pytest.raises(RuntimeError, match="event_dims is not between 1 and"):
        forward(*Operands(mu, mu, key, event_dims=3))
    with pytest.raises(RuntimeError, match="logvar has a shape that does not fit"):
        forward(*Operands(mu, mu.mT, key))
    with pytest.raises(RuntimeError, match="give a key or eps"):
        forward(*Operands(mu, mu))
    with pytest.raises(RuntimeError, match="grad_kl is not like kl"):
        backward(mu, torch.zeros(3), *Operands(mu, mu, key))


def test_numbers_at_an_address_that_a_gpu_cannot_read_are_refused(on_cuda):
    forward, _ = on_cuda
    mu = torch.zeros(2, 3)
    odd = torch.frombuffer(bytearray(25), dtype=torch.float32, offset=1).view(2, 3)
    odd_key = torch.frombuffer(bytearray(17), dtype=torch.int64, offset=1)
    for operands in (Operands(odd, mu, make_key(0)), Operands(mu, mu, None, odd), Operands(mu, mu, odd_key)):
        with pytest.raises(RuntimeError, match="clone"):
            forward(*operands)

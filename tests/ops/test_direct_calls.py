"""The operators called without the wrapper: what does not fit together is refused, and never read."""

import pytest
import torch

import vaekit
from vaekit import make_key
from vaekit.ops import native
from vaekit.ops.operands import Operands

forward = torch.ops.vaekit.reparameterize_kl.default
backward = torch.ops.vaekit.reparameterize_kl_backward.default

needs_kernel = pytest.mark.skipif("cpu" not in native.LOADED, reason="no compiled CPU kernel is loaded")

OPERANDS = ["mu", "logvar", "key", "eps", "prior_mu", "prior_logvar"]
GRADIENTS = ["grad_z", "grad_kl"]


def good(operand=None, dtype=torch.float32, num_samples=None):
    """Operands and gradients of one call; with eps where that is the operand in question, otherwise with a key."""
    torch.manual_seed(0)
    samples = () if num_samples is None else (num_samples,)
    mu, logvar, prior_mu, prior_logvar = (torch.randn(3, 20).to(dtype) for _ in range(4))
    z, kl = (
        torch.randn(*samples, 3, 20).to(dtype),
        torch.randn(3, dtype=torch.float64 if dtype == torch.float64 else torch.float32),
    )
    noise = (None, z.clone()) if operand == "eps" else (make_key(3), None)
    return Operands(mu, logvar, *noise, prior_mu, prior_logvar, num_samples), {"grad_z": z, "grad_kl": kl}


def call(operands, gradients):
    return forward(*operands), backward(*gradients.values(), *operands)


def with_changed(operand, change, **options):
    """One call's arguments, of which one has been changed."""
    operands, gradients = good(operand, **options)
    if operand in GRADIENTS:
        return operands, {**gradients, operand: change(gradients[operand])}
    return operands._replace(**{operand: change(getattr(operands, operand))}), gradients


@pytest.mark.parametrize("operand", OPERANDS + GRADIENTS)
def test_an_operand_on_the_meta_device_among_real_ones_is_refused(operand):
    """The result would be on mu's device, and nobody would have written it."""
    with pytest.raises(RuntimeError, match="meta"):
        call(*with_changed(operand, lambda t: t.to("meta")))


@pytest.mark.parametrize("eps", [False, True])
def test_all_on_the_meta_device_has_the_shapes_of_real_ones(eps):
    operands, gradients = good("eps" if eps else None, torch.bfloat16, num_samples=2)
    on_meta = Operands(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in operands))
    got = call(on_meta, {name: g.to("meta") for name, g in gradients.items()})
    for have, want in zip(sum(got, ()), sum(call(operands, gradients), ()), strict=True):
        assert (have.device.type, have.shape, have.dtype) == ("meta", want.shape, want.dtype)


def without_memory(tensor):
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


def half_its_memory(tensor):
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(tensor.untyped_storage().nbytes() // 2)
    return tensor


@needs_kernel
@pytest.mark.parametrize("taken", [without_memory, half_its_memory])
@pytest.mark.parametrize("operand", OPERANDS + GRADIENTS)
def test_an_operand_whose_memory_was_taken_away_is_refused_by_name(operand, taken):
    """As sharded training does between uses. An eps without memory was noise from key (0, 0), a prior the standard normal."""
    with pytest.raises(RuntimeError, match=rf"{operand}\b.*memory"):
        call(*with_changed(operand, taken))


def test_an_operand_without_elements_needs_no_memory():
    empty = torch.randn(0, 4)
    z, kl = forward(*Operands(empty, empty, make_key(0)))
    assert (z.shape, kl.shape) == ((0, 4), (0,))


def shifted(tensor):
    """The same numbers at an address that is no multiple of their size: from a file, or a message."""
    memory = bytearray(tensor.numel() * tensor.element_size() + 1)
    moved = torch.frombuffer(memory, dtype=tensor.dtype, offset=1).view(tensor.shape)
    assert moved.data_ptr() % tensor.element_size() != 0
    moved.copy_(tensor)
    return moved


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("operand", OPERANDS + GRADIENTS)
def test_numbers_at_any_address_give_the_same_bits(operand, dtype):
    """Under UndefinedBehaviorSanitizer, which a run of this file has to pass too, they are read one byte at a time."""
    moved = with_changed(operand, shifted, dtype=dtype)
    if "CUDA on the CPU" in vaekit.build_info()["cpu kernel"]:  # as .ci/run has it once: a GPU cannot read them at all
        with pytest.raises(RuntimeError, match="clone"):
            call(*moved)
        return
    expected, got = call(*good(operand, dtype)), call(*moved)
    for have, want in zip(sum(got, ()), sum(expected, ()), strict=True):
        assert torch.equal(have, want)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
def test_without_elements_there_is_a_gradient_of_nothing(shape):
    empty = torch.zeros(shape)
    gradients = backward(empty, None, *Operands(empty, empty, make_key(0), None, empty, empty))
    assert [g.shape for g in gradients] == [shape] * 4


@needs_kernel
@pytest.mark.parametrize("num_samples", [10**13, 2**62])
def test_too_little_memory_is_said_in_words(num_samples):
    with pytest.raises(RuntimeError, match=rf"memory.*\[{num_samples}, 3, 20\] float32"):
        forward(*good()[0]._replace(num_samples=num_samples))

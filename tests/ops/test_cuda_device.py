"""The operator on a GPU, where there is one. What can be known without one: tests/csrc/test_cuda_kernel.py and its neighbours."""

import pytest
import torch
from helpers.operands import assert_like_the_reference, backward_scales, calls, forward_scales
from helpers.strategies import DTYPES
from hypothesis import given

import vaekit
from vaekit import make_key, reparameterize_kl
from vaekit.ops import native, reference
from vaekit.ops.operands import Operands

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason=f"torch {torch.__version__} sees no GPU here"),
    pytest.mark.skipif(
        torch.cuda.is_available() and "cuda" not in native.LOADED,
        reason=f"there is a GPU, but no CUDA library: {vaekit.build_info()['cuda kernel']}",
    ),
]

forward = torch.ops.vaekit.reparameterize_kl.default
backward = torch.ops.vaekit.reparameterize_kl_backward.default


def on(device, arguments):
    return tuple(a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments)


def back(tensors):
    return tuple(None if t is None else t.cpu() for t in tensors)


@given(calls())
def test_every_call_is_the_reference(arguments):
    z, kl = back(forward(*on("cuda", arguments)))
    assert_like_the_reference((z, kl), reference.forward(*arguments), forward_scales(arguments))
    gradients = torch.randn(z.shape).to(z.dtype), torch.randn(kl.shape).to(kl.dtype)
    got = back(backward(*on("cuda", gradients), *on("cuda", arguments)))
    assert_like_the_reference(got, reference.backward(*gradients, *arguments), backward_scales(*gradients, arguments))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(64, 2), (64, 20), (33, 129), (512, 128), (4096, 256), (100, 1500), (3, 70_001), (1_000_000, 2)]
)
def test_the_bits_are_those_of_the_cpu_kernel(shape, dtype):
    if "-v" not in vaekit.build_info()["cpu kernel"].partition(";")[0]:
        pytest.skip("this processor rounds more often than CUDA does: it has no fused multiply-adds")
    mu, logvar = torch.randn(*shape[:-1], 2 * shape[-1]).to(dtype).chunk(2, dim=-1)
    arguments = Operands(mu, logvar, make_key(5, 2**64 - 3))
    z, kl = forward(*arguments)
    gradients = torch.randn(z.shape).to(z.dtype), torch.randn(kl.shape).to(kl.dtype)
    got_z, got_kl = back(forward(*on("cuda", arguments)))
    assert torch.equal(got_z, z)
    torch.testing.assert_close(got_kl, kl, rtol=1e-6, atol=0)
    got = back(backward(*on("cuda", gradients), *on("cuda", arguments)))
    assert all(map(torch.equal, got[:2], backward(*gradients, *arguments)[:2]))


def test_a_run_repeats_to_the_bit():
    mu, logvar, key = torch.randn(300, 9000, device="cuda"), torch.randn(300, 9000, device="cuda"), make_key(1, device="cuda")
    first = reparameterize_kl(mu, logvar, key=key)
    for _ in range(5):
        assert all(map(torch.equal, reparameterize_kl(mu, logvar, key=key), first))


@pytest.mark.parametrize("shape", [(64, 20), (33, 3), (2, 9000)])
@pytest.mark.parametrize("options", [{}, {"num_samples": 3, "prior": True}, {"reduce": "none"}], ids=str)
def test_nothing_waits_for_the_device_forward_or_backward(shape, options):
    """A CUDA graph can record nothing that waits, in whichever runtime; and it replays with the key that it then finds."""
    mu, logvar = (torch.randn(shape, device="cuda", requires_grad=True) for _ in range(2))
    key, given = make_key(1, device="cuda"), {**options}
    if given.pop("prior", False):
        given["prior"] = torch.randn(shape, device="cuda"), torch.randn(shape, device="cuda")

    def step(key):
        z, kl = reparameterize_kl(mu, logvar, key=key, **given)
        return (z, kl, *torch.autograd.grad((z, kl), (mu, logvar), (torch.ones_like(z), torch.ones_like(kl))))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(key)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = step(key)
    for seed in (1, 2):
        key.copy_(make_key(seed))
        graph.replay()
        for have, want in zip(recorded, step(make_key(seed, device="cuda")), strict=True):
            assert torch.equal(have, want)


def test_more_than_2_to_the_31_elements():
    size = 2**30 + 8
    if torch.cuda.mem_get_info()[0] < 16 * size:
        pytest.skip("the GPU has not enough free memory")
    mu, key = torch.zeros(1, 1, dtype=torch.bfloat16, device="cuda").expand(2, size), make_key(3, device="cuda")
    z, _ = reparameterize_kl(mu, mu, key=key)
    last, _ = reparameterize_kl(mu[:1], mu[:1], key=key, row_start=1)
    assert torch.equal(z[1], last[0])


def test_it_runs_on_the_current_stream():
    mu, logvar, key = torch.zeros(1000, 1000, device="cuda"), torch.zeros(1000, 1000, device="cuda"), make_key(1, device="cuda")
    expected, _ = reparameterize_kl(mu, logvar, key=key)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        mu.add_(1)  # which a kernel on another stream would not wait for
        z, _ = reparameterize_kl(mu, logvar, key=key)
    stream.synchronize()
    torch.testing.assert_close(z, expected + 1)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_it_runs_on_the_device_of_its_tensors():
    mu = torch.zeros(5, 3, device="cuda:1")
    z, _ = reparameterize_kl(mu, mu, key=make_key(1, device="cuda:1"))
    assert z.device == mu.device
    assert torch.cuda.current_device() == 0
    expected, _ = reparameterize_kl(mu.cpu(), mu.cpu(), key=make_key(1))
    torch.testing.assert_close(z.cpu(), expected)


def test_a_model_trains_on_it():
    torch.manual_seed(0)
    vae = vaekit.create_vae(input_shape=(8,), latent_dim=2, encoder="mlp", decoder="mlp", likelihood="gaussian").to("cuda")
    optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
    x = torch.randn(256, 8, device="cuda")
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        losses.append(vae(x).total)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]

"""The likelihoods and the operators over pairs on a GPU, where there is one. What can be known without one: tests/csrc."""

import math

import pytest
import torch
from helpers.cuda_on_cpu import CPU_FUSES
from helpers.nll_calls import LIKELIHOODS, NEAR, Call, assert_like_the_formula, call_of, gradient_of
from helpers.strategies import DTYPES
from torch.testing import assert_close

import vaekit
from vaekit.ops import kernel_sum, log_aggregate, native

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason=f"torch {torch.__version__} sees no GPU here"),
    pytest.mark.skipif(
        torch.cuda.is_available() and "cuda" not in native.LOADED,
        reason=f"there is a GPU, but no CUDA library: {vaekit.build_info()['cuda kernel']}",
    ),
]
every_likelihood = pytest.mark.parametrize("name", LIKELIHOODS)
BANDWIDTHS = [0.7, 3.0, 40.0]


def on(device, values):
    return tuple(v.to(device) if isinstance(v, torch.Tensor) else v for v in values)


def moved(call):
    parameters, x, *_ = on("cuda", call[1:])
    return call._replace(parameters=parameters, x=x, options=on("cuda", call.options))


def found(call: Call, grad):
    return [t.cpu() for t in moved(call).both(grad.cuda())]


def test_the_library_has_the_kernels_that_the_cpus_has():
    assert native.operators("cuda") == native.operators("cpu")


@every_likelihood
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 784), (33, 29), (1, 1), (5, 2, 3), (3, 70_001), (100_000, 3), (128, 2000)])
def test_a_likelihood_is_its_formula(name, shape, dtype):
    call = call_of(name, shape, dtype)
    assert_like_the_formula(call, gradient_of(call), found(call, gradient_of(call)))


@every_likelihood
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_have_the_bits_of_the_cpu_kernels(name, dtype):
    if not CPU_FUSES:
        pytest.skip("this processor rounds more often than CUDA does: it has no fused multiply-adds")
    call = call_of(name, (65, 1001), dtype)
    (rows, gradient, *_), (cpu_rows, cpu_gradient, *_) = found(call, gradient_of(call)), call.both(gradient_of(call))
    assert_close(rows, cpu_rows, rtol=NEAR[rows.dtype], atol=0.0)
    if name.startswith("discretized"):  # its components are read one after another
        assert_close(gradient, cpu_gradient, rtol=NEAR[dtype], atol=NEAR[dtype])
    else:
        assert torch.equal(gradient, cpu_gradient)


@every_likelihood
@pytest.mark.parametrize("shape", [(300, 9000), (70_000, 20)])
def test_a_likelihood_repeats_to_the_bit(name, shape):
    call = moved(call_of(name, shape))
    grad = gradient_of(call).cuda()
    first = call.both(grad)
    for _ in range(3):
        assert all(map(torch.equal, call.both(grad), first))


@every_likelihood
def test_missing_elements_add_nothing(name):
    call = call_of(name, (3, 2500))
    gone = torch.rand(call.x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    call = call._replace(x=call.x.masked_fill(gone, math.nan), ignore_missing=True)
    assert_like_the_formula(call, gradient_of(call), found(call, gradient_of(call)))


def sums(x, y, is_gaussian):
    total = torch.ops.vaekit.kernel_sum(x, y, BANDWIDTHS, is_gaussian)
    return total, torch.ops.vaekit.kernel_sum_backward(torch.ones_like(total), x, y, BANDWIDTHS, is_gaussian)


@pytest.mark.parametrize("is_gaussian", [False, True], ids=["imq", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("points", "others", "latents"), [(1, 1, 1), (65, 700, 5), (300, None, 70), (2000, 1000, 64)])
def test_a_kernels_sum_is_the_specification_and_repeats(points, others, latents, dtype, is_gaussian):
    x, y = torch.randn(points, latents, dtype=dtype), None if others is None else torch.randn(others, latents, dtype=dtype)
    wide = x.double().requires_grad_()
    right = kernel_sum.specification(wide, None if y is None else y.double(), BANDWIDTHS, is_gaussian, every_order=True)
    own = on("cuda", (x, y))
    got = sums(*own, is_gaussian)
    near = 3e-6 if dtype == torch.float32 else 1e-12
    assert_close(got[0].cpu(), right.detach(), rtol=near, atol=0.0)
    (gradient,) = torch.autograd.grad(right, wide)
    assert_close(got[1].cpu().double(), gradient, rtol=near, atol=near * (float(gradient.abs().max()) + len(x)))
    assert all(map(torch.equal, sums(*own, is_gaussian), got))


def aggregate(mu, logvar, eps, first, of_joint, of_marginals):
    totals = torch.ops.vaekit.log_aggregate(mu, logvar, eps, first, -1.3)
    return (*totals, *torch.ops.vaekit.log_aggregate_backward(of_joint, of_marginals, *totals, mu, logvar, eps, first, -1.3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("examples", "latents", "rows"), [(1, 1, 1), (130, 3, 100), (700, 33, 700), (3000, 10, 2900)])
def test_the_aggregate_is_as_right_as_the_specification_and_repeats(examples, latents, rows, dtype):
    mu, logvar, eps, of_marginals = torch.randn(4, examples, latents, dtype=dtype).unbind()
    arguments = (mu, logvar - 1.0, eps[:rows], examples - rows, of_marginals[:rows, 0].clone(), of_marginals[:rows])

    def specified(mu, logvar, eps, first, of_joint, of_marginals):
        totals = log_aggregate.forward(mu, logvar, eps, first, -1.3)
        return (*totals, *log_aggregate.backward(of_joint, of_marginals, *totals, mu, logvar, eps, first, -1.3))

    own = on("cuda", arguments)
    got = aggregate(*own)
    exact = specified(*(a.double() if isinstance(a, torch.Tensor) else a for a in arguments))
    for have, like, right in zip(got, specified(*arguments), exact, strict=True):
        last = (16 if dtype == torch.float32 else 1000) * torch.finfo(dtype).eps * right.abs().max()
        assert (have.cpu().double() - right).abs().max() <= 3 * (like.double() - right).abs().max() + last
    assert all(map(torch.equal, aggregate(*own), got))


def test_nothing_waits_for_the_device_forward_or_backward():
    """A CUDA graph can record nothing that waits or copies from the host; and it replays with the numbers that it then finds."""
    calls = [moved(call_of(name, (64, 40))) for name in LIKELIHOODS]
    grad, x = torch.ones(64, device="cuda"), torch.randn(130, 7, device="cuda")

    def step():
        found = [t for call in calls for t in call.both(grad)]
        return [*found, *sums(x, None, True), *aggregate(x, x, x, 0, x[:, 0], x)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = step()
    for scale in (1.0, 0.5):
        x.mul_(scale)
        grad.mul_(scale)
        graph.replay()
        for have, want in zip(recorded, step(), strict=True):
            assert torch.equal(have, want)


def test_objectives_over_pairs_train_on_it():
    for loss in ({"name": "beta_tc", "dataset_size": 1000}, "wae"):
        torch.manual_seed(0)
        vae = vaekit.create_vae(input_shape=(8,), latent_dim=2, loss=loss, likelihood="gaussian").to("cuda")
        optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
        x = torch.randn(256, 8, device="cuda")
        losses = []
        for step in range(50):
            optimizer.zero_grad()
            losses.append(vae(x, key=vaekit.make_key(step, device="cuda")).total)
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < losses[0]

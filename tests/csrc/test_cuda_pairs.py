"""The CUDA kernels of `vaekit::kernel_sum` and `log_aggregate`, run on the CPU: against their specifications, and their laws."""

import math

import pytest
import torch
from helpers.cuda_on_cpu import NATURAL, REVERSED, SHUFFLED
from torch.testing import assert_close

from vaekit.ops import kernel_sum, log_aggregate

BANDWIDTHS = [0.7, 3.0, 40.0]
OWN = -1.3  # log of a weight
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
KERNELS = pytest.mark.parametrize("is_gaussian", [False, True], ids=["imq", "gaussian"])
# Next to the sizes of tiles, of strips of them and of a block's latents; one of each.
SIZES = [(1, 1, 1), (3, 5, 2), (33, 31, 4), (32, 64, 32), (65, 33, 33), (40, 600, 3), (70, 40, 70), (200, 1, 5)]


def normal(*shape, dtype=torch.float32, seed=0, scale=1.0):
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def strided(tensor, how):
    """The same numbers in another layout."""
    if how == "transposed":
        return tensor.T.contiguous().T
    return tensor.repeat_interleave(2, -1)[:, ::2]


def sums(x, y, is_gaussian, bandwidths=BANDWIDTHS, namespace="vaekit_cuda_on_cpu", grad=0.3):
    operators = getattr(torch.ops, namespace)
    total = operators.kernel_sum(x, y, bandwidths, is_gaussian)
    return total, operators.kernel_sum_backward(torch.tensor(grad, dtype=torch.float64), x, y, bandwidths, is_gaussian)


def exact_sums(x, y, is_gaussian, bandwidths=BANDWIDTHS):
    x, y = x.double().requires_grad_(), None if y is None else y.double()
    total = kernel_sum.specification(x, y, bandwidths, is_gaussian, every_order=True)
    return total.detach(), torch.autograd.grad(total, x, torch.tensor(0.3, dtype=torch.float64))[0]


@KERNELS
@DTYPES
@pytest.mark.parametrize(("points", "others", "latents"), SIZES)
def test_a_kernels_sum_and_gradient_are_the_specification(launches, points, others, latents, dtype, is_gaussian):
    near = 3e-6 if dtype == torch.float32 else 1e-13
    for y in (normal(others, latents, dtype=dtype, seed=1), None):
        x = normal(points, latents, dtype=dtype)
        total, gradient = sums(x, y, is_gaussian)
        right, right_gradient = exact_sums(x, y, is_gaussian)
        assert (total.dtype, gradient.dtype) == (torch.float64, dtype)
        assert_close(total, right, rtol=near, atol=0.0)
        size = float(right_gradient.abs().max()) + (points if y is None else others) * 1e-2
        assert_close(gradient.double(), right_gradient, rtol=near, atol=near * size)


@KERNELS
def test_any_number_of_bandwidths_in_any_layout(launches, is_gaussian):
    x, y = normal(40, 5), normal(35, 5, seed=1)
    for bandwidths in ([2.0], [0.5 + k for k in range(70)]):
        expected = exact_sums(x, y, is_gaussian, bandwidths)
        for how in ("transposed", "strided"):
            for have, want in zip(sums(strided(x, how), strided(y, how), is_gaussian, bandwidths), expected, strict=True):
                assert_close(have.double(), want, rtol=1e-5, atol=1e-5)
    total, gradient = sums(x, y, is_gaussian, [])
    assert total == 0
    assert not gradient.any()


@KERNELS
@DTYPES
def test_sums_over_pairs_have_the_same_bits_in_any_order_of_threads(launches, dtype, is_gaussian):
    x, y = normal(70, 37, dtype=dtype), normal(600, 37, dtype=dtype, seed=1)
    expected = [*sums(x, y, is_gaussian), *sums(x, None, is_gaussian)]
    for order, seed, processors in ((REVERSED, 0, 1), (SHUFFLED, 1, 3), (NATURAL, 0, 132)):
        launches(order, seed, processors)
        assert all(map(torch.equal, [*sums(x, y, is_gaussian), *sums(x, None, is_gaussian)], expected))


@KERNELS
def test_points_far_apart_none_and_not_finite(launches, is_gaussian):
    x = torch.tensor([[1e30, 0.0], [0.0, 0.0], [0.0, -1e25]])
    total, gradient = sums(x, None, is_gaussian)
    assert total == 3 * len(BANDWIDTHS)
    assert torch.equal(gradient, torch.zeros(3, 2))
    for shape, other, right in (((0, 3), None, 0), ((0, 3), (4, 3), 0), ((4, 3), (0, 3), 0), ((2, 0), (3, 0), 18)):
        total, gradient = sums(torch.zeros(shape), None if other is None else torch.zeros(other), is_gaussian)
        assert total == right
        assert torch.equal(gradient, torch.zeros(shape))
    x[1, 1] = math.nan
    assert sums(x, None, is_gaussian)[0].isnan()


def results(namespace, mu, logvar, eps, first, of_joint, of_marginals, own=OWN):
    operators = getattr(torch.ops, namespace)
    totals = operators.log_aggregate(mu, logvar, eps, first, own)
    return (*totals, *operators.log_aggregate_backward(of_joint, of_marginals, *totals, mu, logvar, eps, first, own))


def on_cuda(*arguments):
    return results("vaekit_cuda_on_cpu", *arguments)


def specified(mu, logvar, eps, first, of_joint, of_marginals, own=OWN):
    totals = log_aggregate.forward(mu, logvar, eps, first, own)
    return (*totals, *log_aggregate.backward(of_joint, of_marginals, *totals, mu, logvar, eps, first, own))


def batch(examples, latents, rows, first, dtype=torch.float32, spread=1.0, logvar_at=-1.0):
    mu, logvar = normal(examples, latents, dtype=dtype, scale=spread), normal(examples, latents, dtype=dtype, seed=1) + logvar_at
    eps, of_marginals = (normal(rows, latents, dtype=dtype, seed=seed) for seed in (2, 3))
    return mu, logvar, eps, first, normal(rows, dtype=dtype, seed=4), of_marginals


def wide(arguments):
    return tuple(a.double() if isinstance(a, torch.Tensor) else a for a in arguments)


BATCHES = [
    (1, 1, 1, 0),
    (5, 2, 3, 1),
    (33, 4, 33, 0),
    (64, 32, 32, 32),
    (65, 33, 40, 7),
    (130, 3, 100, 30),
    (40, 70, 40, 0),
    (600, 9, 1, 599),
]


@DTYPES
@pytest.mark.parametrize(("examples", "latents", "rows", "first"), BATCHES)
@pytest.mark.parametrize(("spread", "logvar_at"), [(1.0, -1.0), (30.0, -8.0), (0.0, 0.0), (1e-3, 30.0)])
def test_logarithms_of_the_aggregate_are_as_right_as_the_specification(
    launches, examples, latents, rows, first, dtype, spread, logvar_at
):
    arguments = batch(examples, latents, rows, first, dtype, spread, logvar_at)
    for got, like, right in zip(on_cuda(*arguments), specified(*arguments), specified(*wide(arguments)), strict=True):
        assert (got.dtype, got.shape) == (dtype, like.shape)
        assert got.is_contiguous()
        last = (16 if dtype == torch.float32 else 1000) * torch.finfo(dtype).eps * right.abs().max()
        assert (got.double() - right).abs().max() <= 3 * (like.double() - right).abs().max() + last


@DTYPES
def test_the_aggregate_has_the_same_bits_in_any_order_of_threads_and_any_layout(launches, dtype):
    mu, logvar, eps, first, *gradients = batch(150, 37, 90, 20, dtype)
    expected = on_cuda(mu, logvar, eps, first, *gradients)
    for order, seed, processors in ((REVERSED, 0, 1), (SHUFFLED, 1, 3), (NATURAL, 0, 132)):
        launches(order, seed, processors)
        assert all(map(torch.equal, on_cuda(mu, logvar, eps, first, *gradients), expected))
    for how in ("transposed", "strided"):
        changed = (strided(mu, how), strided(logvar, how), strided(eps, how), first, gradients[0], strided(gradients[1], how))
        assert all(map(torch.equal, on_cuda(*changed), expected))


def test_rows_that_are_taken_block_by_block_are_the_specification(launches):
    """Of so many examples that backward takes 64 rows at a time."""
    arguments = batch(2**16 - 5, 1, 70, 11, torch.float64)
    for got, want in zip(on_cuda(*arguments), specified(*arguments), strict=True):
        assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_a_row_alone_is_the_row_in_a_batch(launches):
    mu, logvar, eps, first, *_ = batch(70, 5, 70, 0)
    joint, marginals = torch.ops.vaekit_cuda_on_cpu.log_aggregate(mu, logvar, eps, first, OWN)
    for row in (0, 31, 69):
        own, of_latents = torch.ops.vaekit_cuda_on_cpu.log_aggregate(mu, logvar, eps[row:][:1], row, OWN)
        assert torch.equal(own[0], joint[row])
        assert torch.equal(of_latents[0], marginals[row])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_not_finite_does_to_values_what_it_does_in_the_specification(launches, place, value):
    operands = [normal(40, 3, seed=seed) for seed in range(3)]
    operands[place][7, 1] = value
    found = torch.ops.vaekit_cuda_on_cpu.log_aggregate(*operands, 0, OWN)
    for have, want in zip(found, log_aggregate.forward(*operands, 0, OWN), strict=True):
        assert_close(have, want, equal_nan=True)


@pytest.mark.parametrize("eps_at", [1.0, 1e3, 1e15])
def test_a_row_far_from_all_examples_keeps_the_pair_with_its_own(launches, eps_at):
    mu, logvar, eps = torch.zeros(40, 2) + torch.arange(40.0)[:, None], torch.full((40, 2), -150.0), torch.full((40, 2), eps_at)
    joint, marginals = torch.ops.vaekit_cuda_on_cpu.log_aggregate(mu, logvar, eps, 0, OWN)
    log_density = -0.5 * (eps.double().square() - 150.0 + math.log(2 * math.pi)) + OWN
    assert_close(marginals.double(), log_density, rtol=1e-6, atol=0.0)
    assert_close(joint.double(), log_density.sum(1) - OWN, rtol=1e-6, atol=0.0)


def test_there_may_be_no_rows_or_examples(launches):
    for examples in (0, 3):
        mu, none = normal(examples, 2), torch.zeros(0, 2)
        joint, marginals, of_mu, of_logvar = on_cuda(mu, mu, none, 0, none[:, 0], none)
        assert (joint.shape, marginals.shape) == ((0,), (0, 2))
        assert torch.equal(of_mu, torch.zeros(examples, 2))
        assert torch.equal(of_logvar, torch.zeros(examples, 2))


def test_operands_that_do_not_fit_are_refused(launches):
    mu, logvar, eps, first, *gradients = batch(6, 2, 4, 1)
    for changed in (
        (mu[:-1], logvar, eps, first),
        (mu, logvar.double(), eps, first),
        (mu, logvar, eps, 3),
        (mu, logvar, eps[:, :1], first),
    ):
        with pytest.raises(RuntimeError, match="log_aggregate"):
            on_cuda(*changed, *gradients)
    with pytest.raises(RuntimeError, match="the gradient is not one float64 number"):
        torch.ops.vaekit_cuda_on_cpu.kernel_sum_backward(torch.ones(()), mu, None, BANDWIDTHS, True)
    with pytest.raises(RuntimeError, match="kernel_sum"):
        sums(mu, eps[:, :1], True)

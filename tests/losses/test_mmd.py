"""Maximum mean discrepancy: by scipy, by closed form, and as the penalty of InfoVAE and WAE."""

import math

import numpy as np
import pytest
import torch
from helpers.memory import largest_tensor
from scipy.integrate import quad
from scipy.spatial.distance import cdist
from torch.testing import assert_close

import vaekit
from vaekit.losses import WAE, InfoVAE, squared_mmd
from vaekit.ops import pairwise, philox
from vaekit.schedules import Linear

KERNELS, STATISTICS = ("imq", "rbf"), ("u", "v")
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def model(loss, **options):
    return vaekit.create_vae(input_shape=(6,), latent_dim=3, loss=loss, likelihood="gaussian", seed=0, **options).double()


def data(rows=8):
    return torch.randn(rows, 6, dtype=torch.float64)


def samples(rows=9, dim=3, dtype=torch.float64):
    return torch.randn(rows, dim, dtype=dtype), 0.5 + 2.0 * torch.randn(rows, dim, dtype=dtype)


def matrix(x, y, kernel, scales):
    """The kernel of every pair, by numpy."""
    squared, bandwidths = cdist(x, y, "sqeuclidean"), [2 * x.shape[1] * s for s in scales]
    return sum(c / (c + squared) if kernel == "imq" else np.exp(-squared / c) for c in bandwidths)


# The statistic.


@pytest.mark.parametrize("scales", [(1.0,), (0.3, 4.0), SCALES], ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("statistic", STATISTICS)
def test_it_is_the_means_of_the_kernels_of_pairs(kernel, scales, statistic):
    x, y = samples()
    b, (xx, yy, xy) = len(x), (matrix(*pair, kernel, scales) for pair in ((x, x), (y, y), (x, y)))
    if statistic == "v":
        expected = xx.mean() + yy.mean() - 2 * xy.mean()
    else:
        apart = ~np.eye(b, dtype=bool)
        expected = xx[apart].mean() + yy[apart].mean() - 2 * xy.mean()
    assert squared_mmd(x, y, kernel, scales, statistic).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_v_statistic_of_a_sample_with_itself_is_0_and_with_any_other_more(kernel):
    x, y = samples()
    assert squared_mmd(x, x, kernel, statistic="v").abs() < 1e-14
    assert squared_mmd(x, x.flip(0), kernel, statistic="v").abs() < 1e-14
    assert squared_mmd(x, y, kernel, statistic="v") > 1e-3


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_u_statistic_of_two_samples_of_one_distribution_is_0_on_average(kernel):
    pairs = philox.normal(philox.fold_in(vaekit.make_key(5), torch.arange(2000)), (2, 10, 3), torch.float64)
    values = torch.stack([squared_mmd(x, y, kernel) for x, y in pairs])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))
    assert (values < 0).any()


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_u_statistic_of_two_gaussians_is_the_closed_form_on_average(kernel):
    """E exp(-t |x - y|^2) is known where x - y is Gaussian; C / (C + r^2) is the integral of C exp(-t (C + r^2)) over t > 0."""
    dim, shift, sigma, scales = 3, 0.7, 1.5, (0.2, 1.0)

    def of_rbf(t, mean, variance):  # in each dimension x - y ~ N(mean, variance)
        return ((1 + 2 * variance * t) ** -0.5 * math.exp(-t * mean**2 / (1 + 2 * variance * t))) ** dim

    def expected(mean, variance):
        bandwidths = [2 * dim * s for s in scales]
        if kernel == "rbf":
            return sum(of_rbf(1 / c, mean, variance) for c in bandwidths)
        return sum(quad(lambda t, c=c: c * math.exp(-t * c) * of_rbf(t, mean, variance), 0, math.inf)[0] for c in bandwidths)

    exact = expected(0.0, 2.0) + expected(0.0, 2 * sigma**2) - 2 * expected(shift, 1 + sigma**2)
    pairs = philox.normal(philox.fold_in(vaekit.make_key(6), torch.arange(2000)), (2, 10, dim), torch.float64)
    values = torch.stack([squared_mmd(x, shift + sigma * y, kernel, scales) for x, y in pairs])
    assert exact > 0.05
    assert abs(values.mean() - exact) < 4 * values.std() / math.sqrt(len(values))


@pytest.mark.parametrize("elements", [1, 200, 1 << 20], ids=["row by row", "blocks", "at once"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("statistic", STATISTICS)
def test_gradients_are_those_of_differences_and_blocks_change_nothing(statistic, kernel, elements, monkeypatch):
    x, y = samples()
    at_once = squared_mmd(x, y, kernel, (0.3, 4.0), statistic)
    monkeypatch.setattr(pairwise, "_ELEMENTS_AT_ONCE", elements)
    assert_close(squared_mmd(x, y, kernel, (0.3, 4.0), statistic), at_once, rtol=1e-12, atol=0.0)
    x.requires_grad_(), y.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: squared_mmd(x, y, kernel, (0.3, 4.0), statistic), (x, y))


@pytest.mark.parametrize("far", [0.0, 1e3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_float32_is_right_wherever_the_points_are(kernel, far):
    x, y = samples(300, 16, torch.float32)
    x, y = x + far, 0.3 * y + far
    assert_close(squared_mmd(x, y, kernel).double(), squared_mmd(x.double(), y.double(), kernel), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_left_of_large_sums_is_right_in_float32(kernel):
    """Of samples of one distribution, 1e-3 or less is left of means that add up to 14."""
    for _ in range(4):
        x, y = torch.randn(2, 1000, 4)
        ours, right = squared_mmd(x, y, kernel), squared_mmd(x.double(), y.double(), kernel)
        assert_close(ours.double(), right, rtol=1e-6, atol=1e-9)


def test_one_point_of_each_says_nothing_to_the_u_statistic():
    x, y = samples(1)
    assert squared_mmd(x, y) == 0
    assert squared_mmd(x, y, statistic="v") > 0


@pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,))])
def test_samples_of_different_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match=r"as many points each, \[B, D\]"):
        squared_mmd(*map(torch.zeros, shapes))


# The objectives.


def test_the_penalty_is_that_of_the_codes_and_of_a_second_draw_from_the_prior():
    vae, x, key = model({"name": "wae", "lambda_": 7.0}), data(), vaekit.make_key(4)
    for row_start in (0, 8):
        terms, q = vae(x, key=key, row_start=row_start), vae.encode(x)
        z, kl = vaekit.reparameterize_kl(q.mu, q.logvar, key=key, row_start=row_start)
        drawn = vae.prior.sample((8, 3), key=philox.fold_in(key, 1), dtype=torch.float64, row_start=row_start)
        assert_close(terms.extras["mmd"], squared_mmd(z, drawn))
        assert_close(terms.kl, kl)
        assert_close(terms.total, terms.reconstruction.mean() + 7.0 * terms.extras["mmd"])


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["info_vae", "wae"])
def test_options_reach_the_statistic(name, kernel, statistic):
    options = {"kernel": kernel, "scales": (0.5, 3.0), "statistic": statistic}
    vae, x, key = model({"name": name, **options}), data(), vaekit.make_key(4)
    z, _ = vae.encode(x).rsample_kl(vae.prior, key=key)
    drawn = vae.prior.sample(z.shape, key=philox.fold_in(key, 1), dtype=z.dtype)
    assert_close(vae(x, key=key).extras["mmd"], squared_mmd(z, drawn, **options))


def test_info_vae_weighs_both_divergences_and_begins_at_the_elbo():
    vae, x, key = model("info_vae"), data(), vaekit.make_key(4)
    loss = InfoVAE(alpha=Linear(start=0.0, end=1.0, steps=10), lambda_=Linear(start=1.0, end=21.0, steps=10))
    for step, (of_kl, of_mmd) in ((0, (1.0, 0.0)), (5, (0.5, 10.5)), (None, (0.0, 21.0))):
        terms = loss(vae, vaekit.Batch(x), vaekit.StepContext(key, step))
        assert_close(terms.total, (terms.reconstruction + of_kl * terms.kl).mean() + of_mmd * terms.extras["mmd"])
    elbo = vaekit.Elbo()(vae, vaekit.Batch(x), vaekit.StepContext(key))
    assert_close(loss(vae, vaekit.Batch(x), vaekit.StepContext(key, 0)).total, elbo.total)


def test_any_posterior_prior_condition_and_latent_shape_will_do():
    class Wide(vaekit.Prior):
        def log_prob(self, z):
            return -0.125 * z.square().flatten(1).sum(1)

        def sample(self, shape, *, key, dtype, row_start=0):
            return 2.0 * philox.normal(key, shape, dtype, row_start * shape[1:].numel())

    encoder, decoder = {"name": "conv", "channels": (4,), "spatial": True}, {"name": "conv", "channels": (4,)}
    labels = {"name": "labels", "classes": 3}
    vae = vaekit.create_vae(
        input_shape=(1, 8, 8), latent_dim=2, loss="wae", encoder=encoder, decoder=decoder, prior=Wide(), condition=labels
    )
    terms = vae(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]))
    terms.total.backward()
    assert terms.extras["mmd"].isfinite()


@pytest.mark.parametrize("name", ["info_vae", "wae"])
def test_no_tensor_of_every_pair_and_latent_is_ever_there(name):
    rows, latents = 1024, 64
    x = torch.randn(rows, 3)
    assert largest_tensor(name, rows, latents, torch.float32, x) <= rows * rows < rows * rows * latents


@pytest.mark.compile
@pytest.mark.parametrize(
    ("name", "elements"),
    [("info_vae", 1 << 20), ("wae", 700), ("beta_tc", 1 << 20), ("beta_tc", 70)],
    ids=["info_vae at once", "wae in blocks", "beta_tc at once", "beta_tc in blocks"],
)
def test_it_is_one_graph(name, elements, monkeypatch):
    monkeypatch.setattr(pairwise, "_ELEMENTS_AT_ONCE", elements)
    torch.compiler.reset()
    vae, x, key = model(name), data(), vaekit.make_key(1)
    compiled = torch.compile(vae, fullgraph=True, backend="aot_eager")
    total, expected = (m(x, key=key, dataset_size=20).total for m in (compiled, vae))
    assert_close(total, expected)
    weights = list(vae.parameters())
    for ours, right in zip(torch.autograd.grad(total, weights), torch.autograd.grad(expected, weights), strict=True):
        assert_close(ours, right)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lambda_": -1.0}, ValueError, "lambda_ has to be at least 0, got -1.0"),
        ({"lambda_": "high"}, TypeError, "expected a number, a Schedule"),
        ({"kernel": "laplace"}, ValueError, "kernel has to be one of 'imq', 'rbf', got 'laplace'"),
        ({"statistic": "w"}, ValueError, "statistic has to be one of 'u', 'v', got 'w'"),
        ({"scales": ()}, ValueError, r"scales has to be a sequence of positive numbers.* got \(\)"),
        ({"scales": 1.0}, ValueError, "scales has to be a sequence of positive numbers.* got 1.0"),
        ({"scales": (1.0, 0.0)}, ValueError, "scales .*got 0.0"),
    ],
)
def test_options_that_are_none_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        WAE(**options)


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"alpha": -3.0, "lambda_": 2.0}])
def test_negative_weights_of_info_vae_are_refused(options):
    with pytest.raises(ValueError, match=r"alpha has to be at most 1 and lambda_ at least 1 - alpha.*got alpha"):
        InfoVAE(**options)


# pythae (C. Chadebec et al., 2022, arXiv:2206.08309), `pip install pythae==0.1.2`. Its statistic is the unbiased one.


@pytest.mark.parametrize("options", [{"kernel": "imq", "scales": SCALES}, {"kernel": "rbf", "scales": (1.0,)}], ids=str)
@pytest.mark.parametrize("name", ["info_vae", "wae"])
def test_it_is_pythaes_in_value_and_gradient(name, options):
    pythae = pytest.importorskip("pythae.models", reason="pythae is not installed: pip install pythae==0.1.2")
    vae, x, key = model({"name": name, "lambda_": 20.0, **options}), data(), vaekit.make_key(4)
    terms, q = vae(x, key=key), vae.encode(x)
    z, _ = q.rsample_kl(vae.prior, key=key)
    drawn = vae.prior.sample(z.shape, key=philox.fold_in(key, 1), dtype=z.dtype)
    sizes = {"input_dim": (6,), "latent_dim": 3, "kernel_choice": options["kernel"]}
    constant = 3 * math.log(2 * math.pi)
    if name == "info_vae":
        theirs = pythae.INFOVAE_MMD(pythae.INFOVAE_MMD_Config(**sizes, alpha=0.0, lbd=20.0))
        right = theirs.loss_function(vae.decode(z), x, z, drawn, q.mu, q.logvar)[0] + constant
    else:
        theirs = pythae.WAE_MMD(pythae.WAE_MMD_Config(**sizes, reg_weight=20.0, reconstruction_loss_scale=0.5))
        right = theirs.loss_function(vae.decode(z), x, z, drawn)[0] + constant
    assert_close(terms.total, right, rtol=1e-11, atol=0.0)
    weights = list(vae.parameters())
    for ours, gradient in zip(torch.autograd.grad(terms.total, weights), torch.autograd.grad(right, weights), strict=True):
        assert_close(ours, gradient, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"kernel": "laplace"}, ValueError, "kernel has to be one of 'imq', 'rbf', got 'laplace'"),
        ({"statistic": "V"}, ValueError, "statistic has to be one of 'u', 'v', got 'V'"),
        ({"scales": (-1.0,)}, ValueError, "scales .*got -1.0"),
        ({"scales": ()}, ValueError, "scales has to be a sequence of positive numbers"),
    ],
)
def test_the_function_refuses_what_the_objectives_refuse(options, error, said):
    with pytest.raises(error, match=said):
        squared_mmd(torch.randn(4, 2), torch.randn(4, 2), **options)


def test_the_function_refuses_half_precision_by_name():
    with pytest.raises(TypeError, match=r"got torch.bfloat16 and torch.bfloat16; x.float\(\)"):
        squared_mmd(torch.randn(4, 2).bfloat16(), torch.randn(4, 2).bfloat16())


def test_weights_that_become_negative_on_the_way_are_refused_by_their_step():
    alpha, lambda_ = {"name": "linear", "steps": 1000}, {"name": "linear", "steps": 10, "start": 1.0, "end": 0.0}
    loss = {"name": "info_vae", "alpha": alpha, "lambda_": lambda_}
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, loss=loss)
    assert vae(torch.rand(8, 4), step=0).total.isfinite()
    with pytest.raises(ValueError, match=r"lambda_ at least 1 - alpha.* got alpha 0.01 and lambda_ 0.0 at step 10"):
        vae(torch.rand(8, 4), step=10)

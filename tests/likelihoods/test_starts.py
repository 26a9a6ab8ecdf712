"""Laws of the parameters that a decoder starts from: their mean is the data's, and at the edge of a support they are finite."""

import math

import mpmath
import pytest
import torch
from helpers.densities import CASES, OF_SEVERAL, REQUIRED, data_in_support
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf

import vaekit
from vaekit import likelihoods
from vaekit.likelihoods import Beta, Categorical, Columns, ContinuousBernoulli, DiscretizedLogistic

F32, F64 = torch.float32, torch.float64
REALS, INSIDE, COUNTS = st.floats(-1e6, 1e6), st.floats(1e-3, 1 - 1e-3), st.floats(1e-6, 1e6)
MEANS = {
    "gaussian": REALS,
    "laplace": REALS,
    "student_t": REALS,
    "bernoulli": INSIDE,
    "continuous_bernoulli": INSIDE,
    "beta": INSIDE,
    "discretized_logistic": INSIDE,
    "poisson": COUNTS,
    "negative_binomial": COUNTS,
    "zero_inflated_negative_binomial": COUNTS,
}
WHERE_FROM = {
    "gaussian": "variance",
    "laplace": "scale",
    "student_t": "scale",
    "negative_binomial": "dispersion",
    "zero_inflated_negative_binomial": "dispersion",
}
SPECS = [
    *((name, {}) for name in MEANS),
    *((name, {option: how}) for name, option in WHERE_FROM.items() for how in ("fixed", "shared", "feature", "element")),
    ("student_t", {"scale": "element", "freedom": "element"}),
    ("discretized_logistic", {"components": 1, "levels": 2}),
    ("discretized_logistic", {"components": 3, "levels": 17}),
]


def test_every_registered_likelihood_is_tested_here():
    assert sorted([*MEANS, "categorical", "columns", "library_size", *OF_SEVERAL - {"recurrent"}]) == likelihoods.names()


@pytest.mark.parametrize(("name", "options"), SPECS, ids=str)
@pytest.mark.parametrize("dtype", [F32, F64])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_parameters_of_a_mean_have_that_mean(name, options, dtype, data):
    likelihood = likelihoods.create(name, **options)
    mean = torch.tensor(data.draw(st.lists(MEANS[name], min_size=1, max_size=3)), dtype=dtype)
    likelihood.set_data_shape(mean.shape)
    if MEANS[name] is INSIDE:
        mean = mean.clamp(1e-3, 1 - 1e-3)  # where rounding has left it
    parameters = likelihood.parameters_of_mean(mean[None])
    assert parameters.shape == (likelihood.parameters_per_element, *mean.shape)
    assert parameters.dtype == dtype
    tolerance = 2e-6 if dtype == F32 else 1e-12
    torch.testing.assert_close(likelihood.mean(parameters[None])[0], mean, rtol=tolerance, atol=tolerance * 1e-3)


@pytest.mark.parametrize("mean", [0.001, 0.01, 0.3, 0.4999, 0.5, 0.50001, 0.7, 0.99, 0.999])
def test_the_mean_of_a_continuous_bernoulli_is_inverted_as_mpmath_does(mean):
    with mpmath.workdps(50):
        exact_mean = mpf(mean)
        expected = 12 * (exact_mean - 0.5)  # near 1/2, to third order
        if abs(mean - 0.5) > 1e-3:
            start = 1 / (1 - exact_mean) if mean > 0.5 else -1 / exact_mean
            bracket = sorted((start * mpf("1e-3"), start * 2))
            expected = mpmath.findroot(
                lambda t: 1 / (1 - mpmath.exp(-t)) - 1 / t - exact_mean, bracket, solver="anderson", tol=1e-30
            )
    t = ContinuousBernoulli().parameters_of_mean(torch.tensor([[mean]], dtype=F64))
    assert math.isclose(t.item(), expected, rel_tol=1e-8, abs_tol=1e-9)


@given(weights=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6))
def test_classes_start_from_their_frequencies(weights):
    frequencies = torch.tensor(weights, dtype=F64) / sum(weights)
    logits = Categorical(len(weights)).parameters_of_mean(frequencies[:, None])
    torch.testing.assert_close(torch.softmax(logits, 0)[:, 0], frequencies)


def test_the_statistics_of_classes_are_those_of_torchs_one_hot():
    x = torch.randint(3, (5, 2, 4)).float()
    expected = torch.nn.functional.one_hot(x.long(), 3).movedim(-1, 1).float()
    assert torch.equal(Categorical(3).statistics(x), expected)


# The edge of the support, as `parameters_of_mean` states it.
EDGES = {
    **{name: [(0.0, 1e-3), (1.0, 1 - 1e-3)] for name, means in MEANS.items() if means is INSIDE},
    **{name: [(0.0, 1e-6)] for name, means in MEANS.items() if means is COUNTS},
}


@pytest.mark.parametrize(("name", "mean", "expected"), [(n, *edge) for n, edges in EDGES.items() for edge in edges])
def test_a_mean_at_the_edge_of_the_support_has_finite_parameters(name, mean, expected):
    likelihood = CASES[name].likelihood
    parameters = likelihood.parameters_of_mean(torch.tensor([[mean]]))
    assert parameters.isfinite().all()
    torch.testing.assert_close(likelihood.mean(parameters[None])[0], torch.tensor([expected]), rtol=1e-5, atol=0.0)


def test_a_class_that_is_always_or_never_there_has_finite_parameters():
    logits = Categorical(3).parameters_of_mean(torch.tensor([[1.0], [0.0], [0.0]]))
    assert logits.isfinite().all()
    torch.testing.assert_close(torch.softmax(logits, 0)[:, 0], torch.tensor([1.0, 1e-6, 1e-6]), rtol=1e-5, atol=0.0)


def test_what_a_mean_does_not_say_is_as_a_new_decoder_gives_it():
    for name, options in SPECS:
        likelihood = likelihoods.create(name, **options)
        likelihood.set_data_shape((1,))
        zeros = torch.zeros(likelihood.parameters_per_element, 1, dtype=F64)
        started = likelihood.parameters_of_mean(likelihood.mean(zeros[None]).detach())
        torch.testing.assert_close(started, zeros, atol=1e-6, rtol=0.0)


def test_a_beta_starts_with_a_plus_b_of_2():
    parameters = Beta().parameters_of_mean(torch.tensor([[0.1, 0.5, 0.8]]))
    torch.testing.assert_close(parameters.exp().sum(0), torch.full((3,), 2.0))


def test_an_image_of_256_levels_starts_from_its_mean():
    likelihood = DiscretizedLogistic()
    x = data_in_support(likelihood, (50, 1, 6, 5)) ** 2
    vae = vaekit.create_vae(input_shape=(1, 6, 5), latent_dim=2, likelihood=likelihood)
    x = (x * 255).round() / 255
    vae.initialize_output_bias(x)
    torch.testing.assert_close(vae.decode(torch.zeros(1, 2))[0], x.mean(0), rtol=1e-5, atol=1e-6)


# Columns


COLUMNS = {
    "height": {"name": "gaussian", "variance": "element"},
    "blood": {"name": "categorical", "classes": 4},
    "visits": "poisson",
    "share": "beta",
    "calls": "poisson",
}


def test_columns_start_each_from_its_own_mean():
    vae = vaekit.create_vae(latent_dim=2, likelihood={"name": "columns", "columns": COLUMNS, "missing": "ignore"}, seed=0)
    x = data_in_support(vae.likelihood, (60, 5))
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.3] = torch.nan
    vae.initialize_output_bias(x)
    origin = torch.zeros(1, 2)
    mean, parameters = vae.decode(origin)[0], vae.decoder(origin)[0, 0]  # of height 2, then 4, 1, 2 and 1
    for column in (0, 2, 3, 4):
        torch.testing.assert_close(mean[column], x[:, column].nanmean())
    seen = x[:, 1][~x[:, 1].isnan()]
    frequencies = torch.bincount(seen.long(), minlength=4) / len(seen)
    torch.testing.assert_close(torch.softmax(parameters[2:6], 0), frequencies.clamp(1e-6))
    assert parameters[1] == 0  # a variance of 1


@pytest.mark.parametrize(("name", "options"), [*SPECS, ("categorical", {"classes": 3})], ids=str)
def test_where_nothing_was_observed_the_decoder_keeps_its_own_parameters(name, options):
    spec = {"name": name, "missing": "ignore", **options}
    single = vaekit.create_vae(input_shape=(2,), latent_dim=2, likelihood=spec, seed=0)
    table = vaekit.create_vae(latent_dim=2, likelihood={"name": "columns", "columns": [spec, spec], "missing": "ignore"}, seed=0)
    x = data_in_support(single.likelihood, (30, 2))
    x[:, 0] = torch.nan
    for vae, last in ((single, lambda bias: bias[:, 1]), (table, lambda bias: bias[0].unflatten(0, (2, -1))[1])):
        with torch.no_grad():
            vae.decoder.output_bias.fill_(7.0)
        vae.initialize_output_bias(x)
        expected = vae.decoder.output_bias.clone().fill_(7.0)
        last(expected).copy_(single.likelihood.parameters_of_mean(single.likelihood.statistics(x).mean(0))[:, 1])
        torch.testing.assert_close(vae.decoder.output_bias, expected)


def test_columns_take_the_statistics_of_their_likelihoods():
    likelihood = Columns(COLUMNS)
    x = data_in_support(likelihood, (6, 5))
    statistics = likelihood.statistics(x)
    one_hot = torch.nn.functional.one_hot(x[:, 1].long(), 4).float()
    assert torch.equal(statistics, torch.cat((x[:, :1], one_hot, x[:, 2:]), 1)[:, None])


@pytest.mark.parametrize("name", [name for name in likelihoods.names() if name not in OF_SEVERAL])
def test_fit_starts_from_all_of_the_data_with_every_likelihood(name):
    def model():
        shape = None if name == "columns" else (2, 3)
        return vaekit.create_vae(
            input_shape=shape, latent_dim=2, likelihood={"name": name, "missing": "ignore", **REQUIRED.get(name, {})}, seed=0
        )

    vae, expected = model(), model()
    x = data_in_support(vae.likelihood, (30, *vae.input_shape))
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.3] = torch.nan
    expected.initialize_output_bias(x)
    vaekit.fit(vae, x, epochs=1, batch_size=7, learning_rate=1e-30, progress=False, initialize_output_bias=True)
    torch.testing.assert_close(vae.decoder.output_bias, expected.decoder.output_bias)
    assert vae.decoder.output_bias.isfinite().all()

"""The posterior of one point: its draws, its probability, what it goes with, and what a model with it can and cannot do."""

import math

import pytest
import torch
from torch.testing import assert_close

import vaekit
from vaekit import StandardNormal, make_key, plots
from vaekit.posteriors import Point
from vaekit.priors import GaussianMixture, LearnedGaussian

KEY = make_key(1)
SMALL = {"encoder": {"name": "mlp", "hidden": (16,)}, "decoder": {"name": "mlp", "hidden": (16,)}}


def model(shape=(4,), **options):
    options = {"latent_dim": 2, "posterior": "point", "loss": "autoencoder", "likelihood": "gaussian", **SMALL, **options}
    return vaekit.create_vae(input_shape=shape, seed=0, **options)


@pytest.mark.parametrize("shape", [(3, 2), (4, 2, 3), (0, 2)])
@pytest.mark.parametrize("samples", [None, 5])
def test_every_draw_is_the_point_and_has_all_of_the_probability(shape, samples):
    q = Point(torch.randn(shape, dtype=torch.float64))
    z, log_q = q.rsample_log_prob(key=KEY, num_samples=samples)
    assert torch.equal(z, q.mean.expand(z.shape))
    assert z.shape == (*(() if samples is None else (samples,)), *shape)
    assert torch.equal(log_q, torch.zeros(z.shape[: z.ndim - len(shape) + 1], dtype=torch.float64))
    assert torch.equal(q.log_prob(z), log_q)
    assert torch.equal(q.log_prob(z + 1.0), log_q - math.inf)


@pytest.mark.parametrize(
    "prior", [StandardNormal(), LearnedGaussian((2,)), GaussianMixture((2,), 3)], ids=lambda p: type(p).__name__
)
def test_what_stands_for_the_divergence_is_the_negative_density_of_the_prior(prior):
    points = torch.randn(3, 2)
    assert_close(Point(points).rsample_kl(prior, key=KEY)[1], -prior.log_prob(points))
    expected = -torch.distributions.Normal(0.0, 1.0).log_prob(points).sum(1)
    assert_close(Point(points).rsample_kl(StandardNormal(), key=KEY)[1], expected)


def test_points_without_latents_are_refused():
    with pytest.raises(ValueError, match=r"mean has to have the shape .* got \(3,\)"):
        Point(torch.zeros(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "elbo"}, "Elbo is a loss .* of the encoder's PointFamily are points without a density; for those take another "
            "loss: .*autoencoder, .*wae.*; or another posterior: .*diagonal_gaussian"),
        ({"prior": "vamp"}, "Vamp is a prior .* take another prior: diagonal_gaussian, flow, gaussian_mixture, standard_normal"),
        ({"posterior": "full_gaussian"}, "Autoencoder is a loss for latents that are points .* or another posterior: point$"),
    ],
)  # fmt: skip
def test_what_it_does_not_go_with_is_refused_with_what_does(options, message):
    with pytest.raises(ValueError, match=message):
        model(**options)


BY_WEIGHTS = {
    "bound": vaekit.evaluation.importance_weighted_bound,
    "impute": lambda vae, x: vae.impute(x, draws=2),
    "score": lambda vae, x: vae.score(x),
}


@pytest.mark.parametrize("asked", BY_WEIGHTS.values(), ids=BY_WEIGHTS)
def test_what_needs_a_density_is_refused(asked):
    vae, x = model(likelihood={"name": "gaussian", "missing": "ignore"}), torch.randn(5, 4)
    x[0, 0] = torch.nan
    with pytest.raises(TypeError, match="PointFamily gives a single point for each example; take a model with another posterior"):
        asked(vae, x)


def test_a_mixture_fitted_afterwards_draws_what_the_codes_are_and_is_saved(tmp_path):
    pytest.importorskip("sklearn")
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(200, 4, generator=generator) * 0.1 + shift for shift in (-2.0, 2.0)])
    vae = model()
    vaekit.fit(vae, x, epochs=30, batch_size=40, learning_rate=1e-2, progress=False, device="cpu")
    vae.prior = vaekit.fit_prior(vae, x, {"name": "gaussian_mixture", "components": 2})
    again = vaekit.load(vae.save(tmp_path))
    drawn = again.sample(200, key=KEY)
    assert torch.equal(drawn, vae.sample(200, key=KEY))
    assert_close(drawn.mean(1).abs(), torch.full((200,), 2.0), rtol=0.0, atol=0.5)
    assert 50 < int((drawn.mean(1) > 0).sum()) < 150


@pytest.mark.parametrize("posterior", ["point", "diagonal_gaussian"])
def test_all_pictures_and_files_of_a_model_with_it_can_be_made(tmp_path, posterior):
    loss = {"point": "autoencoder", "diagonal_gaussian": "elbo"}[posterior]
    vae = model((1, 8, 8), likelihood="bernoulli", posterior=posterior, loss=loss)
    x = vaekit.data.as_examples((torch.rand(30, 1, 8, 8), torch.arange(30) % 3))
    drawn = [name for name, figure in plots.catalogue.fitting(plots.catalogue.Subject(vae, x)) if figure.axes]
    assert drawn == ["reconstructions", "samples", "latent_space", "latent_grid"]
    files = vaekit.export(vae, tmp_path, to="torch")
    program = torch.export.load(files["encoder"]).module()
    assert_close(program(x.x[:7])[0], vae.encode(x.x[:7]).mean)

"""Laws of imputation: against the closed form of a linear Gaussian model, and of every likelihood."""

import math

import pandas
import pytest
import torch
from helpers.densities import OF_SEVERAL
from helpers.linear_models import conditional, linear_gaussian
from torch.utils.data import DataLoader

import vaekit
from vaekit import likelihoods
from vaekit.evaluation import importance_weighted_bound, imputations, impute, score, weighting
from vaekit.evaluation.weighting import WeightSums

NAN = math.nan
X = torch.tensor(
    [
        [0.3, NAN, -1.2, 0.9, NAN],
        [NAN, NAN, 0.4, -0.0, 1.1],
        [1.5, -0.7, NAN, 0.2, 0.6],
        [NAN, 0.1, NAN, NAN, NAN],
        [NAN, NAN, NAN, NAN, NAN],
        [0.3, 5e-324, -1.2, 0.9, 0.7],
    ],
    dtype=torch.float64,
)
MISSING = X.isnan()


def model():
    vae, marginal = linear_gaussian(missing="ignore")
    with torch.no_grad():
        vae.encoder.head.weight[:2] *= 0.7  # nearer to the prior, as one is where values are missing
        vae.encoder.head.bias[2:] = 0.2
    return vae, marginal


def test_the_mean_is_that_of_the_conditional_distribution_of_a_linear_model():
    vae, marginal = model()
    filled = vae.impute(X, samples=20_000)
    assert filled.draws is None
    for x, got, size in zip(X[:5], filled.x, filled.effective_sample_size, strict=False):
        mean, covariance = conditional(marginal, x)
        assert ((got[x.isnan()] - mean).abs() < 4.5 * covariance.diagonal().sqrt() / size.sqrt()).all()
        assert size > 1000


def test_draws_have_the_mean_and_the_covariance_of_the_conditional_distribution():
    vae, marginal = model()
    count = 2000
    filled = vae.impute(X, draws=count, samples=3000)
    for row, x in enumerate(X[:5]):
        mean, covariance = conditional(marginal, x)
        drawn = filled.draws[:, row, x.isnan()]
        error = (1 / count + 1 / filled.effective_sample_size[row]).sqrt()
        assert ((drawn.mean(0) - mean).abs() < 4.5 * error * covariance.diagonal().sqrt()).all()
        scale = covariance.diagonal().outer(covariance.diagonal()).sqrt()
        assert ((drawn.mT.cov() - covariance).abs() < 4.5 * error * math.sqrt(2) * scale).all()


def test_observed_values_come_back_bit_for_bit():
    for dtype, integers in ((torch.float32, torch.int32), (torch.float64, torch.int64)):
        vae, x = model()[0].to(dtype), X.to(dtype)
        filled = vae.impute(x, draws=3, samples=20)
        for got in (filled.x, *filled.draws):
            assert torch.equal(got.view(integers)[~MISSING], x.view(integers)[~MISSING])
            assert got.isfinite().all()
            assert got.dtype == dtype
        assert not torch.equal(filled.draws[0], filled.draws[1])


@pytest.mark.parametrize("elements", [13, 40, 10**6])
def test_it_depends_on_neither_pieces_nor_batches_nor_on_which_rows_are_given(monkeypatch, elements):
    vae, _ = model()
    x = X.repeat(4, 1)
    whole = vae.impute(x, draws=4, samples=50)
    monkeypatch.setattr(weighting, "_ELEMENTS_AT_ONCE", elements)
    options = {"draws": 4, "samples": 50}
    loader = impute(vae, DataLoader(x, batch_size=7), **options)
    rest = impute(vae, x[5:], row_start=5, **options)
    parts = list(imputations(vae, x, **options))
    assert len(parts) == -(-24 // max(1, elements // 5))
    for got, expected in (
        (loader, whole),
        (rest, whole._replace(x=whole.x[5:], draws=whole.draws[:, 5:], effective_sample_size=whole.effective_sample_size[5:])),
        (joined(parts), whole),
    ):
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def joined(parts):
    x, draws, sizes = zip(*parts, strict=True)
    return torch.cat(x), torch.cat(draws, 1), torch.cat(sizes)


def test_the_seed_or_the_key_fixes_the_noise_and_fewer_draws_are_the_first_of_more():
    vae, _ = model()
    first = vae.impute(X, draws=5, samples=30, seed=1)
    key = vaekit.fold_in(vaekit.make_key(1), 2)
    assert torch.equal(vae.impute(X, draws=5, samples=30, key=key).draws, first.draws)
    assert torch.equal(vae.impute(X, draws=2, samples=30, seed=1).draws, first.draws[:2])
    assert not torch.equal(vae.impute(X, draws=5, samples=30, seed=2).x, first.x)


def test_it_tells_the_effective_sample_size_of_the_bound():
    vae, _ = model()
    bound = importance_weighted_bound(vae, X, num_samples=40, seed=3)
    torch.testing.assert_close(vae.impute(X, samples=40, seed=3).effective_sample_size, bound.effective_sample_sizes)


def test_it_looks_in_evaluation_mode_without_gradients_and_leaves_the_model_as_it_was():
    vae, _ = model()
    vae.train()
    filled = vae.impute(X, draws=2, samples=5)
    assert vae.training
    assert vae.encoder.training
    assert not filled.x.requires_grad
    assert not filled.draws.requires_grad


@pytest.mark.parametrize("name", [name for name in likelihoods.names() if name not in {"columns", *OF_SEVERAL}])
def test_every_likelihood_fills_with_values_that_it_supports(name):
    options = {"categorical": {"classes": 3}, "discretized_logistic": {"levels": 4}}.get(name, {})
    spec = {"name": name, "missing": "ignore", **options}
    vae = vaekit.create_vae(input_shape=(2, 3), latent_dim=2, likelihood=spec, seed=0)
    fitting = vae.likelihood.sample(vae.natural_parameters(torch.zeros(6, 2)), key=vaekit.make_key(0)).detach()
    missing = torch.rand(6, 2, 3) < 0.5
    filled = vae.impute(fitting.masked_fill(missing, NAN), draws=3, samples=20)
    for got in (filled.x, *filled.draws):
        assert torch.equal(got[~missing], fitting[~missing])
        assert got.isfinite().all()
    for drawn in filled.draws:
        vae.likelihood.check(drawn)
    if name != "discretized_logistic" and (vae.likelihood.is_nominal or not vae.likelihood.support.whole):
        vae.likelihood.check(filled.x)


def by_sign(decoder, left, right):
    """A decoder of z [B, 1] that gives `left` where z is negative and `right` elsewhere: [B, P, F] each."""
    decoder.forward = lambda z, *rest: torch.where(z[:, :, None] < 0, left, right)


def test_of_classes_it_is_the_most_probable_one_over_all_draws_of_z_and_draws_have_its_frequencies():
    """Classes 0 and 2 are each the most probable one under half of all z, and class 1 altogether."""
    spec = {"name": "columns", "columns": [{"name": "categorical", "classes": 3}, "gaussian"], "missing": "ignore"}
    vae = vaekit.create_vae(input_shape=(2,), latent_dim=1, likelihood=spec, seed=0)
    left, right = torch.tensor([0.6, 0.4, 1e-9]), torch.tensor([1e-9, 0.45, 0.55])
    means = torch.tensor([-1.0]), torch.tensor([3.0])
    by_sign(vae.decoder, *(torch.cat(side)[None] for side in ((left.log(), means[0]), (right.log(), means[1]))))
    x = torch.tensor([[NAN, NAN], [NAN, 1.0], [NAN, -1.0]])
    filled = vae.impute(x, draws=1000, samples=4000)
    assert filled.x[:2, 0].tolist() == [1.0, 1.0]
    assert filled.x[0, 1] == pytest.approx(1.0, abs=0.1)
    towards_left = torch.exp(torch.distributions.Normal(-1.0, 1.0).log_prob(torch.tensor(-1.0)))
    towards_right = torch.exp(torch.distributions.Normal(3.0, 1.0).log_prob(torch.tensor(-1.0)))
    share = float(towards_left / (towards_left + towards_right))
    for row, of_left in ((0, 0.5), (1, 0.5), (2, share)):
        probabilities = of_left * left + (1 - of_left) * right
        frequencies = torch.bincount(filled.draws[:, row, 0].long(), minlength=3) / 1000
        torch.testing.assert_close(frequencies, probabilities, atol=0.06, rtol=0.0)
    assert filled.x[2, 0] == 0.0


def test_the_columns_of_one_draw_belong_together():
    """x = (s, s + noise) with s = -1 or 3: a draw of both has both on one side, which means of two draws of z would not have."""
    vae = vaekit.create_vae(input_shape=(2,), latent_dim=1, likelihood={"name": "gaussian", "sigma": 0.1, "missing": "ignore"})
    by_sign(vae.decoder, torch.tensor([[-1.0, -1.0]]), torch.tensor([[3.0, 3.0]]))
    drawn = vae.impute(torch.full((1, 2), NAN), draws=200, samples=200).draws[:, 0]
    assert ((drawn[:, 0] > 1.0) == (drawn[:, 1] > 1.0)).all()
    assert 0.3 < (drawn[:, 0] > 1.0).float().mean() < 0.7


def test_counts_of_a_library_size_are_filled_in_proportion_to_what_is_observed():
    spec = {"name": "library_size", "counts": "poisson", "missing": "ignore"}
    vae = vaekit.create_vae(input_shape=(3,), latent_dim=1, likelihood=spec, seed=0)
    shares = torch.tensor([[0.2, 0.5, 0.3]])
    by_sign(vae.decoder, shares.log(), shares.log())
    filled = vae.impute(torch.tensor([[40.0, 60.0, NAN], [400.0, NAN, 600.0]]), draws=500, samples=3)
    expected = torch.tensor([100 * 0.3 / 0.7, 1000 * 0.5 / 0.5])
    torch.testing.assert_close(filled.x[[0, 1], [2, 1]], expected)
    means = filled.draws[:, [0, 1], [2, 1]].mean(0)
    assert ((means - expected).abs() < 4.5 * (expected / 500).sqrt()).all()


def test_a_conditional_model_imputes_given_the_condition():
    vae = vaekit.create_vae(
        input_shape=(2,),
        latent_dim=1,
        condition={"name": "labels", "classes": 3},
        likelihood={"name": "gaussian", "missing": "ignore"},
        seed=0,
    )
    x, y = torch.tensor([[0.5, NAN]]).repeat(3, 1), torch.tensor([2, 0, 1])
    filled = vae.impute((x, y), samples=20)
    for row in range(3):
        alone = impute(vae, (x[row : row + 1], y[row : row + 1]), samples=20, row_start=row)
        torch.testing.assert_close(filled.x[row], alone.x[0])
    again = vae.impute((x, y.roll(1)), samples=20)
    assert not torch.isclose(again.x[:, 1], filled.x[:, 1]).any()


def test_where_every_weight_is_0_what_was_missing_stays_missing():
    spec = {"name": "columns", "columns": ["gaussian", {"name": "categorical", "classes": 2}], "missing": "ignore"}
    vae = vaekit.create_vae(input_shape=(2,), latent_dim=1, likelihood=spec, seed=0)
    by_sign(vae.decoder, torch.zeros(1, 3), torch.ones(1, 3))
    filled = vae.impute(torch.tensor([[1e30, NAN], [1.0, NAN]]), draws=2, samples=10)
    assert filled.effective_sample_size.isnan().tolist() == [True, False]
    for got in (filled.x, *filled.draws):
        assert got.isnan().tolist() == [[False, True], [False, False]]
        assert got[0, 0] == torch.tensor(1e30)


def test_a_model_that_refuses_missing_values_is_told_what_to_do():
    vae, _ = linear_gaussian()
    with pytest.raises(ValueError, match='Gaussian, refuses missing values.*"missing": "ignore"'):
        vae.impute(X)


def test_more_draws_than_there_is_room_for_are_refused_before_anything_is_computed():
    with pytest.raises(MemoryError, match=r"1,000,000,000,000,000 samples of the shape \(5,\)"):
        model()[0].impute(X, draws=10**15)


def test_draws_are_held_for_a_few_examples_at_a_time(monkeypatch):
    vae, _ = model()
    whole = vae.impute(X, draws=30, samples=2)
    monkeypatch.setattr(weighting, "_NUMBERS_HELD", 2 * (2 * 2 + 30 * 5))
    assert [len(part.x) for part in imputations(vae, X, draws=30, samples=2)] == [2, 2, 2]
    torch.testing.assert_close(vae.impute(X, draws=30, samples=2).draws, whole.draws)


@pytest.mark.parametrize("evaluated", [impute, score, importance_weighted_bound, vaekit.evaluate])
def test_something_else_than_a_model_is_named(evaluated, tmp_path):
    with pytest.raises(TypeError, match=r"first argument has to be a model, a vaekit.VAE, got str; vaekit.load\(folder\)"):
        evaluated(str(tmp_path), X)
    with pytest.raises(TypeError, match="got Tensor$"):
        evaluated(X, model()[0])


def test_lists_and_single_rows_are_told_how_to_become_data():
    vae = model()[0]
    with pytest.raises(TypeError, match=r"got float; torch.tensor\(x\) makes a tensor"):
        vae.impute(X.tolist())
    with pytest.raises(ValueError, match=r"a single example x\[None\]"):
        vae.impute(X[0])


def test_columns_of_a_frame_of_another_width_are_named():
    frame = pandas.DataFrame(X[:, :3].numpy(), columns=["age", "height", "income"])
    with pytest.raises(ValueError, match=r"shape \(5\), the data has \(3\), the columns 'age', 'height', 'income'"):
        model()[0].float().impute(frame)


@pytest.mark.parametrize("option", ["samples", "draws"])
def test_impossible_sizes_are_refused(option):
    with pytest.raises(ValueError, match=f"{option} has to be a whole number of at least 1, got 0"):
        model()[0].impute(X, **{option: 0})


def test_sums_of_weights_are_those_of_all_at_once_at_any_scale():
    generator = torch.Generator().manual_seed(0)
    log_weights = torch.randn(30, 4, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 50.0, 1e3, 0.0]) - 2000.0
    values = torch.randn(30, 4, 2, 3, generator=generator)
    sums = WeightSums(4)
    for part in torch.arange(30).split(7):
        sums.add(log_weights[part], values[part])
    weights = log_weights.softmax(0)
    torch.testing.assert_close(sums.log_sum, log_weights.logsumexp(0))
    torch.testing.assert_close(sums.effective_sample_size, 1 / weights.square().sum(0))
    torch.testing.assert_close(sums.mean, (weights[:, :, None, None] * values).sum(0))

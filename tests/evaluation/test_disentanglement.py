"""Scores against known factors: perfect codes, codes that mix or know nothing, and scikit-learn's mutual information."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import mutual_info_score

import vaekit
from vaekit.evaluation import dci, disentanglement, factor_vae_score, mutual_information_gap, separated_attribute_predictability

SCORES = {
    "mig": mutual_information_gap,
    "sap": separated_attribute_predictability,
    "factor_vae": factor_vae_score,
    "disentanglement": lambda z, v: dci(z, v)["disentanglement"],
    "completeness": lambda z, v: dci(z, v)["completeness"],
}
FACTORS = torch.tensor(list(itertools.product(range(4), range(3), range(5)))).repeat(10, 1)
RANDOM = np.random.default_rng(0)


def standardised(z):
    return (z - z.mean(0)) / z.std(0)


PERFECT = standardised(FACTORS.double())
NOISE = torch.from_numpy(RANDOM.normal(size=(600, 3)))
MIXED = standardised(PERFECT @ torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [-1.0, 1.0, 1.2]]).double())


@pytest.mark.parametrize("name", [name for name in SCORES if name != "sap"])
def test_codes_that_are_the_factors_have_the_highest_score(name):
    assert SCORES[name](PERFECT, FACTORS) == pytest.approx(1.0, abs=1e-6)
    assert SCORES[name](PERFECT[:, [2, 0, 1]] * -3.0 + 7.0, FACTORS) == pytest.approx(1.0, abs=1e-6)
    with_collapsed = torch.cat((PERFECT, 1e-3 * NOISE), 1)
    assert SCORES[name](with_collapsed, FACTORS) > 0.9


@pytest.mark.parametrize("name", SCORES)
def test_codes_that_mix_the_factors_score_less_and_noise_next_to_nothing(name):
    perfect, mixed, noise = (SCORES[name](z, FACTORS) for z in (PERFECT, MIXED, NOISE))
    assert perfect > mixed + 0.15
    # Votes of noise are those of chance, one of three; a forest spreads what it makes of noise over the dimensions.
    assert noise < {"factor_vae": 0.5}.get(name, 0.1)


def test_the_gap_is_that_of_scikit_learns_mutual_information():
    codes = torch.cat((PERFECT + 0.4 * NOISE, MIXED), 1)

    def binned(column):
        edges = np.linspace(column.min(), column.max(), 11)
        return np.clip(np.digitize(column, edges[1:-1]), 0, 9)

    gaps = []
    for factor in FACTORS.T.numpy():
        information = sorted(mutual_info_score(factor, binned(column)) for column in codes.T.numpy())
        gaps.append((information[-1] - information[-2]) / mutual_info_score(factor, factor))
    assert mutual_information_gap(codes, FACTORS, bins=10) == pytest.approx(np.mean(gaps), rel=1e-9)


def test_two_dimensions_that_know_the_same_close_the_gap():
    twice = torch.cat((PERFECT, PERFECT), 1)
    assert mutual_information_gap(twice, FACTORS) == pytest.approx(0.0, abs=1e-12)
    assert separated_attribute_predictability(twice, FACTORS) == pytest.approx(0.0, abs=0.02)
    assert dci(twice, FACTORS)["disentanglement"] == pytest.approx(1.0, abs=1e-6)  # each still means one thing


def test_a_dimension_that_knows_two_factors_is_complete_but_not_disentangled():
    both = (FACTORS[:, 0] * 3 + FACTORS[:, 1]).double()
    scores = dci(torch.stack((both, PERFECT[:, 2]), 1), FACTORS)
    assert scores["completeness"] == pytest.approx(1.0, abs=0.01)
    assert scores["disentanglement"] < 0.75
    assert scores["informativeness"] == pytest.approx(1.0)


def test_predictability_of_two_valued_factors_is_known():
    """One dimension tells each, the others guess: accuracies of 1 and of a half."""
    factors = torch.cartesian_prod(torch.arange(2), torch.arange(2)).repeat(400, 1)
    codes = standardised(factors.double())
    assert separated_attribute_predictability(codes, factors) == pytest.approx(0.5, abs=0.1)


SIGNS = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3))).double()  # a, b and noise, all independent
TWO = (SIGNS[:, :2] > 0).long()


def test_votes_are_by_the_variance_in_units_of_that_over_all():
    """With b fixed, a has its variance of 1, and 8 b + 6 noise has 36 of its 100: the least, if it is relative."""
    a, b, noise = SIGNS.T
    assert factor_vae_score(torch.stack((a, 8.0 * b + 6.0 * noise), 1), TWO) == 1.0


def test_each_value_of_a_factor_is_fixed_as_often_as_it_occurs():
    """The first dimension varies where a is up, and there alone: b, which is exact, then has the votes, unless a is rarely up.

    Rows where a is up are 1/4 or 3/4 of all. Fixed a is half of the groups; fixed b always is right.
    """
    a, b, noise = SIGNS.T
    codes = torch.stack((noise * (a > 0), b), 1)
    for share, copies in ((0.25, [3, 1]), (0.75, [1, 3])):
        repeats = torch.tensor(copies).repeat_interleave(4)
        score = factor_vae_score(codes.repeat_interleave(repeats, 0), TWO.repeat_interleave(repeats, 0))
        assert score == pytest.approx(1.0 - share / 2, abs=0.04)


def test_votes_that_make_the_majority_are_not_those_that_it_is_judged_by():
    """30 votes of noise in 64 dimensions decide nearly each what its dimension stands for; for 30 others that is a guess of 4."""
    random = np.random.default_rng(1)
    codes, factors = random.normal(size=(4000, 64)), random.integers(2, size=(4000, 4))
    scores = [factor_vae_score(codes, factors, examples=4, votes=60, seed=seed) for seed in range(30)]
    assert np.mean(scores) == pytest.approx(1 / 4, abs=0.06)


def test_votes_leave_out_dimensions_of_next_to_no_variance():
    """The one that follows the third factor: a third of the groups vote for one of the two others."""
    codes = PERFECT * torch.tensor([1.0, 1.0, 0.02**0.5])
    assert factor_vae_score(codes, FACTORS) == pytest.approx(2 / 3, abs=0.04)
    assert factor_vae_score(codes, FACTORS, collapsed=0.01) == 1.0


@pytest.mark.parametrize("sizes", [{"examples": 1}, {"votes": 1}])
def test_groups_without_a_variance_and_halves_without_a_vote_are_refused(sizes):
    with pytest.raises(ValueError, match=r"at least 2 examples.*at least one vote"):
        factor_vae_score(PERFECT, FACTORS, **sizes)


def test_predictability_depends_on_no_dimensions_scale_or_mean():
    codes = PERFECT + 0.4 * NOISE
    moved = codes * torch.tensor([0.5, 10.0, -100.0]) + torch.tensor([7.0, 0.0, -300.0])
    for seed in range(3):
        score = separated_attribute_predictability(codes, FACTORS, seed=seed)
        assert separated_attribute_predictability(moved, FACTORS, seed=seed) == pytest.approx(score, abs=0.01)


def test_predictability_counts_the_values_of_a_factor_alike():
    """N(0, 1), and N(2, 1) for every tenth example: right on both sides of 1 with the probability Phi(1), less 1/2 for a guess.

    The boundary with the most right answers is log(9) / 2 further out, so that 0.93 of them are.
    """
    quantiles = [stats.norm.ppf((np.arange(count) + 0.5) / count) + mean for count, mean in ((9000, 0.0), (1000, 2.0))]
    codes, factor = np.concatenate(quantiles)[:, None], np.repeat([0, 1], [9000, 1000])[:, None]
    assert separated_attribute_predictability(codes, factor) == pytest.approx(stats.norm.cdf(1.0) - 0.5, abs=0.03)


def test_predictability_is_that_of_examples_that_are_held_out():
    """Twenty values that one example each has, all in one place, are there to learn from only: hardly any can be right there."""
    factor = np.concatenate((np.repeat([0, 1], 40), np.arange(2, 22)))[:, None]
    codes = np.repeat([-1.0, 1.0, 0.0], [40, 40, 20])[:, None]
    assert separated_attribute_predictability(codes, factor) == pytest.approx(1.0 - 1.0 / 22.0, abs=1e-9)


def test_predictability_leaves_out_dimensions_of_next_to_no_variance():
    score = separated_attribute_predictability(PERFECT, FACTORS)
    follows = 0.02**0.5 * PERFECT
    assert score > 0.3
    assert separated_attribute_predictability(torch.cat((PERFECT, follows), 1), FACTORS) == score
    assert separated_attribute_predictability(follows, FACTORS) == 0.0
    twice = torch.cat((PERFECT, follows), 1)
    assert separated_attribute_predictability(twice, FACTORS, collapsed=0.01) == pytest.approx(0.0, abs=0.02)
    two = FACTORS[:, :1] % 2
    alone = torch.stack((two[:, 0].double() * 2 - 1, 0.1 * NOISE[:, 0]), 1)
    assert separated_attribute_predictability(alone, two) == 0.5  # 1 less a guess


def test_informativeness_is_that_of_examples_that_are_held_out():
    """Of noise a forest learns every example, and predicts others as often as a guess, of 4, 3 and 5 values, is right."""
    assert dci(NOISE, FACTORS)["informativeness"] == pytest.approx((1 / 4 + 1 / 3 + 1 / 5) / 3, abs=0.08)


@pytest.mark.parametrize("score", [factor_vae_score, separated_attribute_predictability])
@pytest.mark.parametrize("collapsed", [-0.1, float("nan"), float("inf"), "0.05", True, None])
def test_a_threshold_that_is_no_variance_is_refused(score, collapsed):
    with pytest.raises((ValueError, TypeError), match=f"collapsed .*got {collapsed!r}"):
        score(PERFECT, FACTORS, collapsed=collapsed)


def encoding(monkeypatch, scale, prior):
    """A model whose posterior means are the data, times a scale."""
    vae = vaekit.create_vae(input_shape=(3,), latent_dim=3, prior=prior, likelihood="gaussian")
    monkeypatch.setattr(vae, "encode", lambda x, condition: vaekit.DiagonalGaussian(scale * x, torch.zeros_like(x)))
    return vae


def test_a_dimension_of_a_model_is_collapsed_by_the_variance_of_its_prior(monkeypatch):
    x, scale = PERFECT.float(), torch.tensor([0.03, 1.0, 4.0]).sqrt()
    perfect = disentanglement(encoding(monkeypatch, 1.0, "standard_normal"), x, FACTORS)
    assert perfect["factor_vae"] == 1.0

    vae = encoding(monkeypatch, scale, "standard_normal")
    assert disentanglement(vae, x, FACTORS)["factor_vae"] == pytest.approx(2 / 3, abs=0.04)
    assert disentanglement(vae, x, FACTORS, collapsed=0.02) == pytest.approx(perfect, abs=0.02)

    vae = encoding(monkeypatch, scale, "diagonal_gaussian")
    with torch.no_grad():
        vae.prior.logvar.copy_(2 * scale.log())
        vae.prior.mu.fill_(5.0)
    assert disentanglement(vae, x, FACTORS) == pytest.approx(perfect, abs=0.02)
    with torch.no_grad():
        vae.prior.logvar[1] += math.log(30.0)
    assert disentanglement(vae, x, FACTORS)["factor_vae"] == pytest.approx(2 / 3, abs=0.04)
    assert disentanglement(vae, x, FACTORS, collapsed=0.02) == pytest.approx(perfect, abs=0.02)


def test_nothing_used_scores_nothing():
    assert factor_vae_score(1e-3 * NOISE, FACTORS) == 0.0
    assert mutual_information_gap(torch.zeros(600, 3), FACTORS) == 0.0
    assert mutual_information_gap(PERFECT[:, :1], FACTORS[:, :1]) == pytest.approx(1.0)


def test_scores_are_the_same_each_time():
    codes = PERFECT + NOISE
    for score in SCORES.values():
        assert score(codes, FACTORS) == score(codes, FACTORS)
    assert factor_vae_score(codes, FACTORS, seed=1, votes=101) != factor_vae_score(codes, FACTORS, seed=2, votes=101)


@pytest.mark.parametrize(
    ("codes", "factors", "words"),
    [
        (PERFECT[:5], FACTORS, r"as many examples, got \(5, 3\) and \(600, 3\)"),
        (PERFECT[:, 0], FACTORS, "have to have the shape"),
        (PERFECT, FACTORS + 0.5, "whole numbers"),
        (PERFECT, FACTORS.double().masked_fill(FACTORS == 0, math.inf), "whole numbers"),
        (PERFECT, FACTORS * torch.tensor([1, 0, 1]), "factor 1 has one value"),
        (PERFECT * float("nan"), FACTORS, "NaN or infinity"),
    ],
)
@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_what_cannot_be_scored_is_refused(score, codes, factors, words):
    with pytest.raises(ValueError, match=words):
        score(codes, factors)


@pytest.mark.parametrize("score", [dci, separated_attribute_predictability])
def test_classifiers_see_each_value_of_a_factor_and_too_little_data_is_refused(score):
    rare = torch.stack((torch.arange(40) % 2, torch.arange(40) == 7, (torch.arange(40) // 20) * 5 - 2), 1)
    for seed in range(-3, 10):
        score(NOISE[:40], rare, seed=seed)
    score(NOISE[:4], rare[[0, 1, 6, 7], :2])
    with pytest.raises(ValueError, match="at least 4, got 3"):
        score(NOISE[:3], rare[6:9, :1])
    with pytest.raises(ValueError, match="factor 1 has another value in each example"):
        score(NOISE[:40], torch.stack((rare[:, 0], torch.arange(40)), 1))


def test_seeds_are_read_modulo_2_to_the_32():
    for score in (dci, separated_attribute_predictability, factor_vae_score):
        assert score(NOISE, FACTORS, seed=-1) == score(NOISE, FACTORS, seed=2**32 - 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_codes_of_half_precision_have_the_scores_of_their_values(dtype):
    codes = (PERFECT + NOISE).to(dtype)
    for score in SCORES.values():
        assert score(codes, FACTORS.to(dtype)) == score(codes.double(), FACTORS)
    made = vaekit.data.shapes(size=8, orientations=2, positions=2)
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2, seed=0).to(dtype)
    assert 0.0 <= disentanglement(vae, made.x.to(dtype), made.factors)["mig"] <= 1.0


def test_all_scores_of_a_model_are_those_of_its_posterior_means():
    made = vaekit.data.shapes(size=8, orientations=2, positions=2)
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2, seed=0)
    scores = disentanglement(vae, made, made.factors, batch_size=13)
    means = vae.encode(made.x).mean.detach()
    assert scores["mig"] == pytest.approx(mutual_information_gap(means, made.factors), abs=1e-6)
    assert scores["factor_vae"] == pytest.approx(factor_vae_score(means, made.factors), abs=0.02)
    assert set(scores) == {"mig", "sap", "dci_disentanglement", "dci_completeness", "dci_informativeness", "factor_vae"}
    assert all(0.0 <= value <= 1.0 for value in scores.values())

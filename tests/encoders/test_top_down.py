"""Laws of latents of several resolutions: the encoder "top_down" with its path, prior and decoder."""

import json

import numpy as np
import pytest
import torch
from helpers.commands import STUB_CATALOGUE
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

import vaekit
from vaekit import cli
from vaekit.encoders import TopDownEncoder
from vaekit.plots import catalogue

KEY = vaekit.make_key(2)
X = torch.rand(6, 1, 8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).round()


def model(shape=(1, 8, 6), channels=(4, 6), groups=(1, 2), moved=True, inner=None, **options):
    """Three levels at 4 x 3, 4 x 3 and 8 x 6; with weights none of which is zero, where it has moved."""
    inner = {"name": "resnet", "channels": (4,), "blocks": 1} if inner is None else inner
    vae = vaekit.create_vae(
        input_shape=shape,
        latent_dim=2,
        encoder={"name": "top_down", "channels": channels, "groups": groups},
        prior="top_down",
        decoder={"name": "top_down", "decoder": inner},
        seed=0,
        **options,
    ).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in vae.parameters() if moved else ():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return vae.eval()


def test_a_new_posterior_is_the_prior_and_that_is_standard_at_every_level():
    vae = model(moved=False)
    z, levels = vae.encode(X).rsample_kl_by_level(vae.prior, key=KEY)
    assert [level.abs().max() for level in levels] == [0.0] * 3
    assert_close(vae.prior.log_prob(z), Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1))


def test_a_posterior_is_relative_to_the_prior_and_that_is_it_where_the_data_say_nothing():
    vae = model()
    with torch.no_grad():
        for group in vae.encoder.family.path.groups:
            group.posterior[-1].weight.zero_(), group.posterior[-1].bias.zero_()
    z, levels = vae.encode(X).rsample_kl_by_level(vae.prior, key=KEY)
    assert max(float(level.abs().max()) for level in levels) < 1e-12
    assert (vae.prior.log_prob(z) - Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)).abs().min() > 0.01


def test_levels_have_their_resolutions_and_lie_side_by_side():
    vae = model()
    assert vae.latent_levels == ((2, 4, 3), (2, 4, 3), (2, 8, 6))
    assert vae.latent_shape == (2, 12 + 12 + 48)
    z = torch.randn(3, *vae.latent_shape)
    levels = vae.split_levels(z)
    assert [tuple(level.shape[1:]) for level in levels] == list(vae.latent_levels)
    assert torch.equal(vae.encoder.family.path.packed(levels), z)


def test_density_and_divergence_are_those_of_torchs_gaussians_level_by_level():
    vae = model()
    path, q = vae.encoder.family.path, vae.encode(X)
    z, log_q = q.rsample_log_prob(key=KEY)
    _, levels = q.rsample_kl_by_level(vae.prior, key=KEY)
    h, parts = path.start(z), path.split(z)
    log_posterior = log_prior = torch.zeros(len(X), dtype=torch.float64)
    for number, part in enumerate(parts):
        prior = path.prior(number, h)
        posterior = path.posterior(number, h, prior, q.numbers)
        of_p, of_q = (Normal(g.mu, torch.exp(0.5 * g.logvar)) for g in (prior, posterior))
        assert_close(levels[number], kl_divergence(of_q, of_p).flatten(1).sum(1), rtol=1e-9, atol=1e-9)
        log_posterior = log_posterior + of_q.log_prob(part).flatten(1).sum(1)
        log_prior = log_prior + of_p.log_prob(part).flatten(1).sum(1)
        if number < 2:
            h = path.after(number, h, part)
    assert_close(log_q, log_posterior, rtol=1e-9, atol=1e-9)
    assert_close(q.log_prob(z), log_posterior, rtol=1e-9, atol=1e-9)
    assert_close(vae.prior.log_prob(z), log_prior, rtol=1e-9, atol=1e-9)
    assert_close(q.rsample_log_ratio(vae.prior, key=KEY)[1], log_posterior - log_prior, rtol=1e-8, atol=1e-8)
    elements = q.rsample_kl_per_dimension(vae.prior, key=KEY)[1]
    for level, part in zip(levels, vae.split_levels(elements), strict=True):
        assert_close(part.flatten(1).sum(1), level)


def test_a_level_depends_on_those_above_it_and_on_no_other():
    vae = model()
    noise = torch.randn(2, *vae.latent_shape, dtype=torch.float64)
    z = vae.prior.from_noise(noise)
    path = vae.encoder.family.path
    for changed in range(3):
        parts = list(path.split(noise))
        parts[changed] = parts[changed] + 1.0
        other = vae.prior.from_noise(path.packed(parts))
        for number, (before, after) in enumerate(zip(path.split(z), path.split(other), strict=True)):
            assert torch.equal(before, after) is (number < changed)


def test_rows_do_not_depend_on_the_batch_and_draws_not_on_their_number():
    vae = model()
    whole = vae.encode(X).rsample(key=KEY, num_samples=2)
    assert_close(vae.encode(X[3:]).rsample(key=KEY, num_samples=2, row_start=3), whole[:, 3:])
    assert_close(vae.encode(X).rsample(key=KEY), whole[0])
    bound = [vaekit.evaluation.importance_weighted_bound(vae, X, num_samples=6, at_once=n).per_example for n in (4, 100)]
    assert_close(bound[0], bound[1])


def test_more_draws_tighten_the_bound():
    vae, x = model(), X.repeat(20, 1, 1, 1)
    bounds = [vaekit.evaluation.importance_weighted_bound(vae, x, num_samples=k).log_likelihood for k in (1, 5, 50)]
    assert bounds == sorted(bounds)
    assert bounds[2] - bounds[0] > 0.1


@pytest.mark.parametrize(("per", "groups"), [("level", 3), ("channel", 6), ("dimension", 144), ("example", 1)])
def test_free_bits_are_paid_by_level_or_by_channel_of_a_level(per, groups):
    vae = model(loss={"name": "free_bits", "per": per, "free_nats": 0.1}, moved=False)
    terms = vae(X, key=KEY)
    assert_close(terms.extras["paid_kl"], torch.tensor(0.1 * groups, dtype=torch.float64))  # nothing is used yet
    assert_close(terms.kl, torch.zeros(6, dtype=torch.float64))
    vae = model(loss={"name": "free_bits", "per": per, "free_nats": 0.0})
    terms = vae(X, key=KEY)
    assert_close(terms.extras["paid_kl"], terms.kl.mean())
    assert_close(sum(terms.extras[f"kl_level_{n}"] for n in (1, 2, 3)), terms.kl)


def test_it_learns_and_comes_back_and_a_resumed_run_is_the_whole_one(tmp_path):
    data = X.float().repeat(10, 1, 1, 1)
    options = {"batch_size": 20, "learning_rate": 3e-3, "progress": False, "device": "cpu", "seed": 4}
    whole = model(moved=False, condition=None).float()
    history = vaekit.fit(whole, data, epochs=4, **options)
    assert history["loss"][-1] < history["loss"][0]
    half = model(moved=False).float()
    vaekit.fit(half, data, epochs=2, out=tmp_path / "run", **options)
    half = model(moved=False).float()
    vaekit.fit(half, data, epochs=4, out=tmp_path / "run", resume=True, **options)
    for (name, one), other in zip(whole.state_dict().items(), half.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    again = vaekit.load(whole.save(tmp_path / "saved"))
    assert torch.equal(again.sample(3, key=KEY), whole.sample(3, key=KEY))


def test_the_decoder_sees_the_whole_path_and_a_condition():
    vae = model(condition={"name": "labels", "classes": 3})
    z = vae.encode(X, torch.arange(6) % 3).rsample(key=KEY).requires_grad_()
    first, second = (vae.decode(z, label) for label in (0, 1))
    assert not torch.equal(first, second)
    for level in vae.split_levels(torch.autograd.grad(first.sum(), z)[0]):
        assert (level != 0).any()


def test_a_table_of_another_shape_or_groups_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'top_down' takes series"):
        TopDownEncoder((5,), 2)
    with pytest.raises(ValueError, match="groups has to have a number for each of the 2 resolutions"):
        TopDownEncoder((1, 8, 8), 2, channels=(4, 8), groups=(1, 1, 1))
    with pytest.raises(ValueError, match="the last one at least 1, got \\(1, 0\\)"):
        TopDownEncoder((1, 8, 8), 2, channels=(4, 8), groups=(1, 0))
    with pytest.raises(ValueError, match="at least one resolution"):
        TopDownEncoder((1, 8, 8), 2, channels=(), groups=())
    with pytest.raises(ValueError, match="the decoder of a top_down one has to have"):
        model(inner=vaekit.decoders.create("mlp", latent_dim=3, output_shape=(1, 8, 6)))


@pytest.mark.parametrize("preset", ["ladder-mnist", "top-down-mnist"])
def test_the_command_trains_it_and_goes_on(preset, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "CATALOGUE", STUB_CATALOGUE)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 1, 28, 28), dtype=np.float32).round())
    run = tmp_path / "run"
    for arguments in ([str(tmp_path / "x.npy"), "--preset", preset, "--out", str(run)], ["--resume", str(run)]):
        with pytest.raises(SystemExit) as caught:
            cli.main(["train", *arguments, "--epochs", "1" if "--out" in arguments else "2", "--no-progress"])
        assert caught.value.code == 0
    head, *lines = (run / "history.csv").read_text().splitlines()
    assert "kl_level_2" in head
    assert len(lines) == 2
    assert json.loads((run / "best" / "config.json").read_text())["prior"]["name"] == "top_down"

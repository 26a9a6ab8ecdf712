"""The example plugin's parts: found by the command through their entry points, and right."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import QUICK, SMALL
from scipy.stats import kstest, logistic

import vaekit
from vaekit.ops.draw import Draw

EXAMPLE = Path(__file__).parent / "example"


@pytest.fixture(autouse=True)
def _example(monkeypatch):
    """The plugin's modules can be imported, and are forgotten again."""
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.setattr(vaekit.divergences, "_rules", dict(vaekit.divergences._rules))
    yield
    for name in ("vaekit_logistic", "vaekit_box", "vaekit_parity", "vaekit_signum", "vaekit_inverse_root", "vaekit_target"):
        sys.modules.pop(name, None)


COMMANDS = """
import json, sys
from vaekit.cli import main
from vaekit.plots.catalogue import CATALOGUE

CATALOGUE.clear()
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0, arguments
"""


def test_the_command_finds_the_plugins_parts(site, tmp_path):
    data, out = str(tmp_path / "x.npy"), str(tmp_path / "run")
    np.save(data, np.random.default_rng(0).logistic(size=(40, 6)).astype(np.float32))
    options = ["--set", "likelihood=logistic", "--set", "likelihood.scale=0.5", "--set", "posterior=box"]
    commands = [["train", data, *SMALL, *QUICK, *options, "--out", out], ["evaluate", out], ["list", "posteriors"]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(Path(vaekit.__file__).parents[1])])}
    program = [sys.executable, "-W", "ignore", "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "logistic likelihood" in done.stdout
    assert "of 2 latent dimensions" in done.stdout
    assert "  box" in done.stdout


def test_the_likelihood_is_scipys():
    from vaekit_logistic import Logistic

    m, x = torch.linspace(-40, 40, 81, dtype=torch.float64), torch.linspace(3, -3, 81, dtype=torch.float64)
    nll = Logistic(scale=0.7).nll(m[:, None, None], x[:, None])
    np.testing.assert_allclose(nll, -logistic.logpdf(x, loc=m, scale=0.7), rtol=1e-12)
    drawn = Logistic(scale=0.7).sample(torch.full((1, 1, 20_000), 2.0), key=vaekit.make_key(0))
    assert kstest(drawn.flatten().numpy(), logistic(loc=2.0, scale=0.7).cdf).pvalue > 0.01


def test_the_posteriors_divergence_is_the_mean_of_its_log_ratio():
    from vaekit_box import Box

    q = Box(torch.tensor([[0.3, -1.0]]), torch.tensor([[0.5, -0.4]]))
    z, kl = q.rsample_kl(vaekit.StandardNormal(), key=vaekit.make_key(0), num_samples=100_000)
    low, high = q.mean - q.log_width.exp() / 2, q.mean + q.log_width.exp() / 2
    assert ((z >= low) & (z <= high)).all()
    assert kstest(((z - low) / (high - low)).flatten().numpy(), "uniform").pvalue > 0.01
    log_ratio = q.log_prob(z) - vaekit.StandardNormal().log_prob(z[:, 0])[:, None]
    error = log_ratio.std() / math.sqrt(len(z))
    assert (log_ratio.mean() - kl).abs() < 4 * error
    _, by_dimension = q.rsample_kl_per_dimension(vaekit.StandardNormal())
    torch.testing.assert_close(by_dimension.sum(1), kl)


def test_a_row_of_the_posterior_has_the_noise_of_its_row():
    from vaekit_box import Box

    whole, part = Box(torch.zeros(5, 3), torch.zeros(5, 3)), Box(torch.zeros(2, 3), torch.zeros(2, 3))
    draw = Draw(vaekit.make_key(1))
    assert torch.equal(whole._rsample(draw)[3:], part._rsample(draw._replace(row_start=3)))


def test_the_callback_ends_the_run_at_its_target():
    from vaekit_target import StopAtTarget

    x = torch.rand(32, 4)

    def losses(*callbacks):
        vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder={"hidden": (8,)}, decoder={"hidden": (8,)}, seed=0)
        options = {"epochs": 5, "batch_size": 8, "learning_rate": 0.01, "device": "cpu", "progress": False}
        return vaekit.fit(vae, x, callbacks=callbacks, **options)["loss"]

    whole = losses()
    target = sorted(whole)[2] + 1e-9
    first = next(epoch for epoch, loss in enumerate(whole) if loss < target)
    assert first < 4
    assert losses(StopAtTarget(target)) == whole[: first + 1]
    assert losses(StopAtTarget(-1.0)) == whole


@pytest.fixture
def announced(site, monkeypatch):
    """Registries that look for plugins anew, and find those in `site`."""
    monkeypatch.syspath_prepend(site)
    for registry in (
        vaekit.optimizers.registry,
        vaekit.schedules.registry,
        vaekit.posteriors.registry,
        vaekit.priors.registry,
    ):
        monkeypatch.setattr(registry, "_parts", dict(registry._parts))
        monkeypatch.setattr(registry, "_pending", None)


def test_the_optimizer_and_the_schedule_train_as_their_papers_say(announced):
    rate = {"name": "inverse_root", "steps": 3, "peak": 0.01}
    schedule = vaekit.schedules.as_schedule(rate)
    assert [schedule(step) for step in (0, 2, 11)] == pytest.approx([0.01 / 3, 0.01, 0.005])
    vae, x = (
        vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder={"hidden": (8,)}, decoder={"hidden": (8,)}, seed=0),
        torch.rand(32, 4),
    )
    start = [p.detach().clone() for p in vae.parameters()]
    steps = []

    class Record(vaekit.Callback):
        def on_step_end(self, state):
            steps.append([p.detach().clone() for p in state.vae.parameters()])

    options = {"epochs": 1, "batch_size": 8, "device": "cpu", "progress": False, "callbacks": [Record()]}
    vaekit.fit(vae, x, optimizer="signum", learning_rate=rate, **options)
    for number, (before, after) in enumerate(zip([start, *steps], steps, strict=False)):
        for one, other in zip(before, after, strict=True):  # every weight moves by the learning rate, or has no gradient
            moved = (other - one).abs()
            assert ((moved - schedule(number)).abs() < 1e-6).logical_or(moved == 0).all()
    assert number == 3
    assert any(not torch.equal(one, other) for one, other in zip(start, steps[-1], strict=True))


def test_an_option_that_the_optimizer_does_not_take_is_refused_by_name(announced):
    with pytest.raises(TypeError, match="'signum'.*'eps'"):
        vaekit.training.FitOptions(optimizer={"name": "signum", "eps": 1e-8})


def test_codes_without_a_table_and_several_a_position_go_everywhere_with_a_prior_that_is_told_a_label():
    """Training, warnings, numbers, bounds, pictures and samples ask for the interface alone."""
    from vaekit_parity import ByLabel, ParityFamily

    convolutions = {"name": "conv", "channels": (4, 4)}
    labels = torch.arange(60) % 3
    x = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.3
    x[labels == 1, :, :4] += 0.7
    x[labels == 2, :, :, 4:] += 0.7
    vae = vaekit.create_vae(
        input_shape=(1, 8, 8), latent_dim=3, encoder={**convolutions, "spatial": True, "posterior": ParityFamily((3, 2, 2))},
        decoder=convolutions, prior=ByLabel((3, 2, 2), classes=3), loss="vector_quantized",
        condition={"name": "labels", "classes": 3}, seed=0,
    )  # fmt: skip
    assert vae(x, labels).kl.detach().numpy() == pytest.approx(12 * math.log(3), rel=1e-6)
    before = vaekit.evaluate(vae, (x, labels))
    vaekit.fit(vae, (x, labels), epochs=60, batch_size=20, learning_rate=1e-2, progress=False, device="cpu")
    after = vaekit.evaluate(vae, (x, labels))
    assert after["reconstruction"] < before["reconstruction"]
    assert after["kl"] < before["kl"]

    indices = vae.indices(x, labels)
    assert indices.shape == (60, 3, 2, 2)
    assert torch.equal(vae.decode_codes(indices, labels), vae.reconstruct(x, labels))
    counted = torch.stack([torch.nn.functional.one_hot(indices[labels == label], 3).double().mean(0) for label in range(3)])
    assert (vae.prior.logits.softmax(-1) - counted).abs().mean() < 0.15
    bound = vaekit.evaluation.importance_weighted_bound(vae, (x, labels), num_samples=3)
    terms = vae(x, labels)
    torch.testing.assert_close(bound.per_example.float(), -(terms.reconstruction + terms.kl).detach(), rtol=1e-4, atol=1e-4)
    assert vae.sample(5, 2).shape == (5, 1, 8, 8)
    assert vaekit.plots.reconstructions(vae, x[:3], labels[:3]).get_suptitle() == "reconstructions through 12 codes out of 3"
    with pytest.raises(ValueError, match="no condition was given"):
        vae.sample(5)


def test_a_plugins_codes_and_prior_are_fitted_saved_and_found_again_by_their_names(announced, tmp_path):
    """A model whose networks are not told the label, and a prior over its codes that is."""
    convolutions, labels = {"name": "conv", "channels": (4, 4)}, torch.arange(60) % 3
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()[labels]
    vae = vaekit.create_vae(
        input_shape=(1, 8, 8), latent_dim=3, encoder={**convolutions, "spatial": True}, decoder=convolutions, posterior="parity",
        prior="codes", loss="vector_quantized", seed=0,
    )  # fmt: skip
    options = {"epochs": 30, "batch_size": 20, "progress": False}
    vaekit.fit(vae, x, learning_rate=1e-2, device="cpu", **options)
    told = {"name": "by-label", "classes": 3}
    vae.prior = vaekit.fit_prior(vae, (x, labels), told, learning_rate=0.2, out=tmp_path / "fit", **options)
    assert vaekit.evaluate(vae, (x, labels))["kl"] < 0.2 * 12 * math.log(3)

    key = vaekit.make_key(0)
    for again in (vaekit.load(vae.save(tmp_path / "model")), vaekit.load(tmp_path / "fit" / "last")):
        assert again.config()["prior"]["name"] == "by-label"
        assert torch.equal(again.sample(6, 2, key=key), vae.sample(6, 2, key=key))
        indices = again.indices(x)
        assert torch.equal(indices, vae.indices(x))
        assert torch.equal(again.decode_codes(indices), vae.reconstruct(x))

"""A prior that is fitted by the loop of `fit`: what learns, what it is told, and that a fit can be interrupted anywhere."""

import math

import pytest
import torch
from helpers.small_runs import Interrupt
from torch.testing import assert_close

import vaekit

AUTOREGRESSIVE = {"name": "autoregressive_codes", "width": 8, "layers": 1, "heads": 2, "dropout": 0.2}
LABELS = {"name": "labels", "classes": 3}
X = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(50) % 3
POSTERIORS = {
    "codes": {
        "posterior": {"name": "vector_quantized", "codes": 5},
        "prior": "codes",
        "loss": {"name": "vector_quantized", "beta": 0.5},
    },
    "no table": {"posterior": {"name": "finite_scalar", "levels": 3}, "prior": "codes", "loss": "vector_quantized"},
    "relaxed": {"posterior": {"name": "gumbel_softmax", "codes": 5}, "prior": "codes"},
    "vectors": {"loss": {"name": "beta_tc", "beta": 6.0}},
    "points": {"posterior": "point", "loss": "autoencoder"},
}


def model(kind="codes", **parts):
    spatial = {"channels": (4, 4), "spatial": True}
    return vaekit.create_vae(
        input_shape=(1, 8, 8), latent_dim=2, encoder={"name": "conv", **spatial}, decoder={"name": "conv", "channels": (4, 4)},
        seed=0, **{**POSTERIORS[kind], **parts},
    )  # fmt: skip


def prior_for(kind):
    return AUTOREGRESSIVE if kind in ("codes", "no table", "relaxed") else "diagonal_gaussian"


def fitted(vae, data=X, prior=AUTOREGRESSIVE, **options):
    return vaekit.fit_prior(vae, data, prior, **{"epochs": 3, "batch_size": 16, "progress": False, **options})


def contents(folder):
    files = [path for path in folder.rglob("*.safetensors") if "checkpoints" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", POSTERIORS)
def test_the_loss_is_the_bound_and_the_saved_model_has_it_too(kind, tmp_path):
    vae = model(kind)
    prior = fitted(vae, prior=prior_for(kind), validation=X, epochs=6, learning_rate=2e-2, out=tmp_path / "fit")
    history, best = vaekit.History.from_csv(tmp_path / "fit" / "history.csv"), vaekit.load(tmp_path / "fit" / "best")
    for at, loss in enumerate(history["val_loss"]):
        assert loss == pytest.approx(history["val_reconstruction"][at] + history["val_kl"][at], rel=1e-6)
    assert history["val_kl"][-1] < history["val_kl"][0] - 0.01
    found = vaekit.evaluate(best, X)
    assert found["loss"] == pytest.approx(history["val_loss"][history.best_epoch], rel=1e-5)
    assert_close(dict(best.prior.state_dict()), dict(prior.state_dict()))
    assert best.sample(2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("kind", POSTERIORS)
def test_nothing_but_the_prior_changes(kind, tmp_path):
    vae = model(kind).train()
    vae.encoder.eval()
    frozen = next(vae.decoder.parameters()).requires_grad_(False)

    def state():
        modes = {name: module.training for name, module in vae.named_modules()}
        return modes, {n: p.requires_grad for n, p in vae.named_parameters()}, {n: w.clone() for n, w in vae.state_dict().items()}

    before = state()
    prior = fitted(vae, prior=prior_for(kind))
    with pytest.raises(ValueError, match="callbacks failed"):
        fitted(vae, prior=prior_for(kind), callbacks=[Fails()])
    after = state()
    assert before[:2] == after[:2]
    assert all(torch.equal(before[2][name], weight) for name, weight in after[2].items())
    assert not frozen.requires_grad
    assert not prior.training
    assert vae.prior is not prior


class Fails(vaekit.Callback):
    def on_step_end(self, state):
        raise ValueError("callbacks failed")


@pytest.mark.parametrize("kind", ["codes", "vectors"])
@pytest.mark.parametrize("after", [1, 4, 6])
def test_a_fit_that_was_interrupted_and_gone_on_with_is_the_one_that_was_not(kind, after, tmp_path):
    options = {"prior": prior_for(kind), "validation": X[:9], "ema": 0.9, "learning_rate": 1e-2}
    whole = fitted(model(kind), out=tmp_path / "whole", **options)
    fitted(model(kind), out=tmp_path / "again", callbacks=[Interrupt(after)], **options)
    assert contents(tmp_path / "again") != contents(tmp_path / "whole")
    again = fitted(model(kind), out=tmp_path / "again", resume=True, **options)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in whole.state_dict().items())
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    one, other = (vaekit.History.from_csv(tmp_path / name / "history.csv") for name in ("again", "whole"))
    assert dict(one) == dict(other)


def test_vaekit_resume_goes_on_with_a_fit_of_a_prior_too(tmp_path):
    whole = fitted(model(), out=tmp_path / "whole")
    fitted(model(), out=tmp_path / "again", callbacks=[Interrupt(5)])
    vaekit.resume(tmp_path / "again", X, progress=False)
    again = vaekit.load(tmp_path / "again" / "last")
    assert all(torch.equal(weight, again.prior.state_dict()[name]) for name, weight in whole.state_dict().items())


def test_another_prior_is_not_gone_on_with(tmp_path):
    fitted(model(), out=tmp_path / "run")
    with pytest.raises(ValueError, match="the prior's width was 8 and is 16"):
        fitted(model(), prior={**AUTOREGRESSIVE, "width": 16}, out=tmp_path / "run", resume=True)


def test_a_fit_stops_where_it_gets_no_better_and_gives_the_best(tmp_path):
    """Five pictures are learned by heart, to the cost of all others."""
    vae, held_out, epochs = model(), X[5:], []

    class Count(vaekit.Callback):
        def on_epoch_end(self, state):
            epochs.append(state.history["val_kl"][-1])

    spec, callbacks = {**AUTOREGRESSIVE, "width": 32, "dropout": 0.0}, [vaekit.EarlyStopping(3), Count()]
    prior = fitted(vae, X[:5], spec, validation=held_out, epochs=200, batch_size=5, learning_rate=2e-2, callbacks=callbacks)
    assert 4 < len(epochs) < 100
    assert -float(prior.log_prob_of(vae.indices(held_out)).detach().mean()) == pytest.approx(min(epochs), rel=1e-5)
    assert epochs[-1] > min(epochs)


def test_a_number_is_the_highest_rate_of_one_that_rises_and_falls_to_0(tmp_path):
    rates = []

    class Rates(vaekit.Callback):
        def on_step_end(self, state):
            rates.append(state.learning_rate)

    fitted(model(), epochs=10, learning_rate=3e-3, callbacks=[Rates()])
    steps = 10 * math.ceil(50 / 16)
    assert len(rates) == steps
    assert rates[2] == max(rates) == 3e-3  # after a twentieth
    assert rates[0] == 0.0
    assert 0.0 < rates[-1] < 1e-4


def test_progress_is_that_of_fit(capfd):
    fitted(model(), progress=True)
    assert "training on cpu" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["codes", "no table"])
def test_a_prior_that_is_told_labels_is_trained_with_the_model_or_afterwards_whose_networks_are_not(kind, tmp_path):
    """The label is the picture: told it, its codes cost nothing."""
    pictures = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round()[Y]
    told = {**AUTOREGRESSIVE, "condition": LABELS, "dropout": 0.0}
    vae = model(kind)
    afterwards = fitted(vae, (pictures, Y), told, epochs=60, learning_rate=2e-2)
    together = model(kind, prior=told)
    vaekit.fit(together, (pictures, Y), epochs=60, batch_size=16, learning_rate=2e-2, progress=False, device="cpu")
    vae.prior = afterwards
    for each in (vae, together):
        assert vaekit.evaluate(each, (pictures, Y))["kl"] < 1.0  # of 4 codes
        loaded = vaekit.load(each.save(tmp_path / str(id(each))))
        assert torch.equal(loaded.sample(3, 1, key=vaekit.make_key(0)), each.sample(3, 1, key=vaekit.make_key(0)))
        with pytest.raises(ValueError, match="the prior is told a condition"):
            vaekit.evaluate(each, pictures)
        assert len(vaekit.plots.samples(each, 2).axes) == 6  # a row for each label
    with pytest.raises(ValueError, match="a class number from 0 to 2"):
        vaekit.fit_prior(vae, (pictures, Y + 1), told, epochs=1, progress=False)


def test_what_is_counted_has_no_run(tmp_path):
    vae = model()
    for options in ({"callbacks": [Fails()]}, {"out": tmp_path / "run", "resume": True}):
        with pytest.raises(ValueError, match="Codes is counted at once"):
            fitted(vae, prior="codes", **options)
    prior = fitted(vae, prior="codes", out=tmp_path / "run")
    for name in ("best", "last"):
        assert torch.equal(vaekit.load(tmp_path / "run" / name).prior.logits, prior.logits)
    with pytest.raises(FileExistsError, match="best of an earlier run"):
        fitted(vae, prior="codes", out=tmp_path / "run")
    assert vae.prior is not prior

"""Warnings of a run that goes wrong: each comes once, and none for a healthy run."""

import copy
import math
import warnings

import pytest
import torch
from helpers.small_runs import X, fit, model

import vaekit
from vaekit.training import signs, watch

BOUNDED = {"name": "diagonal_gaussian", "logvar_bound": 5.0}  # for runs on data that are far off
LOADER = torch.utils.data.DataLoader


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(signs, "TRAINED", 50)
    monkeypatch.setattr(signs, "SEEN", 1000)
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", 0.0)


def warned(vae, data=X, **options):
    """What a run warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(vae, data, **options)
    return [str(one.message) for one in caught if one.category is UserWarning]


LINES = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) @ torch.tensor(
    [[1.0, 1, 0, 0, 1, -1], [0, 1, 1, -1, 0, 1]]
)


@pytest.mark.parametrize("as_loader", [False, True])
def test_a_healthy_run_warns_of_nothing(as_loader):
    data = LOADER(LINES, batch_size=50, shuffle=True) if as_loader else LINES
    vae = model(likelihood={"name": "gaussian", "sigma": 0.5})
    assert not warned(vae, data, epochs=30, batch_size=50, learning_rate=0.01, validation=LINES)
    assert not warned(model(), epochs=3)


# The scale of the data.


@pytest.mark.parametrize("as_loader", [False, True])
@pytest.mark.parametrize("change", [lambda x: x * 100, lambda x: x + 50, lambda x: x * 1e-3])
def test_columns_far_from_the_scale_of_a_gaussian_are_named(change, as_loader):
    x = LINES.clone()
    x[:, [1, 4]] = change(x[:, [1, 4]])
    data = LOADER(x, batch_size=50) if as_loader else x
    said = [one for one in warned(model(likelihood="gaussian"), data, epochs=2) if "sigma" in one]
    assert len(said) == 1
    assert "fixed sigma of 1, and the data of 2 of 6 column(s) are far from that scale: 1 and 4. Column 1 has the mean" in said[0]
    for likelihood in ({"name": "gaussian", "variance": "shared"}, "laplace"):
        assert not [one for one in warned(model(likelihood=likelihood), data, epochs=1) if "sigma" in one]


def test_the_mean_and_the_deviation_are_those_of_the_values_that_are_there():
    x = LINES.clone()
    x[:, 2] = x[:, 2] * 100 + 7
    x[::3, 2] = math.nan
    said = warned(model(likelihood={"name": "gaussian", "missing": "ignore"}, posterior=BOUNDED), x, epochs=1)
    there = x[:, 2][~x[:, 2].isnan()].double()
    assert f"Column 2 has the mean {there.mean():.4g} and the standard deviation {there.std(correction=0):.4g}." in said[0]


def test_channels_of_images_and_columns_by_their_names():
    images = torch.rand(20, 3, 8, 8)
    images[:, 2] *= 255
    vae = vaekit.create_vae(
        input_shape=(3, 8, 8), latent_dim=2, likelihood="gaussian", encoder={"hidden": (8,)}, posterior=BOUNDED, seed=0
    )
    assert "1 of 3 channel(s) are far from that scale: 2." in warned(vae, images, epochs=1)[0]
    table = LINES[:, :3].clone()
    table[:, 2] *= 1000
    columns = {"a": "gaussian", "b": "gaussian", "c": "gaussian"}
    vae = vaekit.create_vae(
        input_shape=(3,),
        latent_dim=2,
        likelihood={"name": "columns", "columns": columns},
        encoder={"hidden": (8,)},
        posterior=BOUNDED,
        seed=0,
    )
    assert "1 of 3 column(s) are far from that scale: c." in warned(vae, table, epochs=1)[0]


def test_the_scale_is_that_of_sigma_and_a_constant_is_none():
    x = LINES * 100
    x[:, 0] = 3.0
    assert not warned(model(likelihood={"name": "gaussian", "sigma": 100.0}, posterior=BOUNDED), x, epochs=1)


# The log variance.


def test_a_log_variance_near_overflow_is_warned_of_once_before_it_overflows():
    vae = model()
    vae.encoder.register_forward_hook(lambda module, given, q: vaekit.DiagonalGaussian(q.mu, q.logvar * 0 + 60.0))
    said = warned(vae, epochs=3, learning_rate=1e-9)
    assert len(said) == 1
    assert "step 0: the encoder's log variance is from 60 to 60; its exponential overflows float32 beyond 88.7" in said[0]
    vae = model()
    vae.encoder.register_forward_hook(lambda module, given, q: vaekit.DiagonalGaussian(q.mu, q.logvar * 0 + 40.0))
    assert not warned(vae, epochs=1, learning_rate=1e-9)


def test_a_copy_of_the_model_within_a_run_does_not_take_the_data_along():
    class Copies(vaekit.Callback):
        def on_epoch_end(self, state):
            copied = copy.deepcopy(state.vae)
            (hook,) = copied.encoder._forward_hooks.values()
            held.append([cell.cell_contents for cell in hook.__closure__])

    held, vae = [], model()
    fit(vae, callbacks=[Copies()])
    assert all(not isinstance(content, signs.Signs) for contents in held for content in contents)
    assert not vae.encoder._forward_hooks


# Averages beside sums.


class Averaged(vaekit.Elbo):
    """An ELBO as it is often written by mistake: in the "total" alone, or in the "term" as well, or right with "both"."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def forward(self, model, batch, context):
        terms = super().forward(model, batch, context)
        reconstruction = terms.reconstruction / math.prod(batch.x.shape[1:])
        kl = terms.kl / math.prod(batch.x.shape[1:]) if self.where == "both" else terms.kl
        total = reconstruction.mean() + 0.5 * kl.mean() if self.where == "term" else reconstruction.mean() + kl.mean()
        if self.where == "total":
            return terms._replace(total=total)
        return terms._replace(total=total, reconstruction=reconstruction, kl=kl)


@pytest.mark.parametrize("where", ["total", "term", "both"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_reconstruction_that_is_a_mean_beside_a_divergence_that_is_a_sum_is_warned_of(where, likelihood):
    x = torch.rand(50, 1, 8, 8)
    parts = vaekit.create_vae(
        input_shape=(1, 8, 8), latent_dim=2, likelihood=likelihood, encoder={"hidden": (8,)}, decoder={"hidden": (8,)}, seed=0
    )
    vae = vaekit.VAE(parts.encoder, parts.decoder, likelihood=parts.likelihood, loss=Averaged(where))
    said = warned(vae, x, epochs=1)
    assert len(said) == (where != "both")
    if said:
        assert "Averaged takes the reconstruction as a mean over the 64 elements of an example" in said[0]


@pytest.mark.parametrize("loss", ["elbo", "iwae", "beta_tc", "info_vae", "dip_vae", "factor", "free_bits", "capacity"])
def test_objectives_of_the_house_are_none_of_those(loss):
    vae = vaekit.create_vae(
        input_shape=(1, 8, 8), latent_dim=2, loss=loss, encoder={"hidden": (8,)}, decoder={"hidden": (8,)}, seed=0
    )
    assert not [one for one in warned(vae, torch.rand(50, 1, 8, 8), epochs=1) if "mean over" in one]


# What was learned.


def test_what_was_not_learned_is_warned_of_in_the_name_of_the_line_that_called_fit():
    vae = model(likelihood={"name": "gaussian"}, loss={"name": "elbo", "beta": 1000.0})
    with pytest.warns(UserWarning, match="have collapsed") as caught:
        vaekit.fit(vae, LINES, epochs=30, batch_size=50, learning_rate=0.01, progress=False, device="cpu")
    assert {one.filename for one in caught} == {__file__}


@pytest.mark.parametrize("validation", [None, LINES])
def test_latent_dimensions_that_have_collapsed_are_named(validation):
    vae = model(likelihood={"name": "gaussian"}, loss={"name": "elbo", "beta": 1000.0})
    said = warned(vae, LINES, epochs=30, batch_size=50, learning_rate=0.01, validation=validation)
    what = "2 of 2 latent dimensions have collapsed, with a divergence below 0.01 nats: z[0] and z[1]."
    assert [one[: one.index("They")].strip() for one in said] == [f"after step 49, {what}", f"at the end of the run, {what}"]
    kl = vaekit.evaluation.latent_statistics(vae, LINES).kl
    assert (kl < 0.01).all()
    assert not warned(model(loss={"name": "elbo", "beta": 1000.0}), epochs=2)  # 8 steps, which tell nothing


class Fixed(vaekit.Callback):
    """A posterior that has collapsed until so many steps are done; what had been warned of at the end of each epoch."""

    def __init__(self, vae, until=10**9):
        self.mean, self.until, self.said = 0.0, until, []
        vae.encoder.register_forward_hook(lambda module, given, q: vaekit.DiagonalGaussian(q.mu * 0 + self.mean, q.logvar * 0))

    def on_fit_start(self, state):
        self.caught = warnings.catch_warnings(record=True)
        self.warned = self.caught.__enter__()
        warnings.simplefilter("always")

    def on_step_end(self, state):
        self.mean = 0.0 if state.step < self.until else 3.0

    def on_epoch_end(self, state):
        self.said.append(len(self.warned))

    def on_fit_end(self, state):
        self.caught.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("parts", "seen", "first"),
    [
        ({}, 1000, 5),
        ({}, 4000, 8),
        ({"loss": {"name": "elbo", "beta": {"name": "linear", "steps": 30}}}, 1000, 8),
        ({"loss": {"name": "elbo", "beta": {"name": "cyclic", "period": 10, "cycles": 4}}}, 1000, 9),
    ],
    ids=["steps", "examples", "warm-up", "cycles"],
)
def test_it_is_warned_at_the_end_of_the_first_epoch_at_which_it_can_be_known(parts, seen, first, monkeypatch):
    monkeypatch.setattr(signs, "SEEN", seen)
    vae = model(likelihood="laplace", **parts)
    fixed = Fixed(vae)
    said = warned(vae, LINES, epochs=11, batch_size=50, learning_rate=1e-3, callbacks=[fixed])
    assert fixed.said == [0] * (first - 1) + [1] * (12 - first)
    assert str(fixed.warned[0].message).startswith(f"after step {10 * first - 1}, 2 of 2 latent dimensions have collapsed")
    assert [one.startswith("at the end of the run, 2 of 2 latent dimensions") for one in said] == [True]


def test_what_has_come_alive_until_the_end_is_not_warned_of_again():
    vae = model(likelihood="laplace")
    fixed = Fixed(vae, until=75)
    assert not warned(vae, LINES, epochs=10, batch_size=50, learning_rate=1e-3, callbacks=[fixed])
    assert fixed.said[-1] == 1


def test_a_run_that_ends_where_it_can_first_be_known_warns_once():
    vae = model(likelihood="laplace")
    fixed = Fixed(vae)
    assert not warned(vae, LINES, epochs=5, batch_size=50, learning_rate=1e-3, callbacks=[fixed])
    assert fixed.said == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_long_epoch_is_not_waited_for(accumulate, monkeypatch):
    monkeypatch.setattr(signs, "LONG", 60)
    vae = model(likelihood="laplace")
    fixed = Fixed(vae)
    warned(vae, LINES, epochs=1, batch_size=5 // accumulate, accumulate=accumulate, learning_rate=1e-3, callbacks=[fixed])
    assert str(fixed.warned[0].message).startswith("after step 59, 2 of 2 latent dimensions")


def quantized(codes, **options):
    return vaekit.create_vae(
        input_shape=(6,),
        latent_dim=2,
        likelihood="gaussian",
        encoder={"hidden": (8,)},
        decoder={"hidden": (8,)},
        posterior={"name": "vector_quantized", "codes": codes, **options},
        prior="codes",
        loss="vector_quantized",
        seed=0,
    )


def test_codes_that_are_not_used_are_named():
    vae = quantized(4, revive_below=0.0)

    class Away(vaekit.Callback):
        def on_step_end(self, state):
            state.vae.encoder.family.codebook[[1, 3]] = 1e3

    said = warned(vae, LINES, epochs=6, batch_size=50, callbacks=[Away()])
    whens = ("after step 49", "at the end of the run")
    assert [one.partition(" Take")[0] for one in said] == [f"{when}, 2 of 4 codes are not used: 1, 3." for when in whens]
    assert not warned(quantized(4), LINES, epochs=6, batch_size=50)

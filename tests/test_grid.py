"""Every encoder with every decoder, likelihood and condition that fit together: they train, save and load; others are refused.

What runs is a covering set, in which every pair of values occurs that occurs in any combination; VAEKIT_FULL_GRID=1 runs all.
"""

import itertools
import os
from typing import NamedTuple

import pytest
import torch
from helpers.densities import OF_SEVERAL, REQUIRED, data_in_support

import vaekit
from vaekit import conditions, decoders, encoders, likelihoods, posteriors, priors

SHAPES = {1: (5,), 2: (2, 12), 3: (1, 8, 8), 4: (1, 4, 4, 4)}  # a table's row, a series, an image, a volume, by their dimensions
DIMENSIONS = {"mlp": (1, 2, 3, 4), "conv1d": (2,), "conv": (3,), "conv3d": (4,), "resnet": (2, 3, 4), "top_down": (2, 3, 4)}
SMALL = {
    "mlp": {"hidden": (16,)},
    "resnet": {"channels": (8, 16), "blocks": 1},
    "top_down": {"channels": (4, 8), "groups": (1, 1)},
}
BEHIND = {"name": "top_down", "decoder": {"name": "mlp", "hidden": (16,)}}
CONVOLUTIONS = {"channels": (4, 8)}
COLUMNS = ["gaussian", {"name": "categorical", "classes": 3}, "poisson", "laplace", "negative_binomial"]
CONDITIONS = {
    "none": None,
    "labels": {"name": "labels", "classes": 3, "dim": 2},
    "inferred_labels": {"name": "inferred_labels", "classes": 3, "classifier": {"hidden": (8,)}},
    "vector": {"name": "vector", "size": 2},
    "several": [{"name": "labels", "classes": 3, "dim": 2}, {"name": "vector", "size": 1}],
}
EXAMPLES = 24
ENCODERS, DECODERS, LIKELIHOODS = (
    [name for name in room.names() if name not in OF_SEVERAL] for room in (encoders, decoders, likelihoods)
)


class Combination(NamedTuple):
    dimensions: int
    encoder: str
    spatial: bool
    decoder: str
    likelihood: str
    condition: str

    @property
    def fits(self) -> bool:
        networks = all(self.dimensions in DIMENSIONS[name] for name in (self.encoder, self.decoder))
        # A decoder takes latents with positions at its own lowest resolution: the dense one any, the others that of two halvings.
        halvings = {"mlp": None, "resnet": 1}
        same = halvings.get(self.encoder, 2) == halvings.get(self.decoder, 2) or self.decoder == "mlp"
        positions = not self.spatial or (self.encoder != "mlp" and same)
        if "top_down" in (self.encoder, self.decoder):  # levels lie side by side, which another decoder cannot read in space
            positions = self.encoder == "top_down" and self.decoder in ("mlp", "top_down") and not self.spatial
        return networks and positions and (self.likelihood != "columns" or self.dimensions == 1)

    def build(self) -> vaekit.VAE:
        likelihood = {"name": self.likelihood, **REQUIRED.get(self.likelihood, {})}
        if self.likelihood == "columns":
            likelihood["columns"] = COLUMNS
        encoder = {"name": self.encoder, **SMALL.get(self.encoder, CONVOLUTIONS), **({"spatial": True} if self.spatial else {})}
        decoder = {"name": self.decoder, **SMALL.get(self.decoder, CONVOLUTIONS)}
        decoder |= {"channels": decoder["channels"][::-1]} if "channels" in decoder else {}
        decoder = BEHIND if self.decoder == "top_down" else decoder
        return vaekit.create_vae(
            input_shape=SHAPES[self.dimensions],
            latent_dim=2,
            encoder=encoder,
            decoder=decoder,
            likelihood=likelihood,
            prior="top_down" if self.encoder == "top_down" else None,
            condition=CONDITIONS[self.condition],
            loss="semi_supervised" if self.condition == "inferred_labels" else "elbo",
            seed=0,
        )


EVERY = [Combination(*values) for values in itertools.product(SHAPES, ENCODERS, (False, True), DECODERS, LIKELIHOODS, CONDITIONS)]
FITTING = [combination for combination in EVERY if combination.fits]


def pairs(combination: Combination) -> set[tuple]:
    return set(itertools.combinations(enumerate(combination), 2))


def covering(combinations: list[Combination]) -> list[Combination]:
    """A few of them in which all pairs occur: again and again the one that has the most new pairs."""
    left, chosen = set().union(*map(pairs, combinations)), []
    while left:
        chosen.append(max(combinations, key=lambda combination: len(pairs(combination) & left)))
        left -= pairs(chosen[-1])
    return chosen


CHOSEN = FITTING if os.environ.get("VAEKIT_FULL_GRID") else covering(FITTING)


def test_the_grid_holds_every_part():
    assert set(DIMENSIONS) == set(ENCODERS) == set(DECODERS)
    assert set(CONDITIONS) == {"none", *conditions.names()}
    for place, values in enumerate((SHAPES, ENCODERS, (False, True), DECODERS, LIKELIHOODS, CONDITIONS)):
        assert {combination[place] for combination in CHOSEN} == set(values)


@pytest.mark.parametrize("combination", CHOSEN, ids=lambda c: "-".join(map(str, c)))
def test_what_fits_together_trains_saves_and_loads(combination, tmp_path):
    vae = combination.build()
    x = data_in_support(vae.likelihood, (EXAMPLES, *SHAPES[combination.dimensions]))
    labels, vector = torch.arange(EXAMPLES) % 3, torch.linspace(-1, 1, 2 * EXAMPLES).view(-1, 2)
    several, some = torch.stack([labels.float(), vector[:, 0]], 1), torch.where(torch.arange(EXAMPLES) % 2 == 0, labels, -1)
    y = {"none": None, "labels": labels, "inferred_labels": some, "vector": vector, "several": several}
    told = y[combination.condition]
    data = x if told is None else (x, told)
    before = vaekit.evaluate(vae, data)["loss"]
    vaekit.fit(vae, data, epochs=10, batch_size=EXAMPLES, learning_rate=3e-3, progress=False, device="cpu")
    assert vaekit.evaluate(vae, data)["loss"] < before

    again, key = vaekit.load(vae.save(tmp_path)), vaekit.make_key(1)
    vae.eval(), again.eval()
    assert again.config() == vae.config()
    for got, expected in zip(again(x, told, key=key)[:3], vae(x, told, key=key)[:3], strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(again.reconstruct(x, told), vae.reconstruct(x, told))
    drawn = again.sample(EXAMPLES, told, draw=True, key=key)
    assert torch.equal(drawn, vae.sample(EXAMPLES, told, draw=True, key=key))
    vae.likelihood.check(drawn)


MISFITS = [c for c in EVERY if not c.fits and c.condition == "none" and c.likelihood in ("gaussian", "columns")]


@pytest.mark.parametrize("combination", MISFITS, ids=lambda c: "-".join(map(str, c)))
def test_what_does_not_fit_together_is_refused_with_the_reason(combination):
    with pytest.raises((TypeError, ValueError)) as caught:
        combination.build()
    words = str(caught.value)
    reasons = ["got the shape", "takes no option 'spatial'", "do not lead to data", "describes tables with 5 column(s)"]
    reasons += ["no number of doublings leads from", "which the encoder has not"]
    assert any(reason in words for reason in reasons), words


# Codes: every posterior over them with every prior over them, behind networks of all ranks, told labels or not.

OF_CODES = {
    "finite_scalar": {"levels": 3},
    "gumbel_softmax": {"codes": 4},
    "lookup_free": {},
    "residual_vector_quantized": {"codes": 4, "quantizers": 2},
    "vector_quantized": {"codes": 4},
}
OVER_CODES = {
    "autoregressive_codes": {"width": 8, "layers": 1, "heads": 2},
    "codes": {},
    "pixel_cnn": {"width": 8, "layers": 2},
}
NETWORKS = {"mlp": 1, "conv1d": 2, "conv": 3, "conv3d": 4, "resnet": 3}  # by the dimensions of an example
LABELS = {"name": "labels", "classes": 3}


class Coded(NamedTuple):
    network: str
    posterior: str
    prior: str
    told: bool

    @property
    def fits(self) -> bool:
        is_relaxed = self.posterior == "gumbel_softmax"  # which learns with a prior whose places are independent
        is_grid = NETWORKS[self.network] == 3 and self.posterior != "residual_vector_quantized"
        return {"codes": True, "autoregressive_codes": not is_relaxed, "pixel_cnn": is_grid and not is_relaxed}[self.prior]

    def build(self) -> vaekit.VAE:
        spatial = {} if self.network == "mlp" else {"spatial": True}
        options = {"name": self.network, **SMALL.get(self.network, CONVOLUTIONS)}
        decoder = {**options, "channels": options["channels"][::-1]} if "channels" in options else options
        learns_labels = self.told and self.prior != "codes"
        return vaekit.create_vae(
            input_shape=SHAPES[NETWORKS[self.network]],
            latent_dim=2,
            encoder={**options, **spatial},
            decoder=decoder,
            posterior={"name": self.posterior, **OF_CODES[self.posterior]},
            prior={"name": self.prior, **OVER_CODES[self.prior], **({"condition": LABELS} if learns_labels else {})},
            loss="elbo" if self.posterior == "gumbel_softmax" else "vector_quantized",
            condition=LABELS if self.told else None,
            seed=0,
        )


EVERY_CODED = [Coded(*values) for values in itertools.product(NETWORKS, OF_CODES, OVER_CODES, (False, True))]
FITTING_CODED = [coded for coded in EVERY_CODED if coded.fits]
CHOSEN_CODED = FITTING_CODED if os.environ.get("VAEKIT_FULL_GRID") else covering(FITTING_CODED)


def test_the_grid_holds_every_part_over_codes():
    families = {name: posteriors.create(name, latent_shape=(2,)) for name in posteriors.names()}
    assert set(OF_CODES) == {name for name, family in families.items() if isinstance(family, posteriors.CodeFamily)}
    over = {name: priors.create(name, latent_shape=(2,)) for name in OVER_CODES}
    assert all(isinstance(prior, priors.CodePrior) for prior in over.values())


@pytest.mark.parametrize("coded", CHOSEN_CODED, ids=lambda c: "-".join(map(str, c)))
def test_codes_train_save_and_load(coded, tmp_path):
    vae = coded.build()
    x = 1.0 - 0.2 * torch.rand(EXAMPLES, *vae.input_shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(EXAMPLES) % 3
    data, told = ((x, labels), labels) if coded.told else (x, None)
    before = vaekit.evaluate(vae, data)["reconstruction"]
    vaekit.fit(vae, data, epochs=10, batch_size=EXAMPLES, learning_rate=1e-2, progress=False, device="cpu")
    assert vaekit.evaluate(vae, data)["reconstruction"] < before
    again, key = vaekit.load(vae.save(tmp_path)), vaekit.make_key(1)
    vae.eval(), again.eval()
    for got, expected in zip(again(x, told, key=key)[:3], vae(x, told, key=key)[:3], strict=True):
        assert torch.equal(got, expected)
    indices = again.indices(x, told)
    assert torch.equal(indices, vae.indices(x, told))
    torch.testing.assert_close(again.decode_codes(indices, told), vae.reconstruct(x, told))
    assert torch.equal(again.sample(EXAMPLES, told, key=key), vae.sample(EXAMPLES, told, key=key))


@pytest.mark.parametrize("coded", [c for c in EVERY_CODED if not c.fits and not c.told], ids=lambda c: "-".join(map(str, c)))
def test_codes_that_do_not_go_with_a_prior_are_refused_with_the_reason(coded):
    with pytest.raises((ValueError, NotImplementedError), match="a grid, got codes of the shape|a relaxed draw is a mixture"):
        coded.build()(torch.rand(2, *SHAPES[NETWORKS[coded.network]]))

"""Every objective with every posterior and prior: finite terms and gradients, or a refusal that names what does not fit."""

import itertools
import math

import pytest
import torch

import vaekit
from vaekit import losses, posteriors, priors

pytest.importorskip("zuko", reason="zuko is not installed: pip install 'vaekit[flows]'")

FLOW = {"name": "flow", "transforms": 1, "hidden": (4,), "context": 2}
OPTIONS = {
    "posterior": {
        "flow": FLOW,
        "planar_flow": {"transforms": 2},
        "radial_flow": {"transforms": 2},
        "vector_quantized": {"codes": 3},
        "residual_vector_quantized": {"codes": 3},
    },
    "prior": {
        "gaussian_mixture": {"components": 3},
        "vamp": {"components": 3},
        "flow": {"transforms": 1, "hidden": (4,)},
        "autoregressive_codes": {"width": 8, "layers": 1},
    },
    "loss": {
        "factor": {"hidden": (4,)},
        "aae": {"discriminator": {"name": "mlp", "hidden": (4,)}},
        "perceptual": {"discriminator": {"name": "mlp", "hidden": (4,)}},
        "vae_gan": {"discriminator": {"name": "mlp", "hidden": (4,)}},
    },
}
CONDITIONS = {
    "semi_supervised": {"name": "inferred_labels", "classes": 3, "classifier": {"hidden": (5,)}}
}  # of objectives that need one, missing here
VARIANTS = {
    "iwae, doubly reparameterized": {"name": "iwae", "gradient": "doubly_reparameterized"},
    "dip_vae i": {"name": "dip_vae", "kind": "i"},
    "autoencoder, all of it": {"name": "autoencoder", "beta": 0.1, "l2": 0.1, "gradient": 0.1, "projections": 2},
}
LOSSES = [*(name for name in losses.names() if name != "mvae"), *VARIANTS]  # mvae: tests/test_multimodal.py
CODES, RELAXED, VECTORS, POINTS, UNITS, BALL = "codes", "relaxed", "vectors", "points", "units", "ball"
WITH_UNITS = ("iwae", "iwae, doubly reparameterized", "miwae", "ciwae", "piwae", "renyi", "capacity", "info_vae")
KINDS = {  # of latents that parts are for; the other posteriors and losses are for vectors, the other priors for points too
    "posterior": {
        **{key: {CODES} for key in ("vector_quantized", "residual_vector_quantized", "finite_scalar", "lookup_free")},
        "gumbel_softmax": {RELAXED},
        "point": {POINTS},
        **{key: {UNITS} for key in ("von_mises_fisher", "power_spherical")},
        "wrapped_normal": {BALL},
    },
    "prior": {
        **{key: {CODES, RELAXED} for key in ("codes", "autoregressive_codes", "pixel_cnn")},
        "vamp": {VECTORS, UNITS, BALL},
        "uniform_sphere": {UNITS},
        "wrapped_normal": {BALL},
    },
    "loss": {
        "vector_quantized": {CODES},
        "elbo": {VECTORS, RELAXED, UNITS, BALL},
        "perceptual": {VECTORS, RELAXED, UNITS, BALL},
        "aae": {VECTORS, POINTS},
        "wae": {VECTORS, POINTS, UNITS, BALL},
        **{key: {VECTORS, UNITS, BALL} for key in WITH_UNITS},
        **{key: {POINTS} for key in ("autoencoder", "autoencoder, all of it")},
    },
}
OTHERS = {"posterior": {VECTORS}, "prior": {VECTORS, POINTS}, "loss": {VECTORS}}
PICKY = {"free_bits", "beta_tc", "dip_vae", "dip_vae i"}  # they ask for more than a divergence
GRADIENT_DRAWS = 400


def spec(kind, name):
    return VARIANTS.get(name, {"name": name, **OPTIONS[kind].get(name, {})})


def model(loss="elbo", posterior="diagonal_gaussian", prior="standard_normal"):
    """A small one, with weights at which a new flow is not the identity any more."""
    vae = vaekit.create_vae(
        input_shape=(4,),
        latent_dim=2,
        encoder={"name": "mlp", "hidden": (5,), **({"condition_dim": 0} if loss in CONDITIONS else {})},
        decoder={"name": "mlp", "hidden": (5,)},
        posterior=spec("posterior", posterior),
        prior=spec("prior", prior),
        loss=spec("loss", loss),
        likelihood="gaussian",
        condition=CONDITIONS.get(loss),
        seed=0,
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return vae


@pytest.mark.parametrize(("loss", "posterior", "prior"), list(itertools.product(LOSSES, posteriors.names(), priors.names())))
def test_an_objective_works_with_a_posterior_and_a_prior_or_says_why_it_does_not(loss, posterior, prior):
    x, key = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), vaekit.make_key(1)
    parts = {"posterior": posterior, "prior": prior, "loss": loss}
    if not set.intersection(*(KINDS[kind].get(name, OTHERS[kind]) for kind, name in parts.items())):
        with pytest.raises(ValueError, match="are codes|are vectors|are points|are unit vectors"):
            model(loss, posterior, prior)
        return
    if prior == "top_down" and posterior != "ladder":
        with pytest.raises(ValueError, match="a single one"):
            model(loss, posterior, prior)
        return
    if prior == "pixel_cnn":  # over a grid, which this model has not; see tests/test_contract.py
        with pytest.raises(ValueError, match="a grid"):
            model(loss, posterior, prior)
        return
    vae = model(loss, posterior, prior)
    strangers = {type(vae.encode(x)).__name__, type(vae.prior).__name__} - {"DiagonalGaussian", "StandardNormal"}
    try:
        terms = vae(x, key=key, dataset_size=60)
    except NotImplementedError as error:
        assert (posterior, prior) == ("gumbel_softmax", "autoregressive_codes"), error
        return
    except (TypeError, ValueError) as error:
        assert loss in PICKY
        assert any(stranger in str(error) for stranger in strangers), error
        return
    assert terms.total.isfinite()
    assert terms.kl.shape == terms.reconstruction.shape == (6,)
    assert terms.kl.isfinite().all()
    terms.objective.backward()
    for name, parameter in vae.named_parameters():
        if name.startswith(("encoder", "decoder", "loss")):
            assert parameter.grad is not None, f"{name} gets no gradient"
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    assert all(math.isfinite(value) for value in vaekit.evaluate(vae, x).values())


@pytest.mark.parametrize("posterior", ["full_gaussian", "flow"])
def test_the_doubly_reparameterized_gradient_has_the_mean_of_the_plain_one(posterior):
    """For the encoder with its family in the mean over the keys, for the decoder exactly; the values are the same."""
    plain, doubly = (model(loss, posterior).double() for loss in ("iwae", "iwae, doubly reparameterized"))
    x, differences = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double(), {}
    for seed in range(GRADIENT_DRAWS):
        totals = [vae(x, key=vaekit.make_key(seed)).total for vae in (plain, doubly)]
        torch.testing.assert_close(totals[1], totals[0], rtol=1e-12, atol=0.0)
        gradients = [
            torch.autograd.grad(total, list(vae.parameters())) for total, vae in zip(totals, (plain, doubly), strict=True)
        ]
        for (name, _), *pair in zip(plain.named_parameters(), *gradients, strict=True):
            if name.startswith("encoder"):
                differences.setdefault(name, []).append(pair[0] - pair[1])
            else:
                torch.testing.assert_close(pair[1], pair[0], rtol=1e-9, atol=1e-12)
    assert any("family" in name for name in differences) == (posterior == "flow")
    for name, rows in differences.items():
        rows = torch.stack(rows)
        errors = rows.std(0) / math.sqrt(len(rows))
        assert (errors > 0).any(), name
        assert (rows.mean(0).abs() <= 4 * errors).all(), name

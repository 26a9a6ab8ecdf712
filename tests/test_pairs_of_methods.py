"""Every objective with every posterior and prior: finite terms and gradients, or a refusal that names what does not fit.

Priors and objectives for codes from a codebook are not of these: `vaekit.VAE` refuses them as such.
"""

import itertools
import math

import pytest
import torch

import vaekit
from vaekit import losses, posteriors, priors

pytest.importorskip("zuko", reason="zuko is not installed: pip install 'vaekit[flows]'")

FLOW = {"name": "flow", "transforms": 1, "hidden": (4,), "context": 2}
POSTERIORS = {"diagonal_gaussian": {}, "full_gaussian": {}, "flow": FLOW}
PRIORS = {"gaussian_mixture": {"components": 3}, "vamp": {"components": 3}, "flow": {"transforms": 1, "hidden": (4,)}}
OBJECTIVES = {
    **{name: {"name": name} for name in losses.names()},
    "iwae, doubly reparameterized": {"name": "iwae", "gradient": "doubly_reparameterized"},
    "dip_vae i": {"name": "dip_vae", "kind": "i"},
}


CONTINUOUS_PRIORS = [name for name in priors.names() if name != "codes"]
CONTINUOUS_LOSSES = [name for name, spec in OBJECTIVES.items() if not losses.create(spec["name"]).discrete]
PICKY = {"free_bits", "beta_tc", "dip_vae", "dip_vae i"}  # they ask for more than a divergence
GRADIENT_DRAWS = 400


def model(loss="elbo", posterior="diagonal_gaussian", prior="standard_normal", **options):
    """A small one, with weights at which a new flow is not the identity any more."""
    vae = vaekit.create_vae(
        input_shape=(4,),
        latent_dim=2,
        encoder={"name": "mlp", "hidden": (5,)},
        decoder={"name": "mlp", "hidden": (5,)},
        posterior={"name": posterior, **POSTERIORS[posterior]},
        prior={"name": prior, **PRIORS.get(prior, {})},
        loss=OBJECTIVES[loss],
        likelihood="gaussian",
        seed=0,
        **options,
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return vae


@pytest.mark.parametrize(
    ("loss", "posterior", "prior"), list(itertools.product(CONTINUOUS_LOSSES, POSTERIORS, CONTINUOUS_PRIORS)), ids=str
)
def test_an_objective_works_with_a_posterior_and_a_prior_or_says_why_it_does_not(loss, posterior, prior):
    vae = model(loss, posterior, prior)
    x, key = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), vaekit.make_key(1)
    strangers = {type(vae.encode(x)).__name__, type(vae.prior).__name__} - {"DiagonalGaussian", "StandardNormal"}
    try:
        terms = vae(x, key=key, dataset_size=60)
    except (TypeError, ValueError) as error:
        assert loss in PICKY
        assert any(stranger in str(error) for stranger in strangers), error
        return
    assert terms.total.isfinite()
    assert terms.kl.shape == terms.reconstruction.shape == (6,)
    assert terms.kl.isfinite().all()
    terms.total.backward()
    for name, parameter in vae.named_parameters():
        if name.startswith(("encoder", "decoder")):
            assert parameter.grad is not None, f"{name} gets no gradient"
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    assert all(math.isfinite(value) for value in vaekit.evaluate(vae, x).values())


def test_every_registered_posterior_of_continuous_latents_is_here():
    assert set(POSTERIORS) == {name for name in posteriors.names() if not posteriors.create(name, latent_shape=(2,)).discrete}


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

"""Laws of derived keys: each has a name, no two of one parent are the same, and none depends on how a batch is split."""

import ast
import inspect
from pathlib import Path

import pytest
import torch

import vaekit
from vaekit import losses, priors
from vaekit.ops import streams

PARENTS = [value for _, value in inspect.getmembers(streams, inspect.isclass)]


def numbers(parent):
    return {name: value for name, value in vars(parent).items() if not name.startswith("_")}


@pytest.mark.parametrize("parent", PARENTS)
def test_two_keys_of_one_parent_have_different_numbers(parent):
    assert numbers(parent)
    assert len(set(numbers(parent).values())) == len(numbers(parent))
    keys = [tuple(vaekit.fold_in(vaekit.make_key(7), n).tolist()) for n in numbers(parent).values()]
    assert len(set(keys)) == len(keys)


def test_the_numbers_that_seeds_mean_stay_as_they_are():
    assert numbers(streams.Run) == {"STEPS": 0, "ORDER": 1, "EVALUATION": 2, "LOADER": 3, "VALIDATION": 4}
    assert numbers(streams.Step) == {"OBJECTIVE": 1, "LAYERS": 2, "IMPUTATION": 3, "CLASS": 4, "SETS": 5, "HEIGHT": 6}
    assert numbers(streams.Imputation) == {"CHOICE": 0, "DATA": 1}
    assert numbers(streams.Given) == {"LATENTS": 0, "PLACES": 1, "DATA": 2, "ORDER": 3}
    assert numbers(streams.Generators) == {"PYTHON": -1, "NUMPY": -2}  # where processes have 1, 2, ...
    assert numbers(streams.Sample) == {"COMPONENT": 1, "DATA": -1, "CLASS": -2}


def test_no_key_is_derived_by_a_bare_number_or_from_row_start():
    calls = 0
    for file in Path(vaekit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("fold_in", ".folded")):
                number = ast.unparse(node.args[-1])
                calls += 1
                assert not number.lstrip("-").isdigit(), f"{file}:{node.lineno}: a key for {number}"
                assert "row_start" not in number, f"{file}:{node.lineno}: a key for {number}"
    assert calls > 30


def prior(name, dtype):
    options = {"gaussian_mixture": {"components": 3}, "vamp": {"components": 3}}.get(name, {})
    rest = {"input_shape": (4,)}
    if name in ("codes", "autoregressive_codes", "pixel_cnn"):
        convolutions = {"name": "conv", "channels": (4, 4)}
        rest = {"input_shape": (1, 8, 8), "encoder": {**convolutions, "spatial": True}, "decoder": convolutions}
        rest |= {"posterior": {"name": "vector_quantized", "codes": 5}, "loss": "vector_quantized"}
    alone = {"top_down": "ladder", "uniform_sphere": "power_spherical", "wrapped_normal": "wrapped_normal"}
    rest |= {"posterior": alone[name]} if name in alone else {}
    vae = vaekit.create_vae(latent_dim=2, prior={"name": name, **options}, seed=0, **rest)
    return vae.to(dtype).requires_grad_(False).prior


@pytest.mark.parametrize("name", priors.names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_from_row_start_draw_from_a_prior_what_the_whole_draws(name, dtype):
    p, key = prior(name, dtype), vaekit.make_key(3)
    shape = (2,) if p.latent_shape is None else p.latent_shape
    whole = p.sample((7, *shape), key=key, dtype=dtype)
    part = p.sample((3, *shape), key=key, dtype=dtype, row_start=4)
    torch.testing.assert_close(part, whole[4:], rtol=1e-6, atol=1e-6)
    assert not torch.equal(whole[:3], whole[4:])


PLAIN = (
    "aae",
    "autoencoder",
    "capacity",
    "ciwae",
    "elbo",
    "hamiltonian",
    "iwae",
    "miwae",
    "mvae",
    "perceptual",
    "piwae",
    "renyi",
    "semi_supervised",
    "vae_gan",
)
COMPARE = ("beta_tc", "dip_vae", "factor", "free_bits", "info_vae", "vector_quantized", "wae")


@pytest.mark.parametrize("name", losses.names())
def test_objectives_that_do_not_compare_examples_are_means_over_any_parts_of_a_batch(name):
    codes = {"posterior": "vector_quantized", "prior": "codes"} if name == "vector_quantized" else {}
    points = {"posterior": "point"} if name == "autoencoder" else {}
    if name == "semi_supervised":  # missing everywhere
        points = {"condition": {"name": "inferred_labels", "classes": 3}}
    if name == "mvae":
        points = {"modalities": {"a": {"shape": (1,)}, "b": {"shape": (3,)}}}
    loss = {"name": name, **({"hidden": (4,)} if name == "factor" else {})}
    vae = vaekit.create_vae(**{"input_shape": (4,), **codes, **points}, latent_dim=2, loss=loss, seed=0).double().eval()
    if codes:  # several are in use, which the perplexity sees
        vae.encoder.family.codebook.mul_(vae.encoder.family.codes)
    x, key = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)).double(), vaekit.make_key(0)
    if name == "free_bits":  # what divides the rows: the mean divergence of a dimension
        _, elements = vae.encode(x).rsample_kl_per_dimension(vae.prior)
        vae.loss = losses.FreeBits(free_nats=float(elements.detach().mean(0)[0]))

    def objective(rows, row_start):
        terms = vae(rows, key=key, dataset_size=6, row_start=row_start)
        return torch.stack((terms.objective, *(v.mean() for v in terms.extras.values()))).detach()

    of_parts = (2 * objective(x[:2], 0) + 4 * objective(x[2:], 2)) / 6
    is_a_mean = torch.allclose(of_parts, objective(x, 0), rtol=1e-10, atol=1e-10)
    assert name in PLAIN + COMPARE
    assert vae.loss.compares_examples is (name in COMPARE)
    assert is_a_mean is not vae.loss.compares_examples
    assert losses.Capacity(per="batch").compares_examples
    assert not losses.Capacity().compares_examples

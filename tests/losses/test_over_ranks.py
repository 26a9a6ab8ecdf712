"""An objective that compares examples is the same however a batch is divided among processes: its terms, gradients and codebook.

The witness is one process that holds the whole batch. All is in float64, in which another order of a sum hardly shows.
"""

import os

import pytest
import torch
from helpers.ranks import process_group, results
from torch import distributed

import vaekit
from vaekit.data import share
from vaekit.gathering import Ranks
from vaekit.losses import mmd

SIZES = (10, 3, 1)  # uneven shares, a row each, empty shares
WORLDS = (2, 3, 4) if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else (3,)
X = torch.rand(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
CODES = {"latent_dim": 3, "prior": "codes", "loss": {"name": "vector_quantized", "beta": 0.5}}
MODELS = {
    "elbo": {"loss": "elbo"},
    "iwae": {"loss": "iwae"},
    "beta_tc": {"loss": "beta_tc"},
    "beta_tc weighted": {"loss": {"name": "beta_tc", "sampling": "weighted"}},
    "dip i": {"loss": {"name": "dip_vae", "kind": "i"}},
    "dip ii": {"loss": {"name": "dip_vae", "kind": "ii"}},
    "info_vae": {"loss": "info_vae"},
    "wae": {"loss": {"name": "wae", "statistic": "v", "kernel": "rbf"}},
    "wae with a prior that learns": {"loss": "wae", "prior": "diagonal_gaussian"},
    "capacity": {"loss": {"name": "capacity", "capacity": 0.3, "gamma": 10.0, "per": "batch"}},
    "factor": {"loss": {"name": "factor", "hidden": (8,)}},
    "a discriminator whose weight is by gradients": {
        "loss": {"name": "perceptual", "discriminator": {"name": "mlp", "hidden": (8,)}},
    },
    "aae": {"loss": {"name": "aae", "discriminator": {"name": "mlp", "hidden": (8,)}}},
    "vae_gan": {"loss": {"name": "vae_gan", "discriminator": {"name": "mlp", "hidden": (8,)}}},
    "free bits by dimension": {"loss": {"name": "free_bits", "free_nats": 0.05}},
    "free bits by example": {"loss": {"name": "free_bits", "free_nats": 0.2, "per": "example"}},
    "averaged codes": {**CODES, "posterior": {"name": "vector_quantized", "codes": 4}},
    "codes that are weights": {**CODES, "posterior": {"name": "vector_quantized", "codes": 4, "decay": None}},
    "residual codes": {**CODES, "posterior": {"name": "residual_vector_quantized", "codes": 4, "quantizers": 2}},
    "several heads": {**CODES, "latent_dim": 4, "posterior": {"name": "vector_quantized", "codes": 4, "heads": 2}},
    "codes without a table": {**CODES, "posterior": {"name": "lookup_free", "entropy_weight": 1.0}},
    "batch normalisation": {
        "encoder": {"hidden": (8,), "normalization": "batch"},
        "decoder": {"hidden": (8,), "normalization": "batch"},
        "loss": "beta_tc",
    },
}


def model(name):
    small = {"encoder": {"hidden": (8,)}, "decoder": {"hidden": (8,)}, "latent_dim": 2}
    return vaekit.create_vae(input_shape=(6,), seed=0, **{**small, **MODELS[name]}).double().train()


def two_steps(name, size, ranks):
    """What a process sees of two steps: its rows of the terms, the scalars and gradients of all, the buffers afterwards."""
    vae = model(name)
    if "normalisation" in name and size == 1:
        return None
    for step in range(2):
        x = X[10 * step : 10 * step + size]  # others: what a codebook has in it already is 0 away from it, or a rounding
        own = share(size, ranks.rank, ranks.world)
        with ranks.holding([len(x[share(size, rank, ranks.world)]) for rank in range(ranks.world)]):
            terms = vae(x[own], key=vaekit.make_key(step), step=step, dataset_size=20, row_start=own.start)
            part = len(x[own]) / size
            (terms.objective * part).backward()
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in vae.named_parameters()}
    scalars = {"total": terms.total, **{n: v for n, v in terms.extras.items() if v.ndim == 0}}
    scalars = {n: v.detach() * part for n, v in scalars.items()}
    for value in [*grads.values(), *scalars.values()]:
        ranks.add_up(value)
    rows = {"reconstruction": terms.reconstruction, "kl": terms.kl, **{n: v for n, v in terms.extras.items() if v.ndim}}
    return {"rows": {n: v.detach() for n, v in rows.items()}, "scalars": scalars, "grads": grads, "buffers": vae.state_dict()}


def rows_compared(name):
    """How many rows a process compares with how many, in each sum over pairs."""
    compared, counted = [], mmd.kernel_sum

    def counting(x, y, *options):
        compared.append((len(x), len(x if y is None else y)))
        return counted(x, y, *options)

    mmd.kernel_sum = counting
    try:
        two_steps(name, 10, Ranks(distributed.get_rank(), distributed.get_world_size()))
    finally:
        mmd.kernel_sum = counted
    return compared


def all_models():
    with process_group():
        ranks = Ranks(distributed.get_rank(), distributed.get_world_size())
        seen = {(name, size): two_steps(name, size, ranks) for name in MODELS for size in SIZES}
        return {**seen, "compared": {name: rows_compared(name) for name in ("info_vae", "wae")}}


@pytest.fixture(scope="module")
def seen():
    return {world: results(all_models, world) for world in WORLDS}


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MODELS)
def test_an_objective_is_that_of_the_whole_batch(name, size, world, seen):
    whole = two_steps(name, size, Ranks())
    each = [of_rank[name, size] for of_rank in seen[world]]
    if whole is None:
        return
    close({n: torch.cat([one["rows"][n] for one in each]) for n in whole["rows"]}, whole["rows"])
    for one in each:
        for kind in ("scalars", "grads", "buffers"):
            close(one[kind], whole[kind])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", ["info_vae", "wae"])
def test_each_process_compares_its_own_rows_with_all(name, world, seen):
    for rank, of_rank in enumerate(seen[world]):
        own = share(10, rank, world)
        assert of_rank["compared"][name] == [(own.stop - own.start, 10)] * 6  # codes, draws, and both, in two steps


def test_every_objective_that_compares_examples_is_here():
    names = {parts["loss"] if isinstance(parts["loss"], str) else parts["loss"]["name"] for parts in MODELS.values()}
    options = {
        "aae": {"latent_shape": (2,)},
        "capacity": {"per": "batch"},
        "factor": {"latent_shape": (2,)},
        "hamiltonian": {"latent_shape": (2,)},
        "vae_gan": {"input_shape": (6,)},
    }
    for name in vaekit.losses.names():
        if vaekit.losses.create(name, **options.get(name, {})).compares_examples:
            assert name in names

"""The number of processes does not change a run: a fit over 2 or 4 is the fit of one, to rounding. All is in float64.

Whether each of them holds the whole model ("ddp"), or a part of it ("fsdp").
"""

import os

import pytest
import torch
from helpers.ranks import results
from torch import nn

import vaekit
from vaekit.training import shards

STRATEGIES = ("ddp", "fsdp")
WORLDS = (2, 4)
X = torch.rand(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(50) % 3
CODES = {"prior": "codes", "loss": "vector_quantized", "posterior": {"name": "vector_quantized", "codes": 4}, "latent_dim": 3}
NORMALIZED = {"encoder": {"hidden": (8,), "normalization": "batch"}, "decoder": {"hidden": (8,), "normalization": "batch"}}
RUNS = {  # of the model, of fit
    "an uneven last batch": ({}, {}),
    "fewer rows than processes": ({"loss": "beta_tc"}, {"batch_size": 7}),
    "several batches a step": ({}, {"accumulate": 3, "batch_size": 7}),
    "clipped, averaged, scheduled": (
        {},
        {"gradient_clip": 0.5, "ema": 0.9, "learning_rate": {"name": "cosine", "start": 0.01, "end": 0.001, "steps": 6}},
    ),
    "an optimizer without found_inf": ({}, {"optimizer": "adamax"}),
    "a discriminator": ({"loss": {"name": "factor", "hidden": (8,)}}, {}),
    "a discriminator weighed by gradients": (
        {"loss": {"name": "perceptual", "discriminator": {"name": "mlp", "hidden": (8,)}, "start": 2}},
        {},
    ),
    "a codebook and batch normalisation": ({**CODES, **NORMALIZED}, {"batch_size": 12}),
    "residual codebooks and a prior that learns": (
        {
            **CODES,
            "posterior": {"name": "residual_vector_quantized", "codes": 4, "quantizers": 2},
            "prior": {"name": "autoregressive_codes", "width": 8, "layers": 1, "dropout": 0.0},
        },
        {"batch_size": 12},
    ),
    "batch normalisation of PyTorch's own": ({}, {"batch_size": 12}),
    "a parameter that some steps leave out": ({}, {"optimizer": {"name": "adamw", "weight_decay": 0.1}}),
    "conditional": ({"condition": {"name": "labels", "classes": 3}}, {}),
    "draws of an importance-weighted bound": ({"loss": {"name": "iwae", "num_samples": 3}}, {}),
    "a scale without axes": (
        {"likelihood": {"name": "gaussian", "variance": "shared"}, "prior": "vamp"},
        {"gradient_clip": {"value": 0.05}, "ema": 0.9, "accumulate": 2},
    ),
    "momentum": (
        {"likelihood": {"name": "gaussian", "variance": "shared"}},
        {"optimizer": {"name": "sgd", "momentum": 0.9}, "learning_rate": 1e-3, "initialize_output_bias": True},
    ),
}


LOWER = ("bf16", "16")
DIVIDED_AMONG_FOUR = {
    "fewer rows than processes",
    "several batches a step",
    "a codebook and batch normalisation",
    "a scale without axes",
}
COMBINATIONS = [
    (name, strategy, world)
    for name in RUNS
    for strategy in STRATEGIES
    for world in WORLDS
    if world == 2 or strategy == "ddp" or name in DIVIDED_AMONG_FOUR
]


def composed(parts):
    small = {"encoder": {"hidden": (8,)}, "decoder": {"hidden": (8,)}, "latent_dim": 2}
    return vaekit.create_vae(input_shape=(6,), seed=0, **{**small, **parts}).double()


def fitted(name, device="cpu", strategy="auto"):
    """What a process holds after a run."""
    shards.UNIT = 20  # layers of this test are small
    parts, options = RUNS[name]
    vae = composed(parts)
    if "PyTorch" in name:
        vae.encoder.body.append(nn.BatchNorm1d(8).double())
    if "leave out" in name:
        vae.encoder.body.append(InTurn().double())
    data = (X, Y) if "condition" in parts else X
    held_out = (X[:13], Y[:13]) if "condition" in parts else X[:13]
    history = vaekit.fit(
        vae,
        data,
        validation=held_out,
        strategy=strategy,
        **{"epochs": 2, "batch_size": 16, "device": device, "progress": False, **options},
    )
    return {"weights": {key: value.cpu() for key, value in vae.state_dict().items()}, "history": dict(history)}


def lower(precision, strategy="auto"):
    """The weights before and after a run in a lower precision."""
    vae = composed({}).float()
    before = nn.utils.parameters_to_vector(vae.parameters()).detach()
    options = {"epochs": 2, "batch_size": 16, "device": "cpu", "progress": False}
    vaekit.fit(vae, X.float(), precision=precision, strategy=strategy, **options)
    return before, nn.utils.parameters_to_vector(vae.parameters()).detach()


class InTurn(nn.Module):
    """Two layers, each of which takes part in every other step."""

    def __init__(self):
        super().__init__()
        self.layers, self.calls = nn.ModuleList(nn.Linear(8, 8) for _ in range(2)), 0
        for number, parameter in enumerate(self.parameters()):
            nn.init.constant_(parameter, 0.1 * number)

    def forward(self, x):
        self.calls += self.training
        return self.layers[self.calls % 2](x)


def work():
    world = int(os.environ["WORLD_SIZE"])
    seen = {(name, strategy): fitted(name, strategy=strategy) for name, strategy, of in COMBINATIONS if of == world}
    seen |= {(precision, strategy): lower(precision, strategy) for precision in LOWER for strategy in STRATEGIES}
    with pytest.raises(ValueError, match="devices=3, but torchrun has started . process"):
        vaekit.fit(composed({}), X, devices=3, device="cpu", progress=False)
    return seen


@pytest.fixture(scope="module")
def seen():
    return {world: results(work, world) for world in WORLDS}


@pytest.fixture(scope="module")
def alone():
    return {name: fitted(name) for name in RUNS}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("precision", LOWER)
def test_in_a_lower_precision_all_processes_have_the_same_weights(precision, world, strategy, seen):
    """Those of one process in bfloat16, to its 8 bits. In float16 each process may overflow where one would not."""
    before, after = lower(precision)
    first = seen[world][0][precision, strategy][1]
    assert not torch.equal(first, before)
    assert all(torch.equal(of_rank[precision, strategy][1], first) for of_rank in seen[world])
    if precision == "bf16":
        assert torch.linalg.vector_norm(first - after) < 0.01 * torch.linalg.vector_norm(after - before)


@pytest.mark.parametrize(("name", "strategy", "world"), COMBINATIONS)
def test_a_run_is_that_of_one_process(name, world, strategy, seen, alone):
    for of_rank in seen[world]:
        torch.testing.assert_close(of_rank[name, strategy], alone[name], rtol=1e-8, atol=1e-9)
    first, last = (seen[world][rank][name, strategy]["weights"] for rank in (0, -1))
    assert all(torch.equal(value, last[key]) for key, value in first.items())


def on_gpu(strategy="auto"):
    return {name: fitted(name, "cuda", strategy) for name in RUNS}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_on_gpus_is_that_of_one(strategy):
    alone = on_gpu()
    for of_rank in results(on_gpu, 2, strategy, apart=True):
        torch.testing.assert_close(of_rank, alone, rtol=1e-7, atol=1e-8)


def on_machines():
    return fitted("an uneven last batch")


def test_processes_on_several_machines_are_those_of_one(alone):
    for of_rank in results(on_machines, 2, apart=True):
        torch.testing.assert_close(of_rank, alone["an uneven last batch"], rtol=1e-8, atol=1e-9)

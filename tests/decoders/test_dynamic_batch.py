"""Laws of exported and traced models: what was made with a batch of one size gives the eager numbers at every other."""

import warnings

import pytest
import torch
from helpers.densities import OF_SEVERAL, REQUIRED, data_in_support

import vaekit
from vaekit import decoders, encoders, likelihoods

IMAGE = (1, 9, 7)
SHAPES = {"conv1d": (2, 9), "conv3d": (1, 5, 4, 3), "columns": (3,)}  # of the parts that take no images
RESNET = {"name": "resnet", "channels": (4, 8), "attention": True}
LABELS, VECTOR = {"name": "labels", "classes": 3}, {"name": "vector", "size": 2, "dim": 2}
MODELS = [
    *({"encoder": RESNET if name == "resnet" else name} for name in encoders.names() if name not in OF_SEVERAL),
    *({"decoder": RESNET if name == "resnet" else name} for name in decoders.names() if name not in {"top_down", *OF_SEVERAL}),
    {"encoder": "top_down", "prior": "top_down",
     "decoder": {"name": "top_down", "decoder": {"name": "resnet", "channels": (8, 4), "blocks": 1}}},
    {"posterior": "ladder", "prior": "top_down", "decoder": "top_down"},
    *({"encoder": {"name": name, "spatial": True}, "decoder": name} for name in ("conv", "conv1d", "conv3d")),
    {"encoder": {**RESNET, "spatial": True}, "decoder": {**RESNET, "channels": (8, 4)}},
    *({"likelihood": {"name": name, **REQUIRED.get(name, {})}} for name in likelihoods.names() if name not in OF_SEVERAL),
    {"likelihood": {"name": "columns", **REQUIRED["columns"], "missing": "ignore"}},
    {"posterior": "full_gaussian"},
    *({"posterior": {"name": "flow", "transforms": 1, "hidden": (8,), "context": context}} for context in (0, 2)),
    {"posterior": {"name": "vector_quantized", "codes": 5}, "prior": "codes", "loss": "vector_quantized"},
    {"encoder": {"name": "conv", "spatial": True}, "decoder": "conv", "posterior": {"name": "vector_quantized", "codes": 5},
     "prior": "codes", "loss": "vector_quantized"},
    *({"condition": condition} for condition in (LABELS, {**LABELS, "dim": 2}, VECTOR, {"name": "vector", "size": 2})),
    *({"condition": condition, "encoder": network, "decoder": network} for condition in (LABELS, VECTOR)
      for network in ("conv", RESNET)),
]  # fmt: skip


class Reconstruction(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, x, *condition):
        return self.vae.decode(self.vae.encode(x, *condition).mean, *condition)


def module_and_inputs(parts):
    names = [spec if isinstance(spec, str) else spec["name"] for spec in parts.values()]
    shape = next((SHAPES[name] for name in names if name in SHAPES), IMAGE)
    vae = vaekit.create_vae(input_shape=shape, latent_dim=2, seed=0, **parts).eval()

    def inputs(count):
        x = data_in_support(vae.likelihood, (count, *shape), seed=count)
        if vae.likelihood.missing == "ignore":
            x[:1, :1] = torch.nan
        conditions = {"Labels": torch.arange(count) % 3, "Vector": torch.arange(2.0 * count).reshape(count, 2).cos()}
        return (x,) if vae.condition is None else (x, conditions[type(vae.condition).__name__])

    return Reconstruction(vae), inputs


@pytest.mark.parametrize("parts", MODELS, ids=str)
def test_an_exported_model_takes_batches_of_any_size(parts):
    module, inputs = module_and_inputs(parts)
    batch = torch.export.Dim("batch")
    given = inputs(3)
    shapes = ({0: batch},) if len(given) == 1 else ({0: batch}, ({0: batch},))
    exported = torch.export.export(module, given, dynamic_shapes=shapes).module()
    for count in (1, 2, 3, 7):
        torch.testing.assert_close(exported(*inputs(count)), module(*inputs(count)))


@pytest.mark.parametrize("parts", MODELS, ids=str)
def test_a_traced_model_takes_batches_of_any_size(parts):
    module, inputs = module_and_inputs(parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of the checks of shapes, which it leaves out
        traced = torch.jit.trace(module, inputs(3))
    for count in (1, 2, 3, 7):
        torch.testing.assert_close(traced(*inputs(count)), module(*inputs(count)))


@pytest.mark.parametrize("loss", ["capacity", "ciwae", "elbo", "iwae", "miwae", "renyi"])  # those that do not compare examples
def test_an_exported_objective_takes_batches_of_any_size(loss):
    class Objective(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, loss=loss, seed=0).eval()

        def forward(self, x, key):
            terms = self.vae(x, key=key)
            return terms.total, terms.reconstruction, terms.kl

    module, key = Objective(), vaekit.make_key(0)
    shapes = ({0: torch.export.Dim("batch")}, None)
    exported = torch.export.export(module, (torch.rand(3, 4), key), dynamic_shapes=shapes, strict=False).module()
    for count in (1, 2, 7):
        x = torch.rand(count, 4)
        torch.testing.assert_close(exported(x, key), module(x, key))


def test_reconstruct_itself_is_exported_for_any_size_and_not_in_a_number_of_pieces(monkeypatch):
    class Reconstruct(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = vaekit.create_vae(input_shape=IMAGE, latent_dim=2, seed=0)

        def forward(self, x):
            return self.vae.reconstruct(x)

    module, batch = Reconstruct(), torch.export.Dim("batch")
    monkeypatch.setattr(vaekit.pieces, "_PIECE_ELEMENTS", 2 * 63)  # two examples
    exported = torch.export.export(module, (torch.rand(5, *IMAGE),), dynamic_shapes=({0: batch},), strict=False).module()
    for count in (1, 2, 7):
        x = torch.rand(count, *IMAGE)
        torch.testing.assert_close(exported(x), module(x))

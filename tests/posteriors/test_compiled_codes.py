"""Every posterior over codes under torch.compile: a training step is one graph, with the numbers of the model as it is."""

import pytest
import torch
from torch.testing import assert_close

import vaekit

FALLING = {"name": "linear", "steps": 3, "start": 1.0, "end": 0.5}
POSTERIORS = {
    "heads": {"name": "vector_quantized", "codes": 6, "heads": 2},
    "cosine, codes of another size": {"name": "vector_quantized", "codes": 6, "codebook_dim": 3, "distance": "cosine"},
    "residual": {"name": "residual_vector_quantized", "codes": 5, "quantizers": 2},
    "levels": {"name": "finite_scalar", "levels": 5},
    "bits": {"name": "lookup_free", "entropy_weight": 0.5},
    "by chance": {"name": "gumbel_softmax", "codes": 5, "temperature": FALLING},
    "by chance, straight through": {"name": "gumbel_softmax", "codes": 5, "straight_through": True},
}


def model(posterior, **prior):
    loss = "elbo" if posterior["name"] == "gumbel_softmax" else "vector_quantized"
    return vaekit.create_vae(
        input_shape=(6,), latent_dim=4, encoder={"hidden": (8,)}, decoder={"hidden": (8,)}, posterior=posterior,
        prior=prior or "codes", loss=loss, seed=0,
    )  # fmt: skip


def steps(vae, call, x, labels=None):
    """The terms of three training steps, and what they leave."""
    totals = []
    for step in range(3):
        torch.manual_seed(step)
        terms = call(x, labels, key=vaekit.make_key(step), step=step)
        terms.total.backward()
        totals.append((terms.total, terms.reconstruction, terms.kl, dict(terms.extras)))
    return totals, {name: weight.grad for name, weight in vae.named_parameters()}, dict(vae.named_buffers())


@pytest.mark.compile
@pytest.mark.parametrize("name", POSTERIORS)
def test_a_compiled_step_is_one_graph_with_the_same_numbers(name):
    x = torch.rand(12, 6, generator=torch.Generator().manual_seed(0))
    eager, other = model(POSTERIORS[name]), model(POSTERIORS[name])
    torch._dynamo.reset()
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    assert_close(steps(other, compiled, x), steps(eager, eager, x))


@pytest.mark.compile
@pytest.mark.parametrize("name", ["autoregressive_codes", "pixel_cnn"])
def test_so_is_that_of_a_prior_that_is_told_labels(name):
    x, labels = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    spec = {"name": name, "width": 8, "layers": 1, "dropout": 0.0, "condition": {"name": "labels", "classes": 3}}
    eager, other = (
        vaekit.create_vae(
            input_shape=(1, 8, 8), latent_dim=2, encoder={"name": "conv", "channels": (4, 4), "spatial": True},
            decoder={"name": "conv", "channels": (4, 4)}, posterior={"name": "finite_scalar", "levels": 3}, prior=spec,
            loss="vector_quantized", seed=0,
        )
        for _ in range(2)
    )  # fmt: skip
    torch._dynamo.reset()
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    assert_close(steps(other, compiled, x, labels), steps(eager, eager, x, labels), rtol=1e-4, atol=1e-5)

"""The objective of vector-quantised models: equation 3 of van den Oord et al., term by term, and what training with it does."""

import numpy as np
import pytest
import torch
from helpers.strangers import OtherPosterior
from torch.testing import assert_close

import vaekit
from vaekit.posteriors import VectorQuantizedFamily

CODES = 6


def model(decay=None, beta=0.25, dtype=torch.float64, condition=None, codes=CODES):
    vae = vaekit.create_vae(
        input_shape=(1, 8, 8), latent_dim=3, encoder={"name": "conv", "channels": (4, 4), "spatial": True},
        decoder={"name": "conv", "channels": (4, 4)}, posterior={"name": "vector_quantized", "codes": codes, "decay": decay},
        prior="codes", loss={"name": "vector_quantized", "beta": beta}, condition=condition, seed=0,
    ).to(dtype)  # fmt: skip
    x = torch.rand(9, 1, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))
    vae(x, None if condition is None else torch.arange(9) % 3)  # places the codes
    with torch.no_grad():
        vae.encoder.family.codebook.add_(0.1 * torch.randn(codes, 3, dtype=dtype, generator=torch.Generator().manual_seed(1)))
    return vae.eval(), x


def parts(vae):
    return {"encoder": [p for n, p in vae.encoder.named_parameters() if "codebook" not in n],
            "decoder": list(vae.decoder.parameters()), "codes": [vae.encoder.family.codebook]}  # fmt: skip


def gradients(value, vae):
    return {name: torch.autograd.grad(value, group, allow_unused=True, retain_graph=True) for name, group in parts(vae).items()}


def reached(value, vae):
    found = gradients(value, vae)
    return {name for name, group in found.items() if any(g is not None and g.abs().sum() > 0 for g in group)}


@pytest.mark.parametrize("beta", [0.25, 2.0])
def test_total_is_equation_3_written_out_with_numpy(beta):
    vae, x = model(beta=beta)
    terms, q = vae(x), vae.encode(x)
    encoded, book = q.encoded.detach().numpy(), vae.encoder.family.codebook.detach().numpy()
    rows = encoded.transpose(0, 2, 3, 1)
    chosen = ((rows[..., None, :] - book) ** 2).sum(-1).argmin(-1)
    squares = ((rows - book[chosen]) ** 2).reshape(9, -1).sum(1)
    nll = vae.likelihood.nll(vae.decoder(torch.from_numpy(book[chosen].transpose(0, 3, 1, 2))), x)
    assert_close(terms.reconstruction, nll)
    for name in ("commitment", "codebook"):
        assert_close(terms.extras[name].detach(), torch.from_numpy(squares))
    assert_close(terms.total, (nll + (1.0 + beta) * torch.from_numpy(squares)).mean())
    assert_close(terms.kl, torch.full((9,), 4 * np.log(CODES), dtype=torch.float64))


def test_each_term_trains_what_equation_3_says():
    """The first decoder and encoder (straight through), the second the codes alone, the third the encoder alone."""
    vae, x = model()
    terms = vae(x)
    assert reached(terms.reconstruction.mean(), vae) == {"encoder", "decoder"}
    assert reached(terms.extras["codebook"].mean(), vae) == {"codes"}
    assert reached(terms.extras["commitment"].mean(), vae) == {"encoder"}
    assert not terms.kl.requires_grad
    assert not terms.extras["perplexity"].requires_grad
    whole = gradients(terms.total, vae)
    for name, summands in {
        "encoder": terms.reconstruction.mean() + 0.25 * terms.extras["commitment"].mean(),
        "decoder": terms.reconstruction.mean(),
        "codes": terms.extras["codebook"].mean(),
    }.items():
        for got, expected in zip(whole[name], gradients(summands, vae)[name], strict=True):
            assert_close(got, expected)


def test_the_encoder_gets_the_gradient_that_the_decoder_has_at_the_codes():
    vae, x = model()
    q = vae.encode(x)
    z = q.mean.detach().requires_grad_()
    (at_codes,) = torch.autograd.grad(vae.likelihood.nll(vae.decoder(z), x).mean(), z)
    wanted = parts(vae)["encoder"]
    expected = torch.autograd.grad(q.encoded, wanted, at_codes)
    for got, exact in zip(gradients(vae(x).reconstruction.mean(), vae)["encoder"], expected, strict=True):
        assert_close(got, exact)


def test_averaged_codes_have_no_term_of_their_own():
    vae, x = model(decay=0.9)
    terms = vae(x)
    assert set(terms.extras) == {"commitment", "perplexity"}
    assert_close(terms.total, (terms.reconstruction + 0.25 * terms.extras["commitment"]).mean())
    assert not any("codebook" in name for name, _ in vae.named_parameters())


def test_the_commitments_weight_follows_a_schedule():
    vae, x = model(beta={"name": "linear", "steps": 10, "start": 0.0, "end": 2.0})
    for step, beta in ((0, 0.0), (5, 1.0), (None, 2.0)):
        terms = vae(x, step=step)
        rest = terms.reconstruction + terms.extras["codebook"]
        assert_close(terms.total, (rest + beta * terms.extras["commitment"]).mean())
    with pytest.raises(ValueError, match="beta"):
        model(beta=-1.0)


def test_another_posterior_is_refused_by_name():
    class Other(VectorQuantizedFamily):
        def forward(self, numbers):
            return OtherPosterior(numbers)

    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, posterior=Other((2,)), prior="codes", loss="vector_quantized")
    with pytest.raises(TypeError, match="takes a posterior over codes, got OtherPosterior"):
        vae(torch.rand(3, 4))


@pytest.mark.parametrize("condition", [{"name": "labels", "classes": 3}, {"name": "labels", "classes": 3, "dim": 2}])
def test_a_conditional_model_trains_and_draws_for_a_condition(condition, tmp_path):
    vae, x = model(decay=0.9, condition=condition, dtype=torch.float32)
    y = torch.arange(9) % 3
    before = vaekit.evaluate(vae, (x, y))["loss"]
    vaekit.fit(vae, (x, y), epochs=20, batch_size=9, learning_rate=1e-2, progress=False, device="cpu")
    assert vaekit.evaluate(vae, (x, y))["loss"] < before
    again, key = vaekit.load(vae.save(tmp_path)), vaekit.make_key(0)
    assert torch.equal(again.sample(3, 2, key=key), vae.sample(3, 2, key=key))
    assert not torch.equal(vae.sample(3, 1, key=key), vae.sample(3, 2, key=key))


@pytest.mark.parametrize("decay", [0.99, None])
def test_trained_on_shapes_it_reconstructs_them_through_many_codes(decay):
    shapes = vaekit.data.shapes(size=8, positions=4, orientations=4)
    vae, _ = model(decay=decay, dtype=torch.float32, codes=32)
    before = vaekit.evaluate(vae, shapes)
    vaekit.fit(
        vae, shapes, epochs=15, batch_size=32, learning_rate=5e-3, progress=False, device="cpu", initialize_output_bias=True
    )
    after = vaekit.evaluate(vae, shapes)
    frequency = shapes.x.mean(0).double()
    by_pixel = float(-(torch.xlogy(frequency, frequency) + torch.xlogy(1 - frequency, 1 - frequency)).sum())
    assert after["loss"] < 0.8 * by_pixel < before["loss"]  # what each pixel's frequency alone would give
    assert after["perplexity"] > 4
    assert after["perplexity"] <= 32

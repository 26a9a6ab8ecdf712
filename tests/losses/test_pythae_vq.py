"""The vector-quantised bottleneck against pythae's VQVAE: the same codes, gradients and moving averages from the same weights.

The first lines of test_pythae.py say how, and that it is skipped where pythae is not installed. Where they differ:

- pythae takes the mean of the squared distances over all latents of the batch, and the sum of the squared errors of x: its weight
  b is ours as b / L, with L latents in an example; its reconstruction is twice our Gaussian nll of sigma 1, without the constant;
- its moving averages begin at N = 0 and m = a random number, so that after the first batch an unused code is m / 1e-5: thrown to
  where no vector will choose it again. Ours begin with the code itself, and leave it there. The paper's appendix A.1 does not say
  how they begin; but m / N has to be the code;
- it stores N with its Laplace smoothing in it, and smooths that again at the next batch;
- it has no start from the data and revives no codes;
- it takes float32 only: here torch.float, to which it converts, is float64.
"""

import math

import pytest
import torch
from helpers.pythae_networks import pythae
from torch import nn
from torch.testing import assert_close

import vaekit
from vaekit.posteriors import VectorQuantized, VectorQuantizedFamily

quantizers = pytest.importorskip("pythae.models.vq_vae.vq_vae_utils", reason="pythae is not installed: pip install pythae==0.1.2")
networks = pytest.importorskip("pythae.models.nn")
outputs = pytest.importorskip("pythae.models.base.base_utils")

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
D, CODES, SIDE, ROWS = 3, 7, 4, 5
LATENTS = D * SIDE * SIDE


@pytest.fixture(autouse=True)
def _in_double_precision(monkeypatch):
    monkeypatch.setattr(torch, "float", torch.float64)


def config(**options):
    made = pythae.VQVAEConfig(input_dim=(1, 8, 8), latent_dim=D, num_embeddings=CODES, **options)
    made.embedding_dim = D
    return made


def ours_with(codebook, **options):
    family = VectorQuantizedFamily((D, SIDE, SIDE), codes=CODES, revive_below=0.0, warm_up=False, lloyd=0, **options).double()
    with torch.no_grad():
        family.codebook.copy_(codebook)
        family.placed.fill_(True)
    return family


def test_codes_distances_and_gradients_are_pythaes():
    theirs = quantizers.Quantizer(config(commitment_loss_factor=0.3, quantization_loss_factor=1.7)).double()
    nn.init.normal_(theirs.embeddings.weight)
    ours = ours_with(theirs.embeddings.weight, decay=None)
    z = torch.randn(ROWS, D, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(z)

    output = theirs(z.permute(0, 2, 3, 1))
    (output.loss + (weight * output.quantized_vector).sum()).backward()
    of_z, z.grad = z.grad, None
    q = VectorQuantized(z, ours)
    terms = 0.3 / LATENTS * q.commitment().mean() + 1.7 / LATENTS * q.codebook_distance().mean()
    (terms + (weight * q.mean).sum()).backward()

    assert torch.equal(q.indices, output.quantized_indices.squeeze(1))
    assert len(q.indices.unique()) > 3
    assert_close(q.mean, output.quantized_vector, **CLOSE)
    assert_close(terms, output.loss, **CLOSE)
    assert_close(z.grad, of_z, **CLOSE)
    assert_close(ours.codebook.grad, theirs.embeddings.weight.grad, **CLOSE)


def test_moving_averages_are_pythaes_but_for_its_smoothing():
    """From the same averages: m is the same at every batch, and e is m / N; theirs divides by N with 1e-5 shared out."""
    theirs = quantizers.QuantizerEMA(config(decay=0.9)).double()
    start, smoothed = torch.randn(CODES, D, dtype=torch.float64), 1e-5
    ours = ours_with(start, decay=0.9)
    for buffer, other, value in (
        (ours.uses, theirs.cluster_size, torch.full((CODES,), 20.0, dtype=torch.float64)),
        (ours.sums, theirs.ema_embed, 20.0 * start),
        (ours.codebook, theirs.embeddings, start),
    ):
        buffer.copy_(value)
        other.data.copy_(value)
    for _ in range(5):
        z = torch.randn(ROWS, D, SIDE, SIDE, dtype=torch.float64)
        output, q = theirs(z.permute(0, 2, 3, 1)), VectorQuantized(z, ours)
        assert torch.equal(q.indices, output.quantized_indices.squeeze(1))
        assert_close(q.commitment().mean() / LATENTS * 0.25, output.loss, rtol=1e-4, atol=0.0)
        q.update_codebook(vaekit.make_key(0))
        assert_close(ours.sums, theirs.ema_embed, **CLOSE)
        total = ours.uses.sum()
        assert_close((ours.uses + smoothed) / (total + CODES * smoothed) * total, theirs.cluster_size, rtol=1e-5, atol=0.0)
        assert_close(ours.codebook, ours.sums / ours.uses[:, None], **CLOSE)
        assert_close(ours.codebook, theirs.embeddings, rtol=1e-4, atol=1e-5)


def test_pythae_throws_unused_codes_away_where_ours_stay():
    theirs = quantizers.QuantizerEMA(config(decay=0.99)).double()
    z = torch.full((ROWS, D, SIDE, SIDE), 0.01, dtype=torch.float64)  # all vectors choose one code
    before = theirs.embeddings.clone()
    ours = ours_with(before, decay=0.99)
    theirs(z.permute(0, 2, 3, 1))
    q = VectorQuantized(z, ours)
    q.update_codebook(vaekit.make_key(0))
    unused = torch.arange(CODES) != q.indices.unique()
    assert before.abs().max() < 1.0 / CODES
    assert theirs.embeddings[unused].abs().max() > 1e3
    assert torch.equal(ours.codebook[unused], before[unused])
    assert_close(ours.codebook[~unused], torch.full((1, D), 0.01, dtype=torch.float64))


class Encoder(networks.BaseEncoder):
    """Ours as one of theirs: to what is to be quantised."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        return outputs.ModelOutput(embedding=self.encoder.head(self.encoder.convolutions(x.to(self.encoder.head.weight.dtype))))


class Decoder(networks.BaseDecoder):
    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, z):
        return outputs.ModelOutput(reconstruction=self.decoder(z).squeeze(1))


def test_a_whole_models_loss_and_gradients_are_pythaes():
    """Twice our total with sigma 1, without the constant, is theirs with the weights 2 L beta and 2 L."""
    vae = vaekit.create_vae(
        input_shape=(1, 8, 8), latent_dim=D, encoder={"name": "conv", "channels": (4,), "spatial": True},
        decoder={"name": "conv", "channels": (4,)}, likelihood="gaussian", prior="codes",
        posterior={"name": "vector_quantized", "codes": CODES, "decay": None},
        loss={"name": "vector_quantized", "beta": 0.4}, seed=0,
    ).double().eval()  # fmt: skip
    options = {"commitment_loss_factor": 2 * LATENTS * 0.4, "quantization_loss_factor": 2 * LATENTS, "use_ema": False}
    model = pythae.VQVAE(config(**options), Encoder(vae.encoder), Decoder(vae.decoder)).double()
    with torch.no_grad():
        model.quantizer.embeddings.weight.copy_(vae.encoder.family.codebook)
    x = torch.randn(ROWS, 1, 8, 8, dtype=torch.float64)

    weights = [p for name, p in vae.named_parameters() if "codebook" not in name]
    terms, output = vae(x), model({"data": x})
    constant = 64 / 2 * math.log(2 * math.pi)
    assert_close(output.loss, 2.0 * (terms.total - constant), **CLOSE)
    assert_close(output.recon_loss, 2.0 * (terms.reconstruction.mean() - constant), **CLOSE)
    assert_close(output.recon_x, vae.reconstruct(x), **CLOSE)
    ours = torch.autograd.grad(2.0 * terms.total, [*weights, vae.encoder.family.codebook])
    theirs = torch.autograd.grad(output.loss, [*weights, model.quantizer.embeddings.weight])
    for got, expected in zip(ours, theirs, strict=True):
        assert expected.abs().max() > 1e-3
        assert_close(got, expected, **CLOSE)

"""What the tests against pythae share: the sizes of its own dense networks, the names of its weights, and its noise.

tests/losses/test_pythae.py says how they compare. A test that imports this is skipped where pythae is not installed.
"""

import pytest
import torch

pythae = pytest.importorskip("pythae.models", reason="pythae is not installed: pip install pythae==0.1.2")

SHAPE, ELEMENTS, LATENTS, ROWS = (1, 6, 5), 30, 3, 7
HIDDEN = 512  # the one hidden layer of pythae's Encoder_VAE_MLP and Decoder_AE_MLP
LIKELIHOODS = {"bce": "bernoulli", "mse": "gaussian"}


def by_pythae_names(vae, read):
    """What `read` gives for each of vaekit's weights, under the names of pythae's: theirs for mu and logvar are apart."""
    named = {}
    for kind in ("weight", "bias"):
        head = read(getattr(vae.encoder.head, kind))
        named[f"encoder.layers.0.0.{kind}"] = read(getattr(vae.encoder.body[0], kind))
        named[f"encoder.embedding.{kind}"], named[f"encoder.log_var.{kind}"] = head[:LATENTS], head[LATENTS:]
        named[f"decoder.layers.0.0.{kind}"] = read(getattr(vae.decoder.body[0], kind))
        named[f"decoder.layers.1.0.{kind}"] = read(getattr(vae.decoder.head, kind))
    return named


def data(reconstruction_loss, dtype=torch.float64, rows=ROWS):
    x = torch.randn(rows, *SHAPE, dtype=dtype)
    return x.sigmoid() if reconstruction_loss == "bce" else x


@pytest.fixture
def their_noise(monkeypatch):
    """A list of tensors that pythae draws, one after the other, instead of noise of its own."""
    noise = []

    def randn_like(like, device=None):
        eps = noise.pop(0)
        assert (eps.shape, eps.dtype) == (like.shape, like.dtype)
        return eps

    monkeypatch.setattr(torch, "randn_like", randn_like)
    yield noise
    assert not noise, "pythae drew less often than the test supposes"

"""A codebook that is frozen, or only looked at, stays as it is."""

import pytest
import torch

import vaekit


def model(decay=0.99):
    posterior = {"name": "vector_quantized", "codes": 4, "decay": decay}
    return vaekit.create_vae(input_shape=(5,), latent_dim=2, posterior=posterior, prior="codes", loss="vector_quantized", seed=0)


def moves(vae, step=lambda vae, x: vae(x, step=0).objective.backward()):
    family = vae.encoder.family
    before = {name: value.clone() for name, value in family.state_dict().items()}
    for _ in range(3):
        step(vae, torch.rand(20, 5))
    return {name for name, value in family.state_dict().items() if not torch.equal(value, before[name])}


every_codebook = pytest.mark.parametrize("decay", [0.99, 0.0, None], ids=["averages", "last batch", "weights"])


@every_codebook
def test_it_learns_in_training(decay):
    assert {"codebook", "uses", "placed"} <= moves(model(decay))


@every_codebook
@pytest.mark.parametrize("how", ["family", "encoder"])
def test_freezing_its_family_or_the_encoder_freezes_it_and_it_can_be_thawed(decay, how):
    vae = model(decay)
    part = vae.encoder.family if how == "family" else vae.encoder
    part.requires_grad_(False)
    assert moves(vae) == set()
    part.requires_grad_(True)
    assert "codebook" in moves(vae)


def test_codes_that_are_weights_without_a_gradient_do_not_move():
    vae = model(decay=None)
    vae.encoder.family.codebook.requires_grad_(False)
    assert moves(vae) == set()
    vaekit.fit(vae, torch.rand(40, 5), epochs=1, batch_size=20, progress=False, device="cpu")
    assert moves(vae) == set()


@every_codebook
def test_a_family_in_evaluation_mode_does_not_move_while_the_rest_trains(decay):
    vae = model(decay)
    vae.encoder.family.eval()
    assert moves(vae) == set()


@every_codebook
def test_what_is_looked_at_does_not_move_it(decay):
    def look(vae, x):
        with torch.no_grad():
            vae(x)
        vae.reconstruct(x)
        vae.sample(3)
        vaekit.evaluate(vae, x)
        vae.encode(x).rsample_kl(vae.prior)

    vae = model(decay)
    assert moves(vae, look) == set()
    vae.eval()
    assert moves(vae, lambda vae, x: vae(x)) == set()

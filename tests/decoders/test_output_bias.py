"""Laws of the decoder's output bias: after it is set from data, the decoder starts from the data's mean."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils.data import DataLoader

import vaekit
from vaekit import Decoder, likelihoods
from vaekit.likelihoods import Bernoulli

PAIRS = {
    "mlp": ("mlp", (3,), None),
    "conv1d": ("conv1d", (3, 9), (1,)),
    "conv": ("conv", (3, 9, 5), (1, 2)),
    "conv3d": ("conv3d", (2, 3, 4, 5), (1, 2, 3)),
    "resnet": ({"channels": (6, 4), "name": "resnet"}, (3, 9, 5), (1, 2)),
}
LIKELIHOODS = ["bernoulli", "gaussian", {"name": "gaussian", "variance": "element"}]


def model(pair, likelihood="bernoulli", dtype=torch.float32):
    decoder, shape, shared = PAIRS[pair]
    vae = vaekit.create_vae(input_shape=shape, latent_dim=2, encoder="mlp", decoder=decoder, likelihood=likelihood, seed=0)
    x = torch.rand(20, *shape, dtype=dtype, generator=torch.Generator().manual_seed(1)) ** 2
    return vae.to(dtype), x, x.mean(0) if shared is None else x.mean(0).mean(shared, keepdim=True).expand(shape)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_new_decoder_starts_from_the_mean(pair, likelihood, dtype):
    vae, x, mean = model(pair, likelihood, dtype)
    origin = torch.zeros(1, 2, dtype=dtype)
    assert not torch.allclose(vae.decode(origin)[0], mean)
    weights = {name: value.clone() for name, value in vae.named_parameters()}
    vae.initialize_output_bias(x)
    assert_close(vae.decode(origin)[0].detach(), mean)
    changed = [name for name, value in vae.named_parameters() if not torch.equal(value, weights[name])]
    assert len(changed) == 1
    assert changed[0].endswith("bias")


@given(mean=st.lists(st.floats(0.0, 1.0, width=32), min_size=1, max_size=4))
@pytest.mark.parametrize("spec", LIKELIHOODS, ids=str)
def test_parameters_of_a_mean_have_that_mean(spec, mean):
    name, options = (spec, {}) if isinstance(spec, str) else (spec["name"], {"variance": spec["variance"]})
    likelihood, mean = likelihoods.create(name, **options), torch.tensor(mean)
    parameters = likelihood.parameters_of_mean(mean)
    assert parameters.shape == (likelihood.parameters_per_element, *mean.shape)
    assert parameters.isfinite().all()
    expected = mean.clamp(1e-3, 1 - 1e-3) if name == "bernoulli" else mean  # as it says
    assert_close(likelihood.mean(parameters[None])[0], expected, rtol=1e-5, atol=1e-6)


def test_fit_sets_it_from_all_of_the_data_before_its_first_step():
    vae, x, _ = model("mlp", "gaussian")
    expected, _, _ = model("mlp", "gaussian")
    expected.initialize_output_bias(x)
    # a learning rate at which nothing else changes
    vaekit.fit(vae, x, epochs=1, batch_size=7, learning_rate=1e-30, progress=False, initialize_output_bias=True)
    assert_close(vae.state_dict(), expected.state_dict())
    untouched, _, _ = model("mlp", "gaussian")
    vaekit.fit(untouched, x, epochs=1, batch_size=7, learning_rate=1e-30, progress=False)
    assert (untouched.decoder.head.bias.abs() < 1e-20).all()


def test_fit_takes_no_loader_for_it_and_no_word():
    vae, x, _ = model("mlp")
    with pytest.raises(ValueError, match=r"reads the data once before training, .* call vae\.initialize_output_bias\(x\)"):
        vaekit.fit(vae, DataLoader(x), epochs=1, progress=False, initialize_output_bias=True)
    with pytest.raises(TypeError, match="initialize_output_bias has to be True or False, got 'yes'"):
        vaekit.fit(vae, x, epochs=1, progress=False, initialize_output_bias="yes")


def test_what_does_not_say_how_is_refused_by_name():
    class Silent(Decoder):
        def __init__(self):
            super().__init__(2, (3,))
            self.linear = torch.nn.Linear(2, 3)

        def forward(self, z):
            return self.linear(z)[:, None]

    class Coin(Bernoulli):
        parameters_of_mean = vaekit.Likelihood.parameters_of_mean

    encoder, x = vaekit.encoders.create("mlp", input_shape=(3,), latent_dim=2), torch.rand(4, 3)
    with pytest.raises(
        NotImplementedError, match="Silent does not say where its output bias is; define its property output_bias"
    ):
        vaekit.VAE(encoder, Silent(), likelihood=Bernoulli()).initialize_output_bias(x)
    decoder = vaekit.decoders.create("mlp", latent_dim=2, output_shape=(3,))
    vae = vaekit.VAE(encoder, decoder, likelihood=Coin())
    with pytest.raises(NotImplementedError, match="Coin does not say which parameters have a given mean"):
        vae.initialize_output_bias(x)
    with pytest.raises(ValueError, match="no examples"):
        vae.initialize_output_bias(x[:0])
    with pytest.raises(ValueError, match="x has to have the shape"):
        vae.initialize_output_bias(x[:, :2])

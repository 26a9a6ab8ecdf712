"""Laws of the decoder's output bias: after it is set from data, the decoder starts from the data's mean."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import DataLoader

import vaekit
from vaekit import Decoder
from vaekit.likelihoods import Bernoulli

PAIRS = {
    "mlp": ("mlp", (3,), None),
    "conv1d": ("conv1d", (3, 9), (1,)),
    "conv": ("conv", (3, 9, 5), (1, 2)),
    "conv3d": ("conv3d", (2, 3, 4, 5), (1, 2, 3)),
    "resnet": ({"channels": (6, 4), "name": "resnet"}, (3, 9, 5), (1, 2)),
}
LIKELIHOODS = [
    "bernoulli",
    "gaussian",
    {"name": "gaussian", "variance": "element"},
    "laplace",
    "student_t",
    "beta",
    "continuous_bernoulli",
]


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
    with pytest.raises(ValueError, match=r"once.*vae\.initialize_output_bias\(x\)"):
        vaekit.fit(vae, DataLoader(x), epochs=1, progress=False, initialize_output_bias=True)
    with pytest.raises(TypeError, match="initialize_output_bias.*'yes'"):
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
    with pytest.raises(NotImplementedError, match="Silent.*property output_bias"):
        vaekit.VAE(encoder, Silent(), likelihood=Bernoulli()).initialize_output_bias(x)
    decoder = vaekit.decoders.create("mlp", latent_dim=2, output_shape=(3,))
    vae = vaekit.VAE(encoder, decoder, likelihood=Coin())
    with pytest.raises(NotImplementedError, match="Coin.*mean"):
        vae.initialize_output_bias(x)
    with pytest.raises(ValueError, match="no examples"):
        vae.initialize_output_bias(x[:0])
    with pytest.raises(ValueError, match="x has to have the shape"):
        vae.initialize_output_bias(x[:, :2])
    vae = vaekit.VAE(encoder, decoder, likelihood=Bernoulli())
    with pytest.raises(ValueError, match="Bernoulli models values in"):
        vae.initialize_output_bias(x + 1.0)
    with pytest.raises(TypeError, match="x has to be a tensor, got ndarray"):
        vae.initialize_output_bias(x.numpy())


def test_infinity_is_refused_and_leaves_the_bias_as_it_was():
    vae, x, _ = model("mlp", "gaussian")
    before = vae.decoder.output_bias.clone()
    x[3, 1] = torch.inf
    with pytest.raises(ValueError, match="mean of x is not finite"):
        vae.initialize_output_bias(x)
    assert torch.equal(vae.decoder.output_bias, before)


def test_batches_give_what_the_whole_gives():
    whole, x, _ = model("conv", "gaussian")
    parts, _, _ = model("conv", "gaussian")
    whole.initialize_output_bias(x)
    parts.initialize_output_bias(x[i : i + 7] for i in range(0, len(x), 7))
    assert_close(parts.state_dict(), whole.state_dict())


@pytest.mark.parametrize("pair", ["mlp", "conv"])
def test_missing_values_are_left_out_of_the_mean(pair):
    vae, x, _ = model(pair, {"name": "gaussian", "missing": "ignore"})
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.4] = torch.nan
    _, shape, shared = PAIRS[pair]
    mean = x.nanmean(0) if shared is None else x.nanmean((0, 2, 3))[:, None, None].expand(shape)
    vae.initialize_output_bias(x)
    assert_close(vae.decode(torch.zeros(1, 2))[0].detach(), mean)


def test_where_nothing_was_seen_the_bias_stays():
    vae, x, _ = model("mlp", {"name": "gaussian", "missing": "ignore"})
    x[:, 1] = torch.nan
    with torch.no_grad():
        vae.decoder.output_bias.fill_(7.0)
    vaekit.fit(vae, x, epochs=1, learning_rate=1e-30, progress=False, initialize_output_bias=True)
    assert_close(vae.decode(torch.zeros(1, 2))[0].detach(), torch.stack((x[:, 0].mean(), torch.tensor(7.0), x[:, 2].mean())))


@pytest.mark.parametrize("pair", ["mlp", "conv"])
def test_a_decoder_of_classes_starts_from_their_frequencies(pair):
    vae, x, _ = model(pair, {"name": "categorical", "classes": 4})
    x = (x * 3.99).floor()
    shape = x.shape[1:]
    over = (0,) if PAIRS[pair][2] is None else (0, 2, 3)
    frequencies = torch.stack([(x == k).double().mean(over) for k in range(4)])
    vae.initialize_output_bias(x)
    shown = torch.softmax(vae.decoder(torch.zeros(1, 2))[0], 0)
    assert shown.shape == (4, *shape)
    clamped = frequencies.clamp(1e-6)
    expected = (clamped / clamped.sum(0)).float().reshape(4, shape[0], *(1,) * len(shape[1:])).expand(4, *shape)
    assert_close(shown.detach(), expected)


@pytest.mark.parametrize("name", ["bernoulli", "continuous_bernoulli", "beta"])
def test_in_half_precision_a_mean_next_to_1_is_next_to_1(name):
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, likelihood=name).bfloat16()
    x = torch.full((8, 4), 1.0 if name != "beta" else 0.9961, dtype=torch.bfloat16)
    vae.initialize_output_bias(x)
    assert vae.decoder.output_bias.isfinite().all()


def test_batches_of_a_loader_with_labels_are_refused_with_what_to_do():
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
    with pytest.raises(TypeError, match=r"list.*\(x for x, y in loader\)"):
        vae.initialize_output_bias([[torch.rand(3, 4), torch.arange(3)]])

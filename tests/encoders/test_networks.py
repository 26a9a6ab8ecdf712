"""Laws of encoders and decoders together, for every kind of data: sizes, options, precisions, memory formats, compilation."""

import ast
import hashlib
import json
import math
import os
import re
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import vaekit
from vaekit import decoders, encoders

KEY = vaekit.make_key(3)
CONVOLUTIONAL = {1: "conv1d", 2: "conv", 3: "conv3d"}
INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}
RES_ENCODER = {"name": "resnet", "channels": (6, 8), "blocks": 1, "attention": True}
RES_DECODER = {"name": "resnet", "channels": (8, 6), "blocks": 1, "attention": True}
# Every encoder and decoder, every rank, flat and spatial latents, and small sizes.
PAIRS = {
    "mlp": ((3, 8, 6), {"name": "mlp", "hidden": (12,)}, {"name": "mlp", "hidden": (12,)}),
    "conv1d": ((2, 11), {"name": "conv1d", "channels": (6, 8), "hidden": (12,)}, {"name": "conv1d", "channels": (8, 6)}),
    "conv": ((3, 9, 7), {"name": "conv", "channels": (6, 8), "hidden": (12,)}, {"name": "conv", "channels": (8, 6)}),
    "conv spatial": ((3, 8, 7), {"name": "conv", "channels": (6, 8), "spatial": True}, {"name": "conv", "channels": (8, 6)}),
    "conv3d spatial": ((1, 5, 4, 6), {"name": "conv3d", "channels": (8,), "spatial": True}, {"name": "conv3d", "channels": (8,)}),
    "resnet series": ((2, 9), RES_ENCODER, RES_DECODER),
    "resnet spatial": ((3, 9, 7), {**RES_ENCODER, "spatial": True}, RES_DECODER),
    "resnet volumes": ((1, 3, 4, 5), RES_ENCODER, RES_DECODER),
    "spatial to mlp": ((3, 8, 7), {"name": "conv", "channels": (6,), "spatial": True}, {"name": "mlp", "hidden": (12,)}),
}
every_pair = pytest.mark.parametrize("pair", PAIRS)


def model(pair, *, likelihood="gaussian", latent_dim=3, **both):
    """The pair with more options; what starts at 0, and holds others back, does not."""
    shape, encoder, decoder = PAIRS[pair]
    vae = vaekit.create_vae(
        input_shape=shape, latent_dim=latent_dim, encoder={**encoder, **both}, decoder={**decoder, **both},
        likelihood=likelihood, seed=0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in vae.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=generator)
    return vae


def data(pair, n=4):
    return torch.rand(n, *PAIRS[pair][0], generator=torch.Generator().manual_seed(2))


# Sizes.


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 11), min_size=1, max_size=3),
    channels=st.lists(st.integers(2, 4), min_size=1, max_size=3),
    data_channels=st.integers(1, 3),
    per_element=st.integers(1, 2),
    spatial=st.booleans(),
    upsample=st.sampled_from(["transpose", "nearest", "interpolation"]),
)
@pytest.mark.parametrize("residual", [False, True])
def test_data_of_any_size_comes_back_with_exactly_that_size(
    residual, sizes, channels, data_channels, per_element, spatial, upsample
):
    shape, rank = (data_channels, *sizes), len(sizes)
    name = "resnet" if residual else CONVOLUTIONAL[rank]
    encoder = encoders.create(name, input_shape=shape, latent_dim=3, channels=channels, spatial=spatial)
    more = {} if residual else {"upsample": INTERPOLATION[rank] if upsample == "interpolation" else upsample}
    latent = encoder.latent_shape if spatial else 3
    decoder = decoders.create(
        name, latent_dim=latent, output_shape=shape, parameters_per_element=per_element, channels=channels[::-1], **more
    )
    halvings = len(channels) - residual
    lowest = tuple(math.ceil(size / 2**halvings) for size in sizes)
    assert encoder.latent_shape == decoder.latent_shape == ((3, *lowest) if spatial else (3,))
    q = encoder(torch.rand(2, *shape))
    assert q.mean.shape == (2, *encoder.latent_shape)
    assert decoder(q.mean).shape == (2, per_element, *shape)


@every_pair
def test_models_encode_decode_sample_and_reconstruct_with_latents_of_any_shape(pair):
    vae, x = model(pair), data(pair)
    spatial = "spatial" in pair
    assert len(vae.latent_shape) == (len(vae.input_shape) if spatial else 1)
    assert vae.decode(torch.zeros(2, *vae.latent_shape)).shape == (2, *vae.input_shape)
    assert vae.reconstruct(x).shape == x.shape
    assert vae.sample(3, key=KEY).shape == vae.sample(3, draw=True, key=KEY).shape == (3, *vae.input_shape)
    with pytest.raises(ValueError, match=r"z has to have the shape \[batch, 3"):
        vae.decode(torch.zeros(2, *vae.latent_shape, 1))


# What has been published stays: weights and results of the version before the options were there.

RES_8_16 = {"name": "resnet", "channels": (8, 16), "blocks": 1, "attention": True}
RES_16_8 = {"name": "resnet", "channels": (16, 8), "blocks": 1, "attention": True}


@pytest.mark.parametrize(
    ("encoder", "decoder", "shape", "names", "weights", "total"),
    [
        ("mlp", "mlp", (1, 28, 28), "df1fe6a644a1849b", 29895.140372267168, 853.2510986328125),
        ("conv", "conv", (1, 28, 28), "ee5aa6d94d66441d", 12820.5435056219, 848.0562744140625),
        ("conv", "conv", (3, 9, 7), "5a40feb21dd645fe", 5096.517377642591, 205.2980499267578),
        ("mlp", "mlp", (13,), "7e4b3a7ceb73e12e", 8163.956840159656, 14.177362442016602),
        ({"name": "conv", "channels": (4, 8, 8), "hidden": (), "activation": "tanh"},
         {"name": "conv", "upsample": "bilinear", "hidden": (5,)}, (3, 9, 7),
         "698863710ca92ca4", 1572.1809305339123, 205.31399536132812),
        ({"name": "mlp", "hidden": ()}, {"name": "conv", "upsample": "nearest", "activation": "gelu"}, (2, 10, 1),
         "d10face7ca11835d", 1434.3068241426345, 23.246768951416016),
        ({**RES_8_16, "spatial": True}, RES_16_8, (3, 9, 7), "63b8395f548c1cdc", 1319.0907676484903, 271.0885009765625),
        (RES_8_16, RES_16_8, (2, 9), "f9f5eb3083c78497", 940.1304857184982, 27.36185646057129),
        ({"name": "conv", "spatial": True, "normalization": "group"}, {"name": "conv", "normalization": "layer"}, (3, 9, 7),
         "daae16d33b1c804b", 2158.791135652442, 325.9722595214844),
    ],
)  # fmt: skip
def test_defaults_are_what_they_were(encoder, decoder, shape, names, weights, total):
    vae = vaekit.create_vae(
        input_shape=shape, latent_dim=3, encoder=encoder, decoder=decoder, seed=0,
        likelihood={"name": "gaussian", "variance": "element"},
    )  # fmt: skip
    state = vae.state_dict()
    x = torch.linspace(0, 1, 2 * math.prod(shape)).reshape(2, *shape)
    assert names_of(state) == names
    assert fingerprint(state) == pytest.approx(weights, rel=1e-6)
    assert vae(x, key=KEY).total.item() == pytest.approx(total, rel=1e-5)


def names_of(state):
    """A hash of the names and shapes, in their order."""
    return hashlib.sha256(json.dumps([(name, list(value.shape)) for name, value in state.items()]).encode()).hexdigest()[:16]


def fingerprint(state):
    """A number that depends on every weight and its place."""
    flat = torch.cat([value.flatten() for value in state.values()]).double()
    return (flat * torch.cos(torch.arange(len(flat), dtype=torch.float64))).abs().sum().item()


# The options that all share.


@pytest.mark.parametrize("normalization", ["batch", "layer", "group"])
@pytest.mark.parametrize("pair", [pair for pair in PAIRS if not pair.startswith("resnet")])
def test_a_network_normalised_after_its_first_layer_does_not_see_the_scale_of_its_input(pair, normalization):
    def means(normalization, scale):
        vae = vaekit.create_vae(  # as it starts, with biases of 0
            input_shape=PAIRS[pair][0], latent_dim=3, encoder={**PAIRS[pair][1], "normalization": normalization}, seed=0
        )  # fmt: skip
        return vae.double().encode(scale * data(pair).double()).mean

    assert_close(means(normalization, 1e4), means(normalization, 1e3), rtol=1e-3, atol=1e-4)
    assert_close(means("none", 1e4), 10.0 * means("none", 1e3))


@every_pair
@pytest.mark.parametrize("normalization", ["batch", "layer", "group"])
def test_only_batch_normalisation_mixes_examples_and_only_in_training(pair, normalization):
    vae, x = model(pair, normalization=normalization).double(), data(pair).double()
    others = torch.cat((x[:1], x[1:] ** 3))
    z, other_z = (torch.stack([torch.full(vae.latent_shape, v, dtype=torch.float64) for v in values])
                  for values in ((1, 2, -1, 3), (1, -3, 4, 0)))  # fmt: skip
    networks = [(vae.encoder, lambda e, x: e(x).mean[0], x, others), (vae.decoder, lambda d, z: d(z)[0], z, other_z)]
    for network, first, one, another in networks:
        trained = first(network, one)
        assert torch.allclose(first(network, another), trained) == (normalization != "batch")
        assert any("Norm" in type(module).__name__ for module in network.modules())
        network.eval()
        assert_close(first(network, another), first(network, one))
        if normalization != "batch":
            assert_close(first(network, one), trained)


@every_pair
def test_dropout_acts_in_training_alone_and_in_both_networks(pair):
    vae, x = model(pair, dropout=0.5), data(pair)
    bare = model(pair)
    z = torch.ones(4, *vae.latent_shape)
    first, second = (vae.encode(x).mean for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(vae.decode(z), vae.decode(z))
    vae.eval()
    assert torch.equal(vae.encode(x).mean, bare.encode(x).mean)
    assert torch.equal(vae.decode(z), bare.decode(z))


def test_batch_normalisation_refuses_a_batch_of_one_vector_with_what_to_do():
    vae = model("mlp", normalization="batch")
    with pytest.raises(ValueError, match="one value.*larger batches"):
        vae(data("mlp", 1))
    assert vae.eval()(data("mlp", 1)).total.isfinite()


@every_pair
@pytest.mark.parametrize("options", [
    {"activation": "tanh", "dropout": 0.25, "normalization": "batch"},
    {"activation": "elu", "normalization": "group"},
    {"activation": "gelu", "normalization": "layer"},
], ids=str)  # fmt: skip
def test_every_option_is_saved_and_loaded(pair, options, tmp_path):
    vae = model(pair, **options)
    x = data(pair)
    vaekit.fit(vae, x, epochs=1, batch_size=2, progress=False)
    again = vaekit.load(vae.save(tmp_path)).eval()
    vae.eval()
    assert again.config() == vae.config()
    assert_close(again.state_dict(), vae.state_dict(), rtol=0, atol=0)
    assert torch.equal(again.reconstruct(x), vae.reconstruct(x))
    assert torch.equal(again(x, key=KEY).total, vae(x, key=KEY).total)


def test_the_bound_and_the_start_of_logvar_are_saved_and_loaded(tmp_path):
    shape, encoder, decoder = PAIRS["resnet spatial"]
    posterior = {"logvar_bound": 6.0, "initial_logvar": -2.0}
    vae = vaekit.create_vae(input_shape=shape, latent_dim=3, encoder=encoder, decoder=decoder, posterior=posterior, seed=0)
    again = vaekit.load(vae.save(tmp_path))
    x = data("resnet spatial")
    assert torch.equal(again.encode(x).logvar, vae.encode(x).logvar)
    assert_close(again.encode(x).logvar, torch.full((4, *vae.latent_shape), -2.0))
    assert again.decoder.latent_shape == vae.latent_shape == (3, 5, 4)


# Precisions, memory formats, compilation.


def gradients(vae, x, **options):
    vae.zero_grad()
    terms = vae(x, key=KEY, **options)
    terms.total.backward()
    return terms.total.detach().double(), torch.cat([p.grad.flatten().double() for p in vae.parameters()])


@every_pair
def test_bfloat16_weights_and_autocast_are_close_to_float32(pair):
    vae, x = model(pair), data(pair)
    total, gradient = gradients(vae, x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = gradients(vae, x)
    low = gradients(vae.to(torch.bfloat16), x.bfloat16())
    for value, direction in (mixed, low):
        # bfloat16 has 8 bits, and a few dozen roundings follow each other
        assert value.item() == pytest.approx(total.item(), rel=0.02)
        assert torch.cosine_similarity(direction, gradient, dim=0) > 0.99
    assert vae.encode(x.bfloat16()).mean.dtype == vae.reconstruct(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("pair", [p for p in PAIRS if len(PAIRS[p][0]) > 2])
def test_channels_last_is_the_same_model(pair):
    x = data(pair).double()
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    expected = gradients(model(pair).double(), x)
    vae, x = model(pair).double().to(memory_format=layout), x.to(memory_format=layout)
    assert_close(gradients(vae, x), expected)
    if pair in ("conv spatial", "resnet spatial"):  # of volumes torch's own 1x1 convolution changes the format
        assert vae.encode(x).mean.stride(1) == 1  # not copied back on the way
    assert vae.reconstruct(x).shape == x.shape


def same_compiled(pair, backend, **options):
    vae, x = model(pair, **options), data(pair)
    expected = gradients(vae, x)
    vae.zero_grad()
    torch._dynamo.reset()
    total = torch.compile(lambda x: vae(x, key=KEY).total, fullgraph=True, backend=backend)(x)
    total.backward()
    compiled = total.detach().double(), torch.cat([p.grad.flatten().double() for p in vae.parameters()])
    assert_close(compiled, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.compile
@pytest.mark.parametrize(
    ("pair", "options"),
    [(pair, {}) for pair in PAIRS] + [("conv spatial", {"normalization": "batch"}), ("mlp", {"normalization": "layer"})],
    ids=str,
)
def test_every_pair_compiles_into_one_graph(pair, options):
    same_compiled(pair, "aot_eager", **options)


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.skipif(
    not (os.environ.get("CXX") or any(map(shutil.which, ("g++", "clang++", "cl")))), reason="inductor needs a C++ compiler"
)
def test_the_compiled_code_computes_the_same():
    same_compiled("conv spatial", "inductor", channels=(4,))


# What does not fit.


@pytest.mark.parametrize(
    ("registry", "options", "message"),
    [
        (encoders, {"name": "conv1d", "input_shape": (1, 8, 8)},
         r"convolutions take series .* got the shape \(1, 8, 8\); 'conv' and"),
        (encoders, {"name": "conv3d", "input_shape": (1, 8, 8)}, r"convolutions take volumes .*'conv' and 'resnet' take images"),
        (encoders, {"name": "conv", "input_shape": (1, 8)}, r"take images .*'conv1d' and 'resnet' take series"),
        (encoders, {"name": "resnet", "input_shape": (13,)},
         r"'resnet' takes series .* or images .* or volumes .*\(13,\); 'mlp' takes"),
        (encoders, {"name": "resnet", "input_shape": (1, 2, 2, 2, 2)}, r"'resnet' takes series"),
        (encoders, {"name": "resnet", "input_shape": (1, 8, 8), "channels": ()}, "channels has to name at least one level"),
        (encoders, {"name": "resnet", "input_shape": (1, 8, 8), "blocks": 0}, "blocks has to be a whole number .* got 0"),
        (encoders, {"name": "resnet", "input_shape": (1, 4, 4), "attention": True}, r"attention at .* resolution, \(1, 1\)"),
        (decoders, {"name": "resnet", "output_shape": (13,)}, "'resnet' takes series"),
        (decoders, {"name": "resnet", "output_shape": (1, 8, 8), "channels": ()}, "channels has to name at least one level"),
        (decoders, {"name": "conv", "output_shape": (1, 8, 8), "channels": ()}, "channels has to name at least one convolution"),
        (decoders, {"name": "conv1d", "output_shape": (1, 8), "upsample": "bilinear"},
         "upsample has to be .* 'nearest', 'linear', got 'bilinear'"),
        (decoders, {"name": "conv", "output_shape": (1, 8, 8), "latent_dim": (2, 3, 3)},
         r"latents .* \(2, 3, 3\) to data \(1, 8, 8\); .* latent_dim .* \(8, 8\), \(4, 4\), \(2, 2\)"),
        (decoders, {"name": "resnet", "output_shape": (1, 8, 8), "latent_dim": (2, 4)}, r"\(2, 4\) to data \(1, 8, 8\)"),
        (decoders, {"name": "conv", "output_shape": (1, 8, 8), "latent_dim": (2, 2, 2), "hidden": (5,)},
         r"hidden=\(5,\) are dense layers, which spatial latents \(2, 2, 2\)"),
        (decoders, {"name": "mlp", "output_shape": (8,), "latent_dim": ()}, r"latent_dim has to be a whole number .* got \(\)"),
        (decoders, {"name": "mlp", "output_shape": (8,), "latent_dim": (2, 0)}, "every entry of latent_dim has to be"),
        (encoders, {"name": "mlp", "input_shape": (8,), "latent_dim": (2, 2)},
         r"latent_dim has to be a whole number .* got \(2, 2\)"),
        (encoders, {"name": "mlp", "input_shape": (8,), "normalization": "bach"}, "did you mean 'batch'"),
        (decoders, {"name": "conv", "output_shape": (1, 8, 8), "dropout": 1}, "dropout.* below 1, got 1"),
    ],
)  # fmt: skip
def test_what_makes_no_network_is_refused(registry, options, message):
    options = {"latent_dim": 2, **options}
    with pytest.raises(ValueError, match=message):
        registry.create(options.pop("name"), **options)


@pytest.mark.parametrize(
    ("name", "option", "value"), [("conv", "spatial", "no"), ("resnet", "spatial", 1), ("resnet", "attention", (16,))]
)
def test_a_flag_is_true_or_false(name, option, value):
    with pytest.raises(TypeError, match=f"{option}.*True or False"):
        encoders.create(name, input_shape=(1, 8, 8), latent_dim=2, **{option: value})


def test_spatial_and_flat_parts_are_refused_together():
    with pytest.raises(ValueError, match=r"latent_dim=3 is given in decoder=.*\(3, 4, 4\)"):
        vaekit.create_vae(
            input_shape=(1, 8, 8), latent_dim=3, encoder={"name": "conv", "channels": (4,), "spatial": True},
            decoder={"name": "conv", "latent_dim": 3},
        )  # fmt: skip
    encoder = encoders.create("conv", input_shape=(1, 8, 8), latent_dim=3, channels=(4,), spatial=True)
    with pytest.raises(ValueError, match=r"latents.*\(3, 4, 4\).*decoder.*\(5,\)"):
        vaekit.create_vae(latent_dim=5, encoder=encoder, decoder="mlp")
    assert vaekit.create_vae(encoder=encoder, decoder={"name": "conv", "channels": (4,)}).latent_shape == (3, 4, 4)


SPATIAL = [{"name": "conv", "channels": (6,) * n, "spatial": True} for n in (1, 2, 3)]
SPATIAL += [{"name": "resnet", "channels": (6,) * n, "blocks": 1, "spatial": True} for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("decoder", ["conv", "resnet"])
@pytest.mark.parametrize("encoder", SPATIAL, ids=str)
def test_the_advice_about_spatial_latents_that_do_not_fit_leads_to_a_model(encoder, decoder):
    composed = {"input_shape": (1, 20, 12), "latent_dim": 2, "encoder": encoder}
    fitting = 0
    for channels in ((8,), (8, 7), (8, 7, 6), (8, 7, 6, 5), (8, 7, 6, 5, 4)):
        try:
            vae = vaekit.create_vae(**composed, decoder={"name": decoder, "channels": channels})
        except ValueError as error:
            if decoder == "conv" and encoder == SPATIAL[3]:  # whose latents are as large as the data
                assert re.search("decoder 'resnet' with one entry in channels", str(error))
                fitting += 1
                continue
            assert f"channels={channels}" in str(error)
            advised = ast.literal_eval(re.findall(r"channels=(\(.*?\))", str(error))[-1])
            vae = vaekit.create_vae(**composed, decoder={"name": decoder, "channels": advised})
        else:
            fitting += 1
        assert vae.reconstruct(torch.rand(2, 1, 20, 12)).shape == (2, 1, 20, 12)
    assert fitting

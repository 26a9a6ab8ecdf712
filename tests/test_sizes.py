"""Fully convolutional models take data of other sizes than they were made for, and are then the same function."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import vaekit

KEY = vaekit.make_key(3)
RES = {"name": "resnet", "channels": (6, 8), "blocks": 1, "attention": True}
CONV = {"name": "conv", "channels": (6, 8), "normalization": "group"}
# Data that a model was made for, other sizes, encoder and decoder.
MODELS = {
    "resnet": ((3, 8, 8), (12, 6), {**RES, "spatial": True}, {**RES, "channels": (8, 6)}),
    "resnet at the end": ((3, 8, 8), (12, 6), {**RES, "spatial": True, "downsample_padding": "end"}, {**RES, "channels": (8, 6)}),
    "resnet of series": ((2, 8), (14,), {**RES, "spatial": True}, {**RES, "channels": (8, 6)}),
    "resnet of volumes": ((1, 4, 4, 6), (6, 4, 2), {**RES, "spatial": True}, {**RES, "channels": (8, 6)}),
    "conv": ((3, 8, 8), (12, 16), {**CONV, "spatial": True}, {**CONV, "channels": (8, 6)}),
    "conv nearest": ((3, 8, 8), (12, 4), {**CONV, "spatial": True}, {**CONV, "channels": (8, 6), "upsample": "nearest"}),
    "conv bilinear": ((3, 8, 8), (12, 4), {**CONV, "spatial": True}, {**CONV, "channels": (8, 6), "upsample": "bilinear"}),
    "conv to resnet": ((3, 8, 8), (12, 4), {**CONV, "spatial": True}, {**RES, "channels": (8, 8, 6)}),
}  # fmt: skip
every_model = pytest.mark.parametrize("name", MODELS)


def composed(name, sizes=None, **parts):
    shape, _, encoder, decoder = MODELS[name]
    shape = shape if sizes is None else (shape[0], *sizes)
    parts = {"likelihood": "gaussian", **parts}
    return vaekit.create_vae(input_shape=shape, latent_dim=3, encoder=encoder, decoder=decoder, seed=0, **parts).double()


def pair(name):
    """A model, and one with its weights that was made for the other size; and data of that."""
    shape, sizes, *_ = MODELS[name]
    vae, other = composed(name), composed(name, sizes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    other.load_state_dict(vae.state_dict())
    return vae.eval(), other.eval(), torch.rand(2, shape[0], *sizes, generator=generator, dtype=torch.float64)


@every_model
def test_another_size_is_taken_as_by_a_model_that_was_made_for_it(name):
    vae, other, x = pair(name)
    assert vae.input_shape != other.input_shape
    ours, theirs = vae.encode(x), other.encode(x)
    assert ours.mean.shape[1:] == other.latent_shape
    for value, expected in (
        (ours.mean, theirs.mean),
        (ours.logvar, theirs.logvar),
        (vae.decode(ours.mean), other.decode(theirs.mean)),
        (vae.reconstruct(x), other.reconstruct(x)),
        (vae(x, key=KEY).reconstruction, other(x, key=KEY).reconstruction),
        (vae(x, key=KEY).kl, other(x, key=KEY).kl),
        (vae.sample(3, size=x.shape[2:], key=KEY), other.sample(3, key=KEY)),
        (vae.sample(3, size=x.shape[2:], key=KEY, draw=True), other.sample(3, key=KEY, draw=True)),
    ):
        assert torch.equal(value, expected)


@every_model
def test_a_step_with_another_size_has_the_gradients_of_one(name):
    vae, other, x = pair(name)
    for model in (vae, other):
        model(x, key=KEY, step=0).total.backward()
    for parameter, expected in zip(vae.parameters(), other.parameters(), strict=True):
        assert_close(parameter.grad, expected.grad)


def test_one_that_was_trained_at_64_takes_96_and_512_by_768():
    vae = vaekit.create_vae(
        input_shape=(3, 64, 64), latent_dim=4, seed=0, likelihood="gaussian",
        encoder={"name": "resnet", "channels": (4, 8, 8, 8), "blocks": 1, "spatial": True},
        decoder={"name": "resnet", "channels": (8, 8, 8, 4), "blocks": 1},
    )  # fmt: skip
    vaekit.fit(vae, torch.rand(4, 3, 64, 64), epochs=1, batch_size=2, progress=False)
    for sizes in ((96, 96), (512, 768)):
        x = torch.rand(1, 3, *sizes)
        z = vae.encode(x).mean
        assert (z.shape[1:], vae.decode(z).shape) == ((4, sizes[0] // 8, sizes[1] // 8), x.shape)
    assert vae.input_shape == (3, 64, 64)


@every_model
def test_padding_repeats_the_last_positions_and_is_cropped_again(name):
    vae, _, x = pair(name)
    assert torch.equal(vae.reconstruct(x, pad=True), vae.reconstruct(x))
    odd = x[..., :-1]
    whole = torch.cat([odd, odd[..., -1:]], dim=-1)
    assert torch.equal(vae.reconstruct(odd, pad=True), vae.reconstruct(whole)[..., :-1])
    z = vae.encode(odd, pad=True).mean
    assert torch.equal(z, vae.encode(whole).mean)
    assert torch.equal(vae.decode(z, size=odd.shape[2:]), vae.decode(z)[..., :-1])


def test_sizes_that_the_stride_does_not_divide_are_refused():
    vae = composed("resnet")
    assert vae.stride == 2
    with pytest.raises(
        ValueError, match=r"\[batch, 3, 8, 8\], got \(2, 3, 9, 8\), or other sizes that are multiples of 2.*pad=True"
    ):
        vae.encode(torch.rand(2, 3, 9, 8).double())
    with pytest.raises(ValueError, match="multiples of 2"):
        vae(torch.rand(2, 3, 9, 8).double())
    for shape in ((2, 4, 8, 8), (2, 3, 8), (2, 3, 0, 8)):
        with pytest.raises(ValueError, match="x has to have the shape"):
            vae.reconstruct(torch.rand(shape).double())
    for shape in ((2, 4, 8, 8), (2, 3, 8), (2, 3, 0, 8)):
        with pytest.raises(ValueError, match="z has to have the shape"):
            vae.decode(torch.rand(shape).double())
    with pytest.raises(ValueError, match=r"2 multiple\(s\) of 2, got \(8, 7\)"):
        vae.sample(1, size=(8, 7))
    with pytest.raises(ValueError, match="multiple"):
        vae.sample(1, size=(8,))
    with pytest.raises(ValueError, match=r"up to \(8, 8\), got \(9, 8\)"):
        vae.decode(torch.rand(1, 3, 4, 4).double(), size=(9, 8))
    with pytest.raises(TypeError, match="x has to be a tensor"):
        vae.reconstruct([[1.0]], pad=True)
    with pytest.raises(TypeError, match="floating-point"):
        vae.encode(torch.ones(1, 3, 8, 7, dtype=torch.int64), pad=True)


BOUND = {
    "odd sizes": {"input_shape": (3, 9, 8)},
    "dense latents": {"encoder": {"name": "resnet", "channels": (6, 8), "spatial": False}},
    "a likelihood by feature": {"likelihood": {"name": "gaussian", "variance": "feature"}},
    "a dense decoder": {"decoder": "mlp"},
    "a posterior of one shape": {"posterior": "full_gaussian"},
}


@pytest.mark.parametrize("case", BOUND)
def test_models_of_one_size_say_so(case):
    _, _, encoder, decoder = MODELS["resnet"]
    parts = {"input_shape": (3, 8, 8), "encoder": encoder, "decoder": decoder, "likelihood": "gaussian", **BOUND[case]}
    vae = vaekit.create_vae(latent_dim=2, **parts)
    assert vae.stride is None
    with pytest.raises(ValueError, match=r"has to have the shape \[batch, 3, [89], 8\], got \(1, 3, 12, 12\)$"):
        vae.encode(torch.rand(1, 3, 12, 12))
    with pytest.raises(ValueError, match="this one takes one"):
        vae.reconstruct(torch.rand(1, 3, 7, 7), pad=True)
    with pytest.raises(ValueError, match="data of one size"):
        vae.sample(1, size=(12, 12))


@pytest.mark.parametrize("prior", ["gaussian_mixture", "vamp"])
def test_a_prior_of_one_shape_is_no_part_of_another_size(prior):
    vae, x = composed("resnet", prior=prior), torch.rand(2, 3, 12, 8).double()
    assert vae.reconstruct(x).shape == x.shape
    for call in (lambda: vae(x), lambda: vae.sample(2, size=(12, 8))):
        with pytest.raises(ValueError, match="one over latents of one shape.*'standard_normal' takes all"):
            call()
    assert vae.sample(2, size=(12, 8), prior=vaekit.StandardNormal()).shape == x.shape


def test_an_objective_of_one_shape_is_no_part_of_another_size():
    vae = composed("resnet", loss="factor")
    with pytest.raises(ValueError, match="the objective .* one over latents of one shape"):
        vae(torch.rand(2, 3, 12, 8).double())


def test_conditions_go_with_any_size():
    vae = composed("resnet", condition={"name": "labels", "classes": 3})
    x, y = torch.rand(2, 3, 12, 8).double(), torch.tensor([0, 2])
    assert vae.reconstruct(x, y).shape == x.shape
    assert vae(x, y, key=KEY).total.isfinite()


class Half(vaekit.Encoder):
    """A network of one's own that says what its stride is."""

    stride = 2

    def __init__(self, input_shape, latent_dim):
        super().__init__(input_shape, latent_dim)
        self.latent_shape = (latent_dim, *(size // 2 for size in self.input_shape[1:]))
        self.head = self.make_head("diagonal_gaussian", nn.Conv2d, input_shape[0], kernel_size=2, stride=2)

    def forward(self, x, condition=None):
        return self.posterior(self.head(x))


def test_networks_of_ones_own_take_part_by_their_stride():
    vae = vaekit.create_vae(
        input_shape=(3, 8, 8), latent_dim=2, encoder=Half((3, 8, 8), 2), likelihood="gaussian",
        decoder={"name": "resnet", "channels": (8, 4), "blocks": 1},
    )  # fmt: skip
    assert vae.stride == 2
    assert vae.reconstruct(torch.rand(1, 3, 10, 6)).shape == (1, 3, 10, 6)

"""Tiles: where a network sees the same in a tile as in the whole, blending changes nothing; elsewhere the seams do not show."""

import itertools

import pytest
import torch
from helpers.memory import LargestTensor
from torch.testing import assert_close

import vaekit
from vaekit import tiles


def composed(**parts):
    """Of convolutions alone, with no normalisation over positions."""
    decoder = {"name": "resnet", "channels": (6, 4), "blocks": 1, "normalization": "none"}
    encoder = {**decoder, "channels": (4, 6), "spatial": True}
    both = {"encoder": encoder, "decoder": decoder, "likelihood": "gaussian", **parts}
    vae = vaekit.create_vae(input_shape=(3, 16, 16), latent_dim=2, seed=0, **both).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return vae


def images(*sizes, count=2):
    return torch.rand(count, 3, *sizes, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 4, 15, 16, 17, 24, 27, 28, 29, 40, 100])
@pytest.mark.parametrize("tile", [4, 8, 16])
@pytest.mark.parametrize("written", [1, 3])
def test_tiles_cover_everything_with_weights_that_add_up_to_one(size, tile, written):
    spans = tiles._spans(size, tile)
    weights = tiles._weights(size, spans, tile, written)
    total = torch.zeros(written * size, dtype=torch.float64)
    for (start, end), weight in zip(spans, weights, strict=True):
        assert 0 <= start < end <= size
        assert end - start == min(size, tile)
        assert (weight > 0).all()
        total[written * start : written * end] += weight
    assert_close(total, torch.ones_like(total), rtol=0, atol=1e-15)
    for (_, end), (start, _) in itertools.pairwise(spans):
        assert end - start >= tile // 4
    joined = torch.cat([weight.diff() for weight in weights])
    assert joined.abs().max() <= 2.0 / (written * max(tile // 4, 1)) if len(joined) else True  # no jump within a tile


@pytest.mark.parametrize("shape", [(2, 3, 20), (1, 2, 21, 13), (2, 1, 9, 8, 11)])
def test_a_function_of_each_position_alone_is_the_same_in_tiles(shape):
    x = torch.rand(shape, dtype=torch.float64)

    def doubled(part, row):
        larger = torch.stack((part.exp(), part.square()), dim=1)
        for axis in range(3, larger.ndim):
            larger = larger.repeat_interleave(2, dim=axis)
        return larger + row

    expected = torch.cat([doubled(x[row : row + 1], row) for row in range(len(x))])
    assert_close(tiles.blended(doubled, x, tile=8, read=1, written=2), expected, rtol=1e-14, atol=1e-14)


def test_a_tile_as_large_as_the_data_is_the_whole():
    vae, x = composed(), images(16, 24)
    z = vae.encode(x).mean
    for tile in (24, 64):
        assert_close(vae.encode(x, tile=tile).mean, z)
        assert_close(vae.encode(x, tile=tile).logvar, vae.encode(x).logvar)
        assert_close(vae.decode(z, tile=tile), vae.decode(z))
        assert_close(vae.reconstruct(x, tile=tile), vae.reconstruct(x))


def test_away_from_seams_convolutions_see_no_difference():
    """Where no tile's border is near, blending is of equal numbers."""
    vae, x = composed(), images(96, 32, count=1)
    whole, tiled = vae.encode(x).mean, vae.encode(x, tile=64).mean
    assert not torch.equal(whole, tiled)
    assert_close(tiled[:, :, :7], whole[:, :, :7])  # tiles begin at 0 and 16 of 48, and see 8 positions around
    assert_close(tiled[:, :, -7:], whole[:, :, -7:])


def test_seams_do_not_show():
    vae, x = composed(), images(96, 80)
    z = vae.encode(x).mean
    whole = vae.decode(z)
    errors = [(vae.decode(z, tile=tile) - whole).abs().max().item() for tile in (16, 64)]
    assert 0.0 < errors[1] < errors[0] < 0.2 * (whole.max() - whole.min())


def test_encode_decode_and_reconstruct_are_one_way_in_tiles():
    vae, x = composed(), images(48, 30, count=3)
    z = vae.encode(x, tile=16, pad=True).mean
    expected = vae.decode(z, tile=16, size=x.shape[2:])
    assert_close(vae.reconstruct(x, tile=16, pad=True), expected)


def test_samples_are_the_decoded_draws_of_the_prior():
    vae, key = composed(), vaekit.make_key(4)
    z = vae.prior.sample((3, 2, 24, 20), key=key, dtype=torch.float64)
    assert_close(vae.sample(3, size=(48, 40), tile=16, key=key), vae.decode(z, tile=16))
    assert vae.sample(0, size=(48, 40), tile=16).shape == (0, 3, 48, 40)
    assert vae.sample(2, size=(48, 40), tile=16, draw=True).shape == (2, 3, 48, 40)


def test_each_example_has_its_own_condition():
    vae, x, y = composed(condition={"name": "labels", "classes": 3}), images(40, 32), torch.tensor([2, 0])
    both = vae.reconstruct(x, y, tile=16)
    for row in range(2):
        assert_close(both[row : row + 1], vae.reconstruct(x[row : row + 1], y[row : row + 1], tile=16))
    assert not torch.allclose(both, vae.reconstruct(x, torch.tensor([1, 0]), tile=16))


def test_gradients_go_through_tiles():
    vae, x = composed(), images(24, 16, count=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: vae.encode(x[:, :, :12, :8], tile=8).mean.sum(), x, fast_mode=True)


def test_memory_is_that_of_one_tile_of_one_example():
    vae, x = composed().float(), images(256, 256).float()
    vae.reconstruct(x[:, :, :32, :32], tile=32)
    with LargestTensor() as largest:
        vae.reconstruct(x, tile=32)
    assert largest.elements <= x.numel()
    with LargestTensor() as whole:
        vae.reconstruct(x[:1])
    assert whole.elements >= 4 * 256 * 256


class Apart(vaekit.Encoder):
    stride = 1

    def __init__(self, input_shape, latent_dim):
        super().__init__(input_shape, latent_dim)
        self.latent_shape = (latent_dim, *self.input_shape[1:])
        self.head = self.make_head("diagonal_gaussian", torch.nn.Conv2d, 3, kernel_size=1)

    def forward(self, x, condition=None):
        return self.posterior(self.head(x))


def test_what_cannot_be_tiled_says_why():
    vae, x = composed(), images(32, 32)
    with pytest.raises(ValueError, match="multiple of the stride 2, got 17"):
        vae.encode(x, tile=17)
    with pytest.raises(ValueError, match="tile has to be a whole number of at least 8, got 6"):
        vae.decode(torch.rand(1, 2, 16, 16).double(), tile=6)
    dense = vaekit.create_vae(input_shape=(3, 8, 8), latent_dim=2)
    with pytest.raises(ValueError, match="fully convolutional"):
        dense.reconstruct(torch.rand(1, 3, 8, 8), tile=8)
    own = vaekit.create_vae(
        input_shape=(3, 8, 8), latent_dim=2, encoder=Apart((3, 8, 8), 2), likelihood="gaussian",
        decoder={"name": "resnet", "channels": (4,), "blocks": 1},
    )  # fmt: skip
    with pytest.raises(NotImplementedError, match="define its method numbers"):
        own.encode(torch.rand(1, 3, 8, 8), tile=4)

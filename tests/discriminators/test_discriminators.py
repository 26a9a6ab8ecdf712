"""Discriminators: patches of the size that the paper says, any size of data, and what the layers are."""

import pytest
import torch
from torch.testing import assert_close

import vaekit
from vaekit.discriminators import MLPDiscriminator, PatchDiscriminator

SHAPES = {1: (2, 40), 2: (3, 33, 26), 3: (1, 16, 14, 13)}


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_a_patch_as_large_as_the_paper_says(layers, patch):
    """Isola et al., appendix 6.1.2: 70 x 70 and 16 x 16. Without normalisation, which sees whole pictures."""
    discriminator = PatchDiscriminator((1, 160, 160), channels=2, layers=layers, normalization="none").double()
    x = torch.rand(1, 1, 160, 160, dtype=torch.float64, requires_grad=True)
    logits = discriminator(x)[-1]
    middle = logits.shape[-1] // 2
    logits[0, middle, middle].backward()
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert int(rows.max() - rows.min()) + 1 == patch


@pytest.mark.parametrize("rank", SHAPES)
def test_it_takes_series_images_and_volumes_of_other_sizes_too(rank):
    shape = SHAPES[rank]
    discriminator = PatchDiscriminator(shape, channels=4, layers=2)
    for sizes in (shape[1:], tuple(2 * size for size in shape[1:])):
        *hidden, logits = discriminator(torch.rand(5, shape[0], *sizes))
        assert [layer.shape[:2] for layer in hidden] == [(5, 4), (5, 8), (5, 16)]
        assert logits.shape == (5, *(size // 4 - 2 for size in sizes))


def test_it_has_the_parameters_of_the_authors_network():
    """Of three layers and 64 channels: 3-64-128-256-512-1, kernels of 4 x 4, two numbers for each normalised channel."""
    sizes = [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
    expected = sum(16 * a * b for a, b in sizes) + 64 + 1 + 2 * (128 + 256 + 512)
    batch = PatchDiscriminator((3, 64, 64), normalization="batch")  # whose layers need no bias before it
    assert sum(p.numel() for p in batch.parameters()) == expected


def test_new_weights_are_drawn_as_the_paper_draws_them():
    weights = torch.cat([p.flatten() for name, p in PatchDiscriminator((3, 64, 64)).named_parameters() if p.ndim > 1])
    assert_close(float(weights.std()), 0.02, rtol=0.01, atol=0.0)


@pytest.mark.parametrize("size", [3, 5, 11, 23])
def test_pictures_that_are_too_small_are_refused_with_a_number_of_layers_that_fits(size):
    with pytest.raises(ValueError, match="layers=3 needs at least 24 positions") as caught:
        PatchDiscriminator((1, size, 40))
    fit = int(str(caught.value).partition("give it layers=")[2][0])
    if size >= 6:
        assert PatchDiscriminator((1, size, 40), layers=fit)(torch.rand(1, 1, size, 40))[-1].numel() >= 1
    with pytest.raises(ValueError, match="'patch' takes series"):
        PatchDiscriminator((4,))


def test_the_dense_one_is_its_layers_written_out():
    discriminator = MLPDiscriminator((2, 3), hidden=(5, 4)).double()
    x = torch.rand(7, 2, 3, dtype=torch.float64)
    first, second, logits = discriminator(x)
    one, two = discriminator.hidden
    assert_close(first, torch.where((a := x.flatten(1) @ one.weight.T + one.bias) > 0, a, 0.2 * a))
    assert_close(second, torch.where((b := first @ two.weight.T + two.bias) > 0, b, 0.2 * b))
    assert_close(logits, second @ discriminator.head.weight.T + discriminator.head.bias)


@pytest.mark.parametrize("hidden", [(), (0,)])
def test_layers_that_are_none_are_refused(hidden):
    with pytest.raises(ValueError, match="hidden"):
        MLPDiscriminator((2,), hidden=hidden)


@pytest.mark.parametrize("name", vaekit.discriminators.names())
def test_every_discriminator_takes_no_example_and_is_made_again_from_its_options(name):
    discriminator = vaekit.discriminators.create(name, input_shape=(1, 24, 24))
    assert discriminator(torch.rand(0, 1, 24, 24))[-1].shape[0] == 0
    with pytest.raises(ValueError, match="at least one dimension"):
        vaekit.discriminators.create(name, input_shape=())

"""Laws of the pictures of a latent space: points, squares and traversals are what the model encodes and decodes."""

import numpy as np
import pytest
import torch
from helpers.pictures import FUNCTIONS, IMAGES, SHAPES, data, model, shown
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

import vaekit
from vaekit import plots


@pytest.mark.parametrize("shape", SHAPES)
def test_the_points_of_a_latent_space_are_the_encoders_means(shape):
    vae, x = model(SHAPES[shape]), data(700, SHAPES[shape])
    (axes,) = plots.latent_space(vae, x).axes
    (points,) = axes.collections
    expected = vae.encode(x).mean.detach()
    torch.testing.assert_close(torch.from_numpy(np.array(points.get_offsets())).float(), expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=8, deadline=None)
@given(labels=st.lists(st.integers(-3, 12), min_size=1, max_size=30), kind=st.sampled_from([torch.tensor, np.array, list]))
def test_the_groups_of_a_latent_space_are_the_labels(labels, kind):
    vae, x = model(), data(len(labels))
    (axes,) = plots.latent_space(vae, x, kind(labels)).axes
    assert [group.get_label() for group in axes.collections] == [str(label) for label in sorted(set(labels))]
    means, labels = vae.encode(x).mean.detach(), torch.tensor(labels)
    for group in axes.collections:
        expected = means[labels == int(group.get_label())]
        torch.testing.assert_close(torch.from_numpy(np.array(group.get_offsets())).float(), expected, rtol=1e-5, atol=1e-6)


def test_ten_classes_can_be_told_apart_by_colour_and_by_marker():
    (axes,) = plots.latent_space(model(), data(20), torch.arange(20) % 10).axes
    colours = {tuple(group.get_facecolor()[0]) for group in axes.collections}
    markers = {group.get_paths()[0].vertices.tobytes() for group in axes.collections}
    assert len(colours) == len(markers) == 10
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [str(i) for i in range(10)]


@pytest.mark.parametrize("labels", [0, 5, 7])
def test_another_number_of_labels_than_of_examples_is_refused(labels):
    with pytest.raises(ValueError, match=f"6.*{labels}"):
        plots.latent_space(model(), data(6), torch.zeros(labels))


@pytest.mark.parametrize("latent_dim", [1, 3])
@pytest.mark.parametrize("name", ["latent_space", "latent_grid"])
def test_another_number_of_latent_dimensions_is_refused_and_traversals_named(name, latent_dim):
    with pytest.raises(ValueError, match=rf"{name}.*\({latent_dim},\).*traversals"):
        FUNCTIONS[name](model(latent_dim=latent_dim))


def test_a_spatial_latent_is_refused_and_what_can_be_drawn_is_drawn():
    spatial = {"name": "conv", "channels": (4,), "spatial": True}
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2, encoder=spatial, decoder={"name": "conv", "channels": (4,)})
    for name in ("latent_space", "latent_grid"):
        with pytest.raises(ValueError, match=r"\(2, 4, 4\).*reconstructions"):
            FUNCTIONS[name](vae)
    with pytest.raises(ValueError, match=r"\(2, 4, 4\).*samples"):
        plots.traversals(vae)
    assert plots.reconstructions(vae, torch.rand(2, 1, 8, 8)).get_suptitle() == "reconstructions through 32 latent dimensions"
    assert len(plots.samples(vae, 4).axes) == 4


def test_nothing_is_drawn_between_the_codes_of_a_codebook():
    vae = model(posterior={"name": "vector_quantized", "codes": 5}, prior="codes", loss="vector_quantized")
    for name in ("latent_grid", "traversals"):
        with pytest.raises(ValueError, match=f"{name}.*VectorQuantizedFamily"):
            getattr(plots, name)(vae)
    assert plots.reconstructions(vae, data(2)).get_suptitle() == "reconstructions through 1 code out of 5"
    points = plots.latent_space(vae, data(30)).axes[0].collections[0].get_offsets()
    book = vae.encoder.family.codebook
    assert {tuple(point) for point in points.tolist()} <= {tuple(code) for code in book.double().tolist()}
    spatial = vaekit.create_vae("vq-mnist")
    title = plots.reconstructions(spatial, torch.rand(2, 1, 28, 28)).get_suptitle()
    assert title == "reconstructions through 49 codes out of 128"


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("side", [2, 5])
def test_a_tile_is_the_decoded_gaussian_quantile_with_z1_rightwards_and_z2_upwards(shape, side):
    vae = model(SHAPES[shape])
    (axes,) = plots.latent_grid(vae, side=side).axes
    picture = shown(axes)
    channels, height, width = SHAPES[shape]
    assert picture.shape == (channels, side * height, side * width)
    assert axes.images[0].origin == "upper"
    quantiles = norm.ppf((np.arange(side) + 0.5) / side)
    for row in range(side):
        for column in range(side):
            z = torch.tensor([[quantiles[column], quantiles[side - 1 - row]]], dtype=torch.float32)
            tile = picture[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
            torch.testing.assert_close(tile, vae.decode(z)[0].detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", [2, 3, 16])
def test_the_ticks_of_a_latent_grid_stand_in_the_middle_of_the_tile_whose_quantile_they_give(side):
    (axes,) = plots.latent_grid(model(), side=side).axes
    quantiles = norm.ppf((np.arange(side) + 0.5) / side)
    for ticks, labels, size, upwards in (
        (axes.get_xticks(), axes.get_xticklabels(), 5, False),
        (axes.get_yticks(), axes.get_yticklabels(), 6, True),
    ):
        tiles = [round((tick + 0.5) / size - 0.5) for tick in ticks]
        np.testing.assert_allclose(ticks, [(tile + 0.5) * size - 0.5 for tile in tiles])
        expected = quantiles[::-1] if upwards else quantiles
        np.testing.assert_allclose([float(label.get_text()) for label in labels], expected[tiles], atol=0.0051)


@pytest.mark.parametrize("side", [1, 0, -2, 10**12])
def test_a_side_out_of_range_is_refused(side):
    with pytest.raises(ValueError, match=f"side.*got {side}"):
        plots.latent_grid(model(), side=side)


@pytest.mark.parametrize("shape", [(13,), (2, 40), (2, 4, 4)])
def test_a_grid_of_data_that_is_not_images_is_refused(shape):
    with pytest.raises(ValueError, match="latent_grid.*images"):
        plots.latent_grid(model(shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("from_example", [False, True])
def test_a_row_of_traversals_moves_its_coordinate_only(shape, from_example):
    vae, x = model(SHAPES[shape], latent_dim=3), data(1, SHAPES[shape])
    figure = plots.traversals(vae, x if from_example else None, steps=4, span=2.0)
    start = vae.encode(x).mean.detach() if from_example else torch.zeros(1, 3)
    panels = iter(figure.axes)
    for dimension in range(3):
        for value in torch.linspace(-2.0, 2.0, 4):
            z = start.clone()
            z[0, dimension] = value
            axes = next(panels)
            expected = vae.decode(z)[0].detach()
            expected = expected if axes.images else expected.reshape(-1, expected.shape[-1])
            torch.testing.assert_close(shown(axes), expected, rtol=1e-5, atol=1e-6)
    assert next(panels, None) is None


@pytest.mark.parametrize(("latent_dim", "rows"), [(1, 1), (12, 12), (15, 12)])
def test_at_most_twelve_dimensions_are_shown_and_the_title_says_so(latent_dim, rows):
    figure = plots.traversals(model((1, 2, 2), latent_dim), steps=2)
    assert len(figure.axes) == 2 * rows
    assert ("the first 12 of 15" in figure.get_suptitle()) is (latent_dim == 15)


@pytest.mark.parametrize("steps", [1, 0, 10**12])
def test_a_number_of_steps_out_of_range_is_refused(steps):
    with pytest.raises(ValueError, match=f"steps.*got {steps}"):
        plots.traversals(model(), steps=steps)


@pytest.mark.parametrize("n", [0, 2])
def test_traversals_from_another_number_of_examples_are_refused(n):
    with pytest.raises(ValueError, match=f"one example.*{n}"):
        plots.traversals(model(), data(n))


def test_labels_have_their_names_in_the_legend():
    (axes,) = plots.latent_space(model(), data(20), torch.arange(20) % 2 * 2, label_names=("rome", "london", "oslo")).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["rome", "oslo"]

"""Generated shapes: every picture is another one, and each factor changes what its name says."""

import pytest
import torch

import vaekit
from vaekit.data import shapes


@pytest.fixture(scope="module")
def made():
    return shapes(size=32, orientations=4, positions=4)


def moments(x):
    """Mass, and its centre, of each picture [N, 1, H, W]."""
    mass = x.sum((1, 2, 3))
    places = torch.arange(x.shape[-1]) + 0.5
    return mass, (x.sum((1, 2)) @ places) / mass, (x.sum((1, 3)) @ places) / mass


def test_there_is_one_picture_for_each_combination(made):
    assert made.x.shape == (3 * 3 * 4 * 4 * 4, 1, 32, 32)
    assert len(made.factors.unique(dim=0)) == len(made.x) == len(made.x.flatten(1).unique(dim=0))
    assert made.names == ("shape", "scale", "orientation", "x", "y")
    assert torch.equal(made.y, made.factors[:, 0])
    assert len(shapes()) == 4608


def test_values_are_grey_levels_and_no_shape_is_cut_off(made):
    assert made.x.min() == 0.0
    assert made.x.max() == 1.0
    assert ((made.x > 0.0) & (made.x < 1.0)).any()
    border = torch.cat((made.x[..., 0, :], made.x[..., -1, :], made.x[..., :, 0], made.x[..., :, -1]))
    assert border.max() == 0.0


def test_the_centre_is_where_the_factors_x_and_y_say(made):
    _, column, row = moments(made.x)
    expected = 32 * (0.3 + 0.4 * made.factors[:, 3:] / 3)
    assert torch.stack((column, row), 1).sub(expected).abs().max() < 0.25


def test_the_scale_is_that_of_areas_and_the_orientation_leaves_them(made):
    mass, _, _ = moments(made.x)
    radius = 32 * (0.13 + 0.07 * made.factors[:, 1] / 2)
    unit = torch.tensor([1.7**2, torch.pi * 1.1 * 0.6, 0.6**2 * 3 * 3**0.5])  # areas of the three shapes
    assert ((mass / (unit[made.factors[:, 0]] * radius**2)) - 1).abs().max() < 0.06


def test_sizes_that_are_none_are_refused():
    with pytest.raises(ValueError, match="at least 8 pixels"):
        shapes(size=7)
    with pytest.raises(ValueError, match="positions has to be a whole number"):
        shapes(positions=0)


def test_a_model_trains_on_them():
    made = shapes(size=8, orientations=2, positions=2)
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2, seed=0)
    history = vaekit.fit(vae, made, epochs=3, progress=False, device="cpu")
    assert history["loss"][-1] < history["loss"][0]

"""Generated shapes: every picture is another one, and each factor changes what its name says."""

import math
import sys

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


@pytest.mark.parametrize("at_once", [1, 1000, 1 << 18])
def test_pictures_are_the_same_bits_as_when_all_are_drawn_at_once(at_once, monkeypatch):
    """Each distance for every picture, and then the one of its shape: plain, and ten times the memory."""
    monkeypatch.setattr(sys.modules["vaekit.data.shapes"], "_AT_ONCE", at_once)
    made = shapes(size=16, scales=2, orientations=3, positions=2)
    shape, scale, turn, column, row = (values[:, None, None] for values in made.factors.T)
    radius, angle = 16 * (0.13 + (0.2 - 0.13) * (scale / 1)), turn * (math.pi / 2 / 3)
    places, cosine, sine = torch.arange(16) + 0.5, torch.cos(angle), torch.sin(angle)
    x, y = (at - 16 * (0.3 + (0.7 - 0.3) * (place / 1)) for at, place in ((places, column), (places[:, None], row)))
    u, v = (x * cosine + y * sine) / radius, (y * cosine - x * sine) / radius
    square = torch.maximum(u.abs(), v.abs()) - 0.85
    ellipse = 0.6 * (torch.hypot(u / 1.1, v / 0.6) - 1.0)
    sides = [math.pi / 2 + side * 2 * math.pi / 3 for side in range(3)]
    triangle = torch.stack([u * math.cos(a) + v * math.sin(a) for a in sides]).amax(0) - 0.6
    distance = torch.stack((square, ellipse, triangle)).gather(0, shape.expand(u.shape)[None])[0] * radius
    assert torch.equal(made.x[:, 0], (0.5 - distance).clamp(0.0, 1.0))


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

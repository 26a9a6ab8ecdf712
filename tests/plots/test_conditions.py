"""Laws of the pictures of conditional models."""

import pytest
import torch
from helpers.pictures import assert_shows, data, model, shown

import vaekit
from vaekit import plots

LABELS = {"name": "labels", "classes": 3}


def test_a_conditional_models_samples_have_a_row_for_each_label_and_one_code_in_each_column():
    vae, key = model(condition=LABELS), vaekit.make_key(0)
    figure = plots.samples(vae, 4)
    assert len(figure.axes) == 12
    for row, label in enumerate(range(3)):
        assert figure.axes[4 * row].get_ylabel() == str(label)
        for column, example in enumerate(vae.sample(4, label, key=key)):
            assert_shows(figure.axes[4 * row + column], example)
    assert len(plots.samples(vae, 2, condition=[2, 0, 2]).axes) == 6
    assert len(plots.samples(vae).axes) == 24


def test_a_conditional_models_pictures_are_of_the_given_conditions():
    vae, x, y = model(condition=LABELS), data(6), torch.arange(6) % 3
    figure = plots.reconstructions(vae, x, y)
    for axes, example in zip(figure.axes[6:], vae.reconstruct(x, y), strict=True):
        assert_shows(axes, example)
    means = vae.encode(x, y).mean.detach()
    for group, label in zip(plots.latent_space(vae, x, y).axes[0].collections, range(3), strict=True):
        torch.testing.assert_close(torch.tensor(group.get_offsets()), means[y == label], check_dtype=False)
    other = plots.latent_space(vae, x, y, condition=(y + 1) % 3).axes[0].collections[0]
    assert not torch.allclose(torch.tensor(other.get_offsets()).float(), means[y == 0])
    assert "given 2" in plots.latent_grid(vae, side=2, condition=2).axes[0].get_title()
    grids = [plots.latent_grid(vae, side=2, condition=label).axes[0].images[0].get_array() for label in (0, 1)]
    assert (grids[0] != grids[1]).any()
    vae = model(latent_dim=3, condition=LABELS)
    figure = plots.traversals(vae, x[:1], 1, steps=2, span=1.0)
    assert "given 1" in figure.get_suptitle()
    z = vae.encode(x[:1], 1).mean.detach().clone()
    z[0, 0] = -1.0
    torch.testing.assert_close(shown(figure.axes[0]), vae.decode(z, 1)[0].detach())


def test_vectors_beside_the_data_have_no_colour():
    vae, x = model(), data(6)
    (points,) = plots.latent_space(vae, x, torch.rand(6, 3)).axes[0].collections
    assert len(points.get_offsets()) == 6
    told = model(condition={"name": "vector", "size": 3})
    plots.latent_space(told, x, torch.rand(6, 3))


def test_vectors_are_named_for_a_picture():
    vae = model(condition={"name": "vector", "size": 2})
    figure = plots.samples(vae, 2, condition=torch.tensor([[0.5, -1.0], [2.0, 3.0]]))
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["0.5, -1", "2, 3"]


@pytest.mark.parametrize(
    ("draw", "fact"),
    [
        (lambda vae: plots.samples(vae, condition=3), r"condition=\[3\]"),
        (lambda vae: plots.samples(vae, condition=torch.zeros(31, dtype=torch.long)), "30.*31"),
        (lambda vae: plots.samples(vae, 31), "30.*31"),
        (lambda vae: plots.reconstructions(vae, data(2)), "no condition"),
        (lambda vae: plots.latent_space(vae, data(2)), "no condition"),
        (lambda vae: plots.latent_grid(vae), "no condition"),
        (lambda vae: plots.samples(model(), condition=[1]), "condition"),
        (lambda vae: plots.latent_space(model(), data(2), condition=1), "condition"),
        (lambda vae: plots.samples(model(condition={"name": "vector", "size": 2})), "condition"),
    ],
)
def test_pictures_of_a_conditional_model_ask_for_what_they_need(draw, fact):
    with pytest.raises(ValueError, match=fact):
        draw(model(condition=LABELS))

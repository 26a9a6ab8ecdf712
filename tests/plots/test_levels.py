"""What each level holds: rows that keep fewer and fewer levels of the examples above them."""

import matplotlib.pyplot as plt
import pytest
import torch

import vaekit
from vaekit.plots import levels


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def model(**options):
    ladder = {"name": "ladder", "levels": (1, 2, 2), "hidden": (4,)}
    return vaekit.create_vae(
        input_shape=(1, 6, 5), latent_dim=5, likelihood="gaussian", posterior=ladder, prior="top_down", seed=0, **options
    )


def test_rows_keep_fewer_and_fewer_levels_of_each_example():
    vae, x, key = model(), torch.rand(4, 1, 6, 5), vaekit.make_key(3)
    figure = levels(vae, x, key=key)
    rows = torch.stack([torch.as_tensor(axes.images[0].get_array()) for axes in figure.axes]).reshape(-1, 4, 6, 5).float()
    assert len(rows) == 5
    torch.testing.assert_close(rows[0], x[:, 0])
    torch.testing.assert_close(rows[1], vae.reconstruct(x)[:, 0])
    torch.testing.assert_close(rows[-1], vae.sample(4, key=key)[:, 0])
    z = vae.encode(x).mean
    for kept in (1, 2):
        torch.testing.assert_close(rows[4 - kept], vae.decode(vae.prior.below(z, kept, key=key))[:, 0].detach())
    labels = [axes.get_ylabel() for axes in figure.axes[::4]]
    assert labels == ["example", "all levels", "levels 1 to 2", "level 1", "no level"]


def test_a_conditional_model_is_told_the_condition():
    vae = model(condition={"name": "labels", "classes": 3})
    assert len(levels(vae, torch.rand(3, 1, 6, 5), torch.arange(3)).axes) == 15


def test_models_without_levels_and_too_many_examples_are_refused():
    plain = vaekit.create_vae(input_shape=(1, 6, 5), latent_dim=2)
    with pytest.raises(TypeError, match="not with a StandardNormal; see reconstructions"):
        levels(plain, torch.rand(2, 1, 6, 5))
    with pytest.raises(ValueError, match="1 to 30 examples"):
        levels(model(), torch.rand(31, 1, 6, 5))

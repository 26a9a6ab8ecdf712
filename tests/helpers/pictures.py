"""Small models and data to draw, and what a panel of a figure shows."""

import io

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

import vaekit
from vaekit import plots

SHAPES = {"grey": (1, 6, 5), "colour": (3, 6, 5), "table": (13,), "series": (2, 40)}


IMAGES = ("grey", "colour")


def model(shape=(1, 6, 5), latent_dim=2, seed=0, **parts) -> vaekit.VAE:
    sizes = {"encoder": {"hidden": (5,)}, "decoder": {"hidden": (5,)}}
    vae = vaekit.create_vae(**{**sizes, **parts}, input_shape=shape, latent_dim=latent_dim, seed=seed)
    with torch.no_grad():
        for weight in vae.parameters():
            weight.add_(torch.full_like(weight, 0.1))  # biases that are not 0, so that the origin is no special point
    return vae


def data(n, shape=(1, 6, 5), seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def shown(axes) -> torch.Tensor:
    """The example that a panel shows, [C, H, W] for an image and [channels, length] for curves."""
    if axes.images:
        (image,) = axes.images
        array = torch.from_numpy(np.array(image.get_array()))
        return array[None] if array.ndim == 2 else array.permute(2, 0, 1)
    return torch.stack([torch.as_tensor(np.array(line.get_ydata())) for line in axes.lines])


def assert_shows(axes, example: torch.Tensor) -> None:
    expected = example if axes.images else example.reshape(-1, example.shape[-1])
    torch.testing.assert_close(shown(axes), expected.float(), rtol=0, atol=0)


def assert_draws(figure) -> None:
    """The figure is a matplotlib Figure that renders."""
    assert isinstance(figure, Figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=30)
    assert min(Image.open(stream).size) > 1


FUNCTIONS = {
    "reconstructions": lambda vae: plots.reconstructions(vae, data(3, vae.input_shape)),
    "samples": lambda vae: plots.samples(vae, 3),
    "draws": lambda vae: plots.samples(vae, 3, draw=True),
    "latent_space": lambda vae: plots.latent_space(vae, data(6, vae.input_shape), torch.arange(6) % 2),
    "latent_grid": lambda vae: plots.latent_grid(vae, side=3),
    "traversals": lambda vae: plots.traversals(vae, data(1, vae.input_shape), steps=3),
}

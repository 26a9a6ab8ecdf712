"""The catalogue of presets: whole models by name, each a set of specs that `vaekit.create_vae` composes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vaekit.registry import Registry

if TYPE_CHECKING:
    from vaekit.vae import VAE

registry: Registry[dict[str, Any]] = Registry("preset", "vaekit.presets")
register, names, describe = registry.register, registry.names, registry.describe


@register("dense-mnist")
def dense_mnist() -> dict[str, Any]:
    """The dense 784-2000-256-2 autoencoder for 28 x 28 grey images.

    The model of the tutorial with which this library began.
    """
    return {
        "input_shape": (1, 28, 28),
        "latent_dim": 2,
        "encoder": {"name": "mlp", "hidden": (2000, 256)},
        "decoder": {"name": "mlp", "hidden": (256, 2000)},
    }


@register("conv-mnist")
def conv_mnist() -> dict[str, Any]:
    """A convolutional autoencoder for 28 x 28 grey images with two latent dimensions.

    "keras-mnist" with a wider dense layer, and one in the decoder as well.
    """
    return {
        "input_shape": (1, 28, 28),
        "latent_dim": 2,
        "encoder": {"name": "conv", "channels": (32, 64), "hidden": (256,)},
        "decoder": {"name": "conv", "channels": (64, 32), "hidden": (256,)},
    }


@register("keras-mnist")
def keras_mnist() -> dict[str, Any]:
    """The convolutional autoencoder of Keras' example, for 28 x 28 grey images.

    F. Chollet, "Variational AutoEncoder", keras.io/examples/generative/vae, 2020: 69,076 and 65,089 parameters.
    """
    return {
        "input_shape": (1, 28, 28),
        "latent_dim": 2,
        "encoder": {"name": "conv", "channels": (32, 64), "hidden": (16,)},
        "decoder": {"name": "conv", "channels": (64, 32)},
    }


@register("burda-mnist")
def burda_mnist() -> dict[str, Any]:
    """The dense 784-200-200-50 autoencoder on which bounds of log p(x) are compared, for 28 x 28 black and white images.

    Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders", 2016, arXiv:1509.00519, section 5: the model with
    one stochastic layer, and tanh. Their images are binarised.
    """
    return {
        "input_shape": (1, 28, 28),
        "latent_dim": 50,
        "encoder": {"name": "mlp", "hidden": (200, 200), "activation": "tanh"},
        "decoder": {"name": "mlp", "hidden": (200, 200), "activation": "tanh"},
    }


@register("vq-mnist")
def vq_mnist() -> dict[str, Any]:
    """A convolutional autoencoder through 7 x 7 codes out of 128, for 28 x 28 grey images.

    The vector-quantised bottleneck of A. van den Oord, O. Vinyals, K. Kavukcuoglu, "Neural Discrete Representation Learning",
    2017, arXiv:1711.00937, with the networks of "keras-mnist". The prior is uniform while these are trained, and draws from it
    are noise; the second stage fits one that draws digits: `vaekit.fit_prior(vae, train)`, or after `vaekit train --preset
    vq-mnist` `vaekit fit-prior runs/vq-mnist --set prior.width=64 --set prior.layers=2 --epochs 12`.
    """
    return {
        "input_shape": (1, 28, 28),
        "latent_dim": 16,
        "encoder": {"name": "conv", "channels": (32, 64), "spatial": True},
        "decoder": {"name": "conv", "channels": (64, 32)},
        "posterior": {"name": "vector_quantized", "codes": 128},
        "prior": "codes",
        "loss": "vector_quantized",
    }


@register("ladder-mnist")
def ladder_mnist() -> dict[str, Any]:
    """ "burda-mnist" with two levels of latents, 10 above 40, for 28 x 28 black and white images.

    The ladder of C. K. Sønderby et al., "Ladder Variational Autoencoders", 2016, arXiv:1602.02282, made small, and with a decoder
    that reads both levels. Raise beta from 0 over some hundred steps, which the upper level needs:
    loss={"beta": {"name": "linear", "steps": 400, "start": 0.0, "end": 1.0}}.
    """
    return {
        **burda_mnist(),
        "posterior": {"name": "ladder", "levels": (10, 40), "hidden": (100,), "activation": "tanh"},
        "prior": "top_down",
    }


@register("top-down-mnist")
def top_down_mnist() -> dict[str, Any]:
    """Residual networks with three levels of latents at 7 x 7, 7 x 7 and 14 x 14, for 28 x 28 black and white images.

    The top-down models of A. Vahdat, J. Kautz, "NVAE", 2020, arXiv:2007.03898, and R. Child, "Very Deep VAEs", 2021,
    arXiv:2011.10650, made small: 187,000 parameters, and two latents at each position.
    """
    return {
        "input_shape": (1, 28, 28),
        "latent_dim": 2,
        "encoder": {"name": "top_down", "channels": (12, 24, 24), "groups": (0, 1, 2)},
        "decoder": {"name": "top_down", "decoder": {"name": "resnet", "channels": (24, 12), "blocks": 1}},
        "prior": "top_down",
    }


@register("colour-64")
def colour_64() -> dict[str, Any]:
    """A convolutional autoencoder for 64 x 64 colour images, faces for example, with values in [0, 1].

    The network is about that of X. Hou, L. Shen, K. Sun, G. Qiu, "Deep Feature Consistent Variational Autoencoder", 2016,
    arXiv:1610.00291, with 3x3 kernels, group normalisation, and transposed convolutions, which on a CPU take a third of the time
    of its resizing (upsample="nearest"). One learned variance for all pixels, as in O. Rybkin, K. Daniilidis, S. Levine, "Simple
    and Effective VAE Training with Calibrated Decoders", 2021, arXiv:2006.13202.
    """
    return {
        "input_shape": (3, 64, 64),
        "latent_dim": 128,
        "encoder": {
            "name": "conv",
            "channels": (32, 64, 128, 256),
            "hidden": (),
            "activation": "leaky_relu",
            "normalization": "group",
        },
        "decoder": {
            "name": "conv",
            "channels": (256, 128, 64, 32),
            "activation": "leaky_relu",
            "normalization": "group",
        },
        "likelihood": {"name": "gaussian", "variance": "shared"},
    }


@register("latent-diffusion")
def latent_diffusion() -> dict[str, Any]:
    """The autoencoder of latent diffusion for 64 x 64 colour images in [0, 1], with its objective; other sizes by input_shape.

    R. Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, arXiv:2112.10752, appendix G: L1,
    LPIPS, a patch discriminator with the weight by gradients, and a divergence of which a millionth counts. Their KL-f4 at a
    quarter of its width, with the discriminator from step 5,000 on instead of 50,000. LPIPS needs `pip install
    "vaekit[perceptual]"` and its network's weights; `loss={"distances": [...]}` puts other distances in its place.
    """
    both = {"name": "resnet", "norm_eps": 1e-6, "attention": True}
    return {
        "input_shape": (3, 64, 64),
        "latent_dim": 3,
        "encoder": {**both, "channels": (32, 64, 128), "spatial": True, "downsample_padding": "end"},
        "decoder": {**both, "channels": (128, 64, 32), "blocks": 3},
        "likelihood": "laplace",
        "loss": {
            "name": "perceptual",
            "objective": {"name": "elbo", "beta": 1e-6},
            # Theirs are in [-1, 1], where L1 is twice as large beside a distance of weight 1.
            "distances": [{"name": "lpips", "weight": 0.5}],
            "discriminator": {"name": "patch", "channels": 32},
            "adversarial_weight": 0.5,
            "start": 5000,
        },
    }


@register("table")
def table() -> dict[str, Any]:
    """An autoencoder for tables of mixed columns (numbers, classes, counts) with missing values; name your columns.

    `create_vae("table", likelihood={"columns": {...}})`: the columns here, two numbers, one of three classes and a count, are an
    example. Standardise numbers first. After A. Nazábal et al., "Handling Incomplete Heterogeneous Data using VAEs", 2018,
    arXiv:1807.03653, without its mixture prior.
    """
    number = {"name": "gaussian", "variance": "shared"}
    return {
        "latent_dim": 8,
        "encoder": {"name": "mlp", "hidden": (128, 64)},
        "decoder": {"name": "mlp", "hidden": (64, 128)},
        "likelihood": {
            "name": "columns",
            "columns": {
                "number 1": number,
                "number 2": number,
                "class": {"name": "categorical", "classes": 3},
                "count": "negative_binomial",
            },
            "missing": "ignore",
        },
    }


@register("single-cell")
def single_cell() -> dict[str, Any]:
    """An autoencoder for the counts of 2,000 genes in single cells, with the sizes of scVI.

    R. Lopez et al., "Deep generative modeling for single-cell transcriptomics", 2018, doi:10.1038/s41592-018-0229-2, in the
    defaults of scvi-tools: what is modelled is how a cell's counts are shared out among the genes; of a condition= (a
    batch, covariates) the decoder alone is told. With layer normalisation in place of batch normalisation.
    """
    return {
        "input_shape": (2000,),
        "latent_dim": 10,
        "encoder": {"name": "mlp", "hidden": (128,), "normalization": "layer", "dropout": 0.1, "condition_dim": 0},
        "decoder": {"name": "mlp", "hidden": (128,), "normalization": "layer"},
        "likelihood": {
            "name": "library_size",
            "counts": {"name": "zero_inflated_negative_binomial", "dispersion": "feature"},
        },
    }


@register("series")
def series() -> dict[str, Any]:
    """A convolutional autoencoder for series of 128 numbers, standardised; other lengths and channels by input_shape.

    The layout of "conv-mnist" in one dimension, deeper, with one learned variance; of no paper.
    """
    return {
        "input_shape": (1, 128),
        "latent_dim": 8,
        "encoder": {"name": "conv1d", "channels": (32, 64, 64), "hidden": (128,), "normalization": "group"},
        "decoder": {"name": "conv1d", "channels": (64, 64, 32), "hidden": (128,), "normalization": "group"},
        "likelihood": {"name": "gaussian", "variance": "shared"},
    }


def create(name: str, /, **overrides: Any) -> VAE:
    """`create_vae(name, **overrides)`."""
    from vaekit.compose import create_vae  # which reads this catalogue

    return create_vae(name, **overrides)

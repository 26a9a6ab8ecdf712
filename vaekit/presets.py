"""Compositions by name, and `create_vae`, which composes a model from names and options."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vaekit import config
from vaekit.conditions.base import Condition
from vaekit.decoders.base import Decoder
from vaekit.encoders.base import Encoder
from vaekit.likelihoods.base import Likelihood
from vaekit.losses.base import Loss
from vaekit.ops import make_key
from vaekit.posteriors.family import Family
from vaekit.priors.base import Prior
from vaekit.registry import Registry
from vaekit.vae import VAE

registry: Registry[dict[str, Any]] = Registry("preset", "vaekit.presets")
register, names, describe = registry.register, registry.names, registry.describe

_seeding = threading.Lock()  # torch's generator is one for all threads
_DEFAULTS: dict[str, Any] = {
    "encoder": "mlp",
    "decoder": "mlp",
    "likelihood": "bernoulli",
    "prior": "standard_normal",
    "loss": "elbo",
    "condition": None,
}


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
    2017, arXiv:1711.00937, with the networks of "keras-mnist".
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
    defaults of scvi-tools, with layer normalisation in place of batch normalisation, a dispersion for each gene in each cell, and
    without library sizes and batch effects.
    """
    return {
        "input_shape": (2000,),
        "latent_dim": 10,
        "encoder": {"name": "mlp", "hidden": (128,), "normalization": "layer", "dropout": 0.1},
        "decoder": {"name": "mlp", "hidden": (128,), "normalization": "layer"},
        "likelihood": "zero_inflated_negative_binomial",
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
    return create_vae(name, **overrides)


def create_vae(
    preset: str | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    latent_dim: int | None = None,
    encoder: str | Mapping[str, Any] | Encoder | None = None,
    decoder: str | Mapping[str, Any] | Decoder | None = None,
    likelihood: str | Mapping[str, Any] | Likelihood | None = None,
    prior: str | Mapping[str, Any] | Prior | None = None,
    loss: str | Mapping[str, Any] | Loss | None = None,
    condition: str | Mapping[str, Any] | Condition | None = None,
    posterior: str | Mapping[str, Any] | Family | None = None,
    seed: int | None = None,
) -> VAE:
    """Compose a model from a preset, from parts, or from a preset with other parts.

    Args:
        preset: a name from `vaekit.presets.names()`; what it leaves open, and everything without a preset, is an "mlp"
            encoder and decoder, a "bernoulli" likelihood, a "standard_normal" prior and the "elbo".
        input_shape: the shape of one example, without the batch. The encoder is made for what the likelihood shows it of such
            an example; where the likelihood names the columns of a table, they are counted.
        latent_dim: the number of latent dimensions; of latent channels for an encoder with spatial=True, whose latents' shape the
            decoder then gets.
        encoder, decoder, likelihood, prior, loss: a registered name, {"name": ..., option: ...}, or an object. A mapping without
            a name sets options of the preset's (or the default) part.
        condition: the same, what a conditional model is told of each example: {"name": "labels", "classes": 10} for example. The
            networks need the option condition_dim, which they get from it.
        posterior: the family of q(z | x), the same way; it is the encoder's option of that name, "diagonal_gaussian" by default.
        seed: fixes the initial weights, and leaves torch's global generator as it was; without one they come from there.

    Returns:
        the model, float32, on the CPU.

    Raises:
        UnknownNameError, TypeError, ValueError: a name, an option or shapes that do not exist or fit, by name.

    Example:
        >>> vae = create_vae(input_shape=(13,), latent_dim=3, encoder={"name": "mlp", "hidden": (64,)}, likelihood="gaussian")
        >>> vae.sample(5).shape
        torch.Size([5, 13])
        >>> create_vae("dense-mnist", latent_dim=10, loss={"beta": 4.0}).latent_shape
        (10,)
        >>> spatial = {"name": "conv", "spatial": True}
        >>> create_vae(input_shape=(3, 32, 32), latent_dim=4, encoder=spatial, decoder="conv").latent_shape
        (4, 8, 8)
    """
    if preset is not None and not isinstance(preset, str):
        raise TypeError(f"the preset has to be a name, one of {', '.join(names())}; got {preset!r}")
    chosen = {} if preset is None else dict(registry.create(preset))
    input_shape = chosen.get("input_shape") if input_shape is None else input_shape
    latent_dim = chosen.get("latent_dim") if latent_dim is None else latent_dim
    if isinstance(encoder, Encoder):
        latent_dim = encoder.latent_shape[0] if latent_dim is None else latent_dim
    _check_given("latent_dim", latent_dim, "2")

    given = {
        "encoder": encoder,
        "decoder": decoder,
        "likelihood": likelihood,
        "prior": prior,
        "loss": loss,
        "condition": condition,
    }
    if not isinstance(encoder, Encoder):
        posterior = _resolve("posterior", posterior, chosen.get("posterior"))
    specs = {kind: _resolve(kind, given[kind], chosen.get(kind, default)) for kind, default in _DEFAULTS.items()}

    def build(kind: str, context: Mapping[str, Any] = {}) -> Any:
        spec = specs[kind]
        return config.build_part(kind, {**context, **spec}) if isinstance(spec, Mapping) else spec

    def told(kind: str, condition: Any) -> dict[str, int]:
        """What a network has to know of the condition."""
        spec = specs[kind]
        if condition is None or not isinstance(spec, Mapping):
            return {}
        if not config.REGISTRIES[kind].takes(spec["name"], "condition_dim"):
            raise TypeError(
                f"the {kind} {spec['name']!r} cannot be conditional: it has no option condition_dim. Let its class take that "
                "option, give it to super().__init__, and take the embedded condition [batch, condition_dim] in forward"
            )
        return {"condition_dim": getattr(condition, "dim", 0)}  # VAE refuses what is no Condition

    def family() -> dict[str, Any]:
        """What the encoder has to know of the posterior."""
        spec = specs["encoder"]
        if posterior is None:
            return {}
        if not isinstance(spec, Mapping):
            raise TypeError(f"the encoder is an object, with a posterior already: make it with posterior={posterior!r} instead")
        if "posterior" in spec:
            whose = "the preset's" if posterior == chosen.get("posterior") else "that of posterior="
            raise TypeError(
                f"there are two posteriors, {whose} {posterior!r} and the encoder's {spec['posterior']!r}; give yours as "
                "posterior= alone"
            )
        if not config.REGISTRIES["encoder"].takes(spec["name"], "posterior"):
            raise TypeError(
                f"the encoder {spec['name']!r} has a posterior of its own: it has no option posterior. Let its class take that "
                "option and make its last layer by `self.make_head(posterior, ...)`"
            )
        return {"posterior": posterior}

    def compose() -> VAE:
        built = {kind: build(kind) for kind in ("likelihood", "condition")}
        per_element = getattr(built["likelihood"], "parameters_per_element", 1)  # VAE refuses what is no Likelihood
        data_shape, shown = _data_shapes(built["likelihood"], encoder, input_shape)
        encoder_context = {"input_shape": shown, "latent_dim": latent_dim, **told("encoder", built["condition"]), **family()}
        built["encoder"] = build("encoder", encoder_context)
        latent_shape: tuple[int, ...] = getattr(built["encoder"], "latent_shape", ())  # VAE refuses what is no Encoder
        is_spatial = len(latent_shape) > 1 and latent_shape[0] == latent_dim
        context = {
            "latent_dim": latent_shape if is_spatial else latent_dim,
            "output_shape": data_shape,
            "parameters_per_element": per_element,
            **told("decoder", built["condition"]),
        }
        built["decoder"] = build("decoder", context)
        shapes = {"latent_shape": latent_shape, "input_shape": getattr(built["encoder"], "input_shape", ())}
        for kind in ("prior", "loss"):
            spec = specs[kind]
            takes = config.REGISTRIES[kind].describe(spec["name"]).options if isinstance(spec, Mapping) else ()
            needed = [option for option in shapes if option in takes]
            built[kind] = build(kind, {option: shapes[option] for option in needed})
        return VAE(**built)

    if seed is None:
        return compose()
    make_key(seed)  # refuses what is not a 64-bit integer
    with _seeding, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every accelerator as well
        return compose()


def _check_given(option: str, value: Any, example: str) -> None:
    if value is None:
        raise TypeError(f"create_vae needs {option}, {option}={example} for example, or a preset: {', '.join(names())}")


def _data_shapes(likelihood: Any, encoder: Any, input_shape: Sequence[int] | None) -> tuple[Sequence[int], Sequence[int]]:
    """The shape of an example, from a part where it was not given, and that of what the likelihood shows of it to the encoder."""
    if not isinstance(likelihood, Likelihood):  # which VAE refuses
        return (1,), (1,)
    shape = likelihood.data_shape if input_shape is None else input_shape
    if shape is None and isinstance(encoder, Encoder):
        shape = encoder.input_shape
        if likelihood.encoder_input_shape(shape) != shape:
            raise TypeError(
                f"create_vae needs input_shape, the shape of one example: the encoder reads {shape}, but of data "
                f"{type(likelihood).__name__} shows it something of another shape"
            )
    _check_given("input_shape", shape, "(1, 28, 28)")
    assert shape is not None
    return shape, likelihood.encoder_input_shape(shape)


def _resolve(kind: str, given: Any, default: Any) -> Any:
    """What was given for a part, as a spec with a name or as an object; a mapping without a name amends the default."""
    default = {"name": default} if isinstance(default, str) else default
    if given is None:
        return default
    if isinstance(given, str):
        return {"name": given}
    if isinstance(given, Mapping) and "name" not in given:
        return {**(default or {}), **given}
    return given

"""An AutoencoderKL's config, read into the options of the parts 'resnet' and written from them.

The config is that of diffusers 0.42, and what it leaves out has the default of `diffusers.AutoencoderKL`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vaekit.checks import checked_flag, checked_size, checked_sizes
from vaekit.decoders.resnet import ResNetDecoder
from vaekit.encoders.resnet import ResNetEncoder
from vaekit.files import printable
from vaekit.registry import recorded_spec
from vaekit.vae import VAE

EPS = 1e-6  # of every normalisation of an AutoencoderKL
_DOWN, _UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
DEFAULTS: Mapping[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": (_DOWN,),
    "up_block_types": (_UP,),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
# What changes no number in float32 and above, or only says how a pipeline computes.
_IGNORED = {"force_upcast", "_class_name", "_diffusers_version", "_name_or_path", "_use_default_values"}


def model_options(config: Mapping[str, Any], size: int | None) -> dict[str, Any]:
    """`vaekit.create_vae`'s options for the networks of an AutoencoderKL with this config.

    Args:
        config: what its config.json says.
        size: of the images, height and width; None for the config's `sample_size`.

    Raises:
        ValueError: a config of another class, with an option that is not known here, or of networks that 'resnet' is not.
    """
    options = {**DEFAULTS, **_checked(config)}
    channels = checked_sizes("block_out_channels", options["block_out_channels"])
    blocks = checked_size("layers_per_block", options["layers_per_block"])
    latent_dim = checked_size("latent_channels", options["latent_channels"])
    size = checked_size("sample_size", options["sample_size"]) if size is None else checked_size("size", size)
    stride = 2 ** (len(channels) - 1)
    if size % stride:
        raise ValueError(
            f"images of {size} x {size} cannot be halved {len(channels) - 1} times; give a multiple of {stride} as size="
        )
    scale, shift = _scale_and_shift(options)
    both: dict[str, Any] = {
        "name": "resnet",
        "attention": checked_flag("mid_block_add_attention", options["mid_block_add_attention"]),
        "activation": "silu",
        "normalization": "group",
        "groups": checked_size("norm_num_groups", options["norm_num_groups"]),
        "norm_eps": EPS,
        "latent_scale": scale,
        "latent_shift": shift,
    }
    encoder = {"spatial": True, "downsample_padding": "end", "quant_conv": options["use_quant_conv"]}
    return {
        "input_shape": (checked_size("in_channels", options["in_channels"]), size, size),
        "latent_dim": latent_dim,
        "encoder": {**both, "channels": channels, "blocks": blocks, **encoder},
        "decoder": {**both, "channels": channels[::-1], "blocks": blocks + 1, "post_quant_conv": options["use_post_quant_conv"]},
    }


def _checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options, without those that change nothing; refuses what no model here computes."""
    given = config.get("_class_name", "AutoencoderKL")
    if given != "AutoencoderKL":
        raise ValueError(f"this is a {printable(given)} of diffusers; vaekit reads its AutoencoderKL")
    options = {name: value for name, value in config.items() if name not in _IGNORED}
    if unknown := sorted(set(options) - set(DEFAULTS)):
        raise ValueError(f"an AutoencoderKL has no option {printable(', '.join(unknown))} that vaekit knows of")
    merged = {**DEFAULTS, **options}
    for option, block in (("down_block_types", _DOWN), ("up_block_types", _UP)):
        if set(merged[option]) != {block}:
            raise ValueError(f"{option} are {printable(merged[option])}; the part 'resnet' has the blocks of {block}")
        if len(merged[option]) != len(merged["block_out_channels"]):
            raise ValueError(f"{option} and block_out_channels of the config have to be as many, a block for each level")
    if merged["act_fn"] not in ("silu", "swish"):
        raise ValueError(f"act_fn is {printable(merged['act_fn'])}; vaekit reads autoencoders with 'silu' throughout")
    if merged["in_channels"] != merged["out_channels"]:
        read, written = merged["in_channels"], merged["out_channels"]
        raise ValueError(f"in_channels={read} and out_channels={written} differ; a model here describes what it reads")
    return options


def _scale_and_shift(options: Mapping[str, Any]) -> tuple[Any, Any]:
    """`latent_scale` and `latent_shift`: what diffusers' pipelines do to latents before a model of them sees them."""
    factor, mean, std = options["scaling_factor"], options["latents_mean"], options["latents_std"]
    if mean is None and std is None:
        return factor, options["shift_factor"] or 0.0
    if mean is None or std is None or options["shift_factor"]:
        raise ValueError("latents_mean and latents_std go together, and without a shift_factor")
    return [factor / s for s in std], list(mean)


def config_of(vae: VAE) -> dict[str, Any]:
    """The config of the AutoencoderKL that computes what the model's networks do.

    Raises:
        ValueError: there is none; the message says what differs.
    """
    encoder, decoder = recorded_spec(vae.encoder), recorded_spec(vae.decoder)
    if encoder is None or decoder is None or type(vae.encoder) is not ResNetEncoder or type(vae.decoder) is not ResNetDecoder:
        others = f"{type(vae.encoder).__name__} and {type(vae.decoder).__name__}"
        raise ValueError(f"an AutoencoderKL has the encoder and decoder 'resnet', not {others}")
    both = {"activation": "silu", "normalization": "group", "attention": False, "groups": None, "norm_eps": None, "dropout": 0.0}
    ours = {**both, "blocks": 2, "channels": (64, 128, 256), "spatial": False, "downsample_padding": "both", **encoder}
    theirs = {**both, "blocks": 2, "channels": (256, 128, 64), **decoder}
    needed = {"activation": "silu", "normalization": "group", "norm_eps": EPS, "dropout": 0.0}
    problems = [f"{option}={value!r}" for option, value in needed.items() for part in (ours, theirs) if part[option] != value]
    problems += [f"encoder.{o}={v!r}" for o, v in (("downsample_padding", "end"), ("spatial", True)) if ours[o] != v]
    problems += [f"one {option}" for option in ("attention", "groups") if ours[option] != theirs[option]]
    if ours["groups"] is None:
        problems.append("one number of groups for all layers, as groups=")
    if tuple(ours["channels"]) != tuple(theirs["channels"])[::-1] or ours["blocks"] + 1 != theirs["blocks"]:
        problems.append("the encoder's channels backwards in the decoder, whose levels have one block more")
    units = vae.encoder.standardized
    if (units.scale, units.shift) != (vae.decoder.standardized.scale, vae.decoder.standardized.shift):
        problems.append("one latent_scale and latent_shift")
    if len(vae.input_shape) != 3 or vae.input_shape[1] != vae.input_shape[2]:
        problems.append("square images")
    if vae.condition is not None or vae.decoder.parameters_per_element != 1:
        problems.append("no condition, and a likelihood with one parameter")
    if vae.encoder.family.outputs != 2 * vae.latent_shape[0]:
        problems.append("the posterior 'diagonal_gaussian'")
    if problems:
        raise ValueError(f"the model is no AutoencoderKL, which would have {', '.join(dict.fromkeys(problems))}")
    channels = [int(size) for size in ours["channels"]]
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": vae.input_shape[0],
        "out_channels": vae.input_shape[0],
        "down_block_types": [_DOWN] * len(channels),
        "up_block_types": [_UP] * len(channels),
        "block_out_channels": channels,
        "layers_per_block": int(ours["blocks"]),
        "act_fn": "silu",
        "latent_channels": vae.latent_shape[0],
        "norm_num_groups": int(ours["groups"]),
        "sample_size": vae.input_shape[1],
        **_units_of(units.scale, units.shift),
        "use_quant_conv": vae.encoder.quant_conv is not None,
        "use_post_quant_conv": vae.decoder.post_quant_conv is not None,
        "mid_block_add_attention": bool(ours["attention"]),
        "force_upcast": True,
    }


def _units_of(scale: float | Sequence[float], shift: float | Sequence[float]) -> dict[str, Any]:
    if isinstance(scale, float) and isinstance(shift, float):
        return {"scaling_factor": scale, "shift_factor": shift or None}
    count = len(scale) if not isinstance(scale, float) else len(shift)  # type: ignore[arg-type]
    scales, shifts = ([n] * count if isinstance(n, float) else list(n) for n in (scale, shift))
    factor = math.prod(scales) ** (1 / count)  # any number will do: the products of the two are what counts
    return {"scaling_factor": factor, "latents_mean": shifts, "latents_std": [factor / s for s in scales]}

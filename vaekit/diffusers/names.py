"""Which tensor of an AutoencoderKL is which of a model made of the parts 'resnet'.

The names are those of diffusers 0.42, src/diffusers/models/autoencoders/autoencoder_kl.py and vae.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from vaekit.layers import CONVOLUTIONS
from vaekit.residual import ResidualBlock, SelfAttention
from vaekit.vae import VAE

Names = dict[str, tuple[str, ...]]  # of a tensor here, those of the tensors there that it is made of, one behind the other

_CONVOLUTIONS = tuple(CONVOLUTIONS.values())
# Files written before diffusers 0.17 have other names for the layers of attention, which diffusers still reads.
_EARLIER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def names_of(vae: VAE) -> Names:
    """For each tensor of the networks of a model that `reading` composes, its names there."""
    encoder, decoder = vae.encoder, vae.decoder
    names = {**_of_network(encoder, "encoder", "down_blocks"), **_of_network(decoder, "decoder", "up_blocks")}
    layers: list[tuple[str, str]] = [("encoder.head", "encoder.conv_out"), ("decoder.head", "decoder.conv_out")]
    layers.append(("decoder.first", "decoder.conv_in"))
    if encoder.quant_conv is not None:
        layers.append(("encoder.quant_conv", "quant_conv"))
    if decoder.post_quant_conv is not None:
        layers.append(("decoder.post_quant_conv", "post_quant_conv"))
    for here, there in layers:
        names |= _layer(here, there)
    return names


def _of_network(network: nn.Module, name: str, blocks: str) -> Names:
    """The tensors of a network's body."""
    body = network.get_submodule("body")
    modules = [(f"{name}.body.{number}", module) for number, module in body.named_children()]
    attends = any(isinstance(module, SelfAttention) for _, module in modules)
    middle = ["mid_block.resnets.0", *(["mid_block.attentions.0"] if attends else []), "mid_block.resnets.1"]
    if name == "encoder":
        *inner, (last, _), _ = modules
        (first, _), *inner = inner
        places = (*_places(inner[: -len(middle)], blocks, "downsamplers"), *middle)
        names = _layer(first, "encoder.conv_in")
    else:
        *inner, (last, _), _ = modules
        places = (*middle, *_places(inner[len(middle) :], blocks, "upsamplers"))
        names = {}
    inner = [(here, module) for here, module in inner if list(module.parameters())]
    for (here, module), place in zip(inner, places, strict=True):
        names |= _of_module(here, f"{name}.{place}", module)
    return {**names, **_layer(last, f"{name}.conv_norm_out")}


def _places(modules: Iterable[tuple[str, nn.Module]], blocks: str, samplers: str) -> Iterator[str]:
    """Where the residual blocks of each level are, and the convolution that ends all but the last one."""
    level = block = 0
    for _, module in modules:
        if isinstance(module, ResidualBlock):
            yield f"{blocks}.{level}.resnets.{block}"
            block += 1
        elif isinstance(module, _CONVOLUTIONS):
            yield f"{blocks}.{level}.{samplers}.0.conv"
            level, block = level + 1, 0


def _of_module(here: str, there: str, module: nn.Module) -> Names:
    if isinstance(module, SelfAttention):
        return {
            **_layer(f"{here}.normalization.0", f"{there}.group_norm"),
            **_layer(f"{here}.query_key_value", *(f"{there}.to_{part}" for part in "qkv")),
            **_layer(f"{here}.out", f"{there}.to_out.0"),
        }
    if not isinstance(module, ResidualBlock):
        return _layer(here, there)
    weighted = [f"{here}.residual.{number}" for number, layer in module.residual.named_children() if list(layer.parameters())]
    parts = dict(zip(weighted, ("norm1", "conv1", "norm2", "conv2"), strict=True))
    if not isinstance(module.shortcut, nn.Identity):
        parts[f"{here}.shortcut"] = "conv_shortcut"
    names: Names = {}
    for layer, part in parts.items():
        names |= _layer(layer, f"{there}.{part}")
    return names


def _layer(here: str, *there: str) -> Names:
    return {f"{here}.{tensor}": tuple(f"{name}.{tensor}" for name in there) for tensor in ("weight", "bias")}


def renamed(name: str) -> str:
    """A name as diffusers has had it since 0.17.

    Example:
        >>> renamed("encoder.mid_block.attentions.0.proj_attn.bias")
        'encoder.mid_block.attentions.0.to_out.0.bias'
    """
    if ".attentions." not in name:
        return name
    *path, layer, tensor = name.split(".")
    return ".".join((*path, _EARLIER.get(layer, layer), tensor))


def gathered(shape: torch.Size, parts: Iterable[Tensor]) -> Tensor:
    """A tensor of this shape made of those of diffusers, whose attention has dense layers instead of 1x1 convolutions."""
    return torch.cat(list(parts)).reshape(shape)


def divided(tensor: Tensor, names: tuple[str, ...]) -> Mapping[str, Tensor]:
    """What `gathered` was given, by name."""
    is_dense = ".attentions." in names[0] and tensor.ndim > 2
    parts = (tensor.flatten(1) if is_dense else tensor).chunk(len(names))
    return {name: part.clone(memory_format=torch.contiguous_format) for name, part in zip(names, parts, strict=True)}

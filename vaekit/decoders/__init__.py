"""Decoders: z -> the likelihood's natural parameters."""

from vaekit.decoders.base import Decoder, registry
from vaekit.decoders.conv import Conv1dDecoder, Conv3dDecoder, ConvDecoder
from vaekit.decoders.mlp import MLPDecoder
from vaekit.decoders.resnet import ResNetDecoder

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = [
    "Conv1dDecoder",
    "Conv3dDecoder",
    "ConvDecoder",
    "Decoder",
    "MLPDecoder",
    "ResNetDecoder",
    "create",
    "describe",
    "names",
    "register",
    "registry",
]

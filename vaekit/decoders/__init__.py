"""Decoders: z -> the likelihood's natural parameters."""

from vaekit.decoders.base import Decoder, registry
from vaekit.decoders.conv import Conv1dDecoder, Conv3dDecoder, ConvDecoder
from vaekit.decoders.mlp import MLPDecoder
from vaekit.decoders.multimodal import MultimodalDecoder
from vaekit.decoders.resnet import ResNetDecoder
from vaekit.decoders.top_down import TopDownDecoder

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = [
    "Conv1dDecoder",
    "Conv3dDecoder",
    "ConvDecoder",
    "Decoder",
    "MLPDecoder",
    "MultimodalDecoder",
    "ResNetDecoder",
    "TopDownDecoder",
    "create",
    "describe",
    "names",
    "register",
    "registry",
]

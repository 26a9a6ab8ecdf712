"""Decoders: z -> the likelihood's natural parameters."""

from vaekit.decoders.base import Decoder, registry
from vaekit.decoders.conv import ConvDecoder
from vaekit.decoders.mlp import MLPDecoder

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = ["ConvDecoder", "Decoder", "MLPDecoder", "create", "describe", "names", "register", "registry"]

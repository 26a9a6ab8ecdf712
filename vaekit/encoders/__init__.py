"""Encoders: x -> Posterior."""

from vaekit.encoders.base import Encoder, registry
from vaekit.encoders.conv import Conv1dEncoder, Conv3dEncoder, ConvEncoder
from vaekit.encoders.mlp import MLPEncoder
from vaekit.encoders.resnet import ResNetEncoder
from vaekit.encoders.top_down import ConvolutionalPath, TopDownEncoder

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = [
    "Conv1dEncoder",
    "Conv3dEncoder",
    "ConvEncoder",
    "ConvolutionalPath",
    "Encoder",
    "MLPEncoder",
    "ResNetEncoder",
    "TopDownEncoder",
    "create",
    "describe",
    "names",
    "register",
    "registry",
]

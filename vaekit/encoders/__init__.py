"""Encoders: x -> Posterior."""

from vaekit.encoders.base import Encoder, registry
from vaekit.encoders.conv import Conv1dEncoder, Conv3dEncoder, ConvEncoder
from vaekit.encoders.fusion import Fusion
from vaekit.encoders.fusion import registry as fusions
from vaekit.encoders.mlp import MLPEncoder
from vaekit.encoders.multimodal import MultimodalEncoder
from vaekit.encoders.recurrent import RecurrentEncoder
from vaekit.encoders.resnet import ResNetEncoder
from vaekit.encoders.top_down import ConvolutionalPath, TopDownEncoder

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = [
    "Conv1dEncoder",
    "Conv3dEncoder",
    "ConvEncoder",
    "ConvolutionalPath",
    "Encoder",
    "Fusion",
    "MLPEncoder",
    "MultimodalEncoder",
    "RecurrentEncoder",
    "ResNetEncoder",
    "TopDownEncoder",
    "create",
    "describe",
    "fusions",
    "names",
    "register",
    "registry",
]

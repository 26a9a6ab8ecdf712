"""Encoders: x -> Posterior."""

from vaekit.encoders.base import Encoder, registry
from vaekit.encoders.conv import ConvEncoder
from vaekit.encoders.mlp import MLPEncoder

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = ["ConvEncoder", "Encoder", "MLPEncoder", "create", "describe", "names", "register", "registry"]

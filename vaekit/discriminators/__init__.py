"""Discriminators, which an adversarial objective trains beside the model: data or latents [B, *S] -> logits."""

from vaekit.discriminators.base import Discriminator, registry
from vaekit.discriminators.mlp import MLPDiscriminator
from vaekit.discriminators.patch import PatchDiscriminator

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = ["Discriminator", "MLPDiscriminator", "PatchDiscriminator", "create", "describe", "names", "register", "registry"]

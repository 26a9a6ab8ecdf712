"""Objectives: (model, batch, context) -> LossTerms."""

from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.capacity import Capacity
from vaekit.losses.elbo import Elbo
from vaekit.losses.free_bits import FreeBits
from vaekit.losses.iwae import Ciwae, Iwae, Miwae
from vaekit.losses.renyi import Renyi

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = [
    "Batch",
    "Capacity",
    "Ciwae",
    "Elbo",
    "FreeBits",
    "Iwae",
    "LatentVariableModel",
    "Loss",
    "LossTerms",
    "Miwae",
    "Renyi",
    "StepContext",
    "create",
    "describe",
    "names",
    "register",
    "registry",
]

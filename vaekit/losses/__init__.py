"""Objectives: (model, batch, context) -> LossTerms."""

from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.elbo import Elbo

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = [
    "Batch",
    "Elbo",
    "LatentVariableModel",
    "Loss",
    "LossTerms",
    "StepContext",
    "create",
    "describe",
    "names",
    "register",
    "registry",
]

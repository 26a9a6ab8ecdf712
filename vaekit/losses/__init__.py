"""Objectives: (model, batch, context) -> LossTerms."""

from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.dip import DipVAE
from vaekit.losses.elbo import Elbo
from vaekit.losses.total_correlation import BetaTC

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = [
    "Batch",
    "BetaTC",
    "DipVAE",
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

"""Objectives: (model, batch, context) -> LossTerms."""

from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.dip import DipVAE
from vaekit.losses.elbo import Elbo
from vaekit.losses.mmd import WAE, InfoVAE, squared_mmd
from vaekit.losses.total_correlation import BetaTC

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = [
    "Batch",
    "BetaTC",
    "DipVAE",
    "Elbo",
    "InfoVAE",
    "LatentVariableModel",
    "Loss",
    "LossTerms",
    "StepContext",
    "WAE",
    "create",
    "describe",
    "names",
    "register",
    "registry",
    "squared_mmd",
]

"""Objectives: (model, batch, context) -> LossTerms."""

from vaekit.losses.aae import AdversarialAutoencoder
from vaekit.losses.adversarial import AdversarialLoss
from vaekit.losses.autoencoder import Autoencoder
from vaekit.losses.base import Batch, LatentVariableModel, Loss, LossTerms, StepContext, registry
from vaekit.losses.capacity import Capacity
from vaekit.losses.dip import DipVAE
from vaekit.losses.elbo import Elbo
from vaekit.losses.factor import FactorVAE
from vaekit.losses.free_bits import FreeBits
from vaekit.losses.hamiltonian import Hamiltonian
from vaekit.losses.iwae import Ciwae, Iwae, Miwae, Piwae
from vaekit.losses.mmd import WAE, InfoVAE, squared_mmd
from vaekit.losses.mvae import Mvae
from vaekit.losses.perceptual import Perceptual
from vaekit.losses.renyi import Renyi
from vaekit.losses.semi_supervised import SemiSupervised
from vaekit.losses.total_correlation import BetaTC
from vaekit.losses.vae_gan import VAEGAN
from vaekit.losses.vector_quantized import VectorQuantizedLoss

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = [
    "AdversarialAutoencoder",
    "AdversarialLoss",
    "Autoencoder",
    "Batch",
    "BetaTC",
    "Capacity",
    "Ciwae",
    "DipVAE",
    "Elbo",
    "FactorVAE",
    "FreeBits",
    "Hamiltonian",
    "InfoVAE",
    "Iwae",
    "LatentVariableModel",
    "Loss",
    "LossTerms",
    "Miwae",
    "Perceptual",
    "Mvae",
    "Piwae",
    "Renyi",
    "SemiSupervised",
    "StepContext",
    "VAEGAN",
    "VectorQuantizedLoss",
    "WAE",
    "create",
    "describe",
    "names",
    "register",
    "registry",
    "squared_mmd",
]

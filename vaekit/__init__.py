"""Variational autoencoders made of interchangeable parts, with numbers that can be trusted. See README.md."""

from vaekit import safe_path  # noqa: F401 (before anything else is imported)

# isort: split
from vaekit import (
    cells,
    conditions,
    data,
    decoders,
    discriminators,
    distances,
    divergences,
    encoders,
    likelihoods,
    losses,
    plots,
    posteriors,
    presets,
    priors,
    schedules,
    sharing,
    zoo,
)
from vaekit.compose import create_vae
from vaekit.conditions import Condition
from vaekit.decoders import Decoder
from vaekit.diffusers import from_diffusers, to_diffusers
from vaekit.encoders import Encoder
from vaekit.evaluation import evaluate
from vaekit.exporting import export
from vaekit.likelihoods import Likelihood
from vaekit.losses import Batch, Elbo, Loss, LossTerms, StepContext
from vaekit.ops import build_info, fold_in, has_native, make_key, reparameterize_kl
from vaekit.ops.native import warn_when_missing
from vaekit.posteriors import DiagonalGaussian, Posterior
from vaekit.priors import Prior, StandardNormal
from vaekit.registry import Registry, UnknownNameError
from vaekit.reporting import report
from vaekit.saving import load
from vaekit.table import Table
from vaekit.training import (
    Callback,
    EarlyStopping,
    History,
    ModelCheckpoint,
    NonFiniteLossError,
    Pictures,
    RunState,
    TimeLimit,
    Tracker,
    epoch_order,
    fit,
    fit_prior,
    optimizers,
    resume,
    step_key,
    trackers,
)
from vaekit.vae import VAE

__version__ = "0.1.0"

__all__ = [
    "VAE",
    "Batch",
    "Callback",
    "Condition",
    "Decoder",
    "DiagonalGaussian",
    "EarlyStopping",
    "Elbo",
    "Encoder",
    "History",
    "Likelihood",
    "Loss",
    "LossTerms",
    "ModelCheckpoint",
    "NonFiniteLossError",
    "Pictures",
    "Posterior",
    "Prior",
    "Registry",
    "RunState",
    "StandardNormal",
    "StepContext",
    "Table",
    "TimeLimit",
    "Tracker",
    "UnknownNameError",
    "build_info",
    "cells",
    "conditions",
    "create_vae",
    "data",
    "decoders",
    "discriminators",
    "distances",
    "divergences",
    "encoders",
    "epoch_order",
    "evaluate",
    "export",
    "fit",
    "fit_prior",
    "fold_in",
    "from_diffusers",
    "has_native",
    "likelihoods",
    "load",
    "losses",
    "make_key",
    "optimizers",
    "plots",
    "posteriors",
    "presets",
    "priors",
    "reparameterize_kl",
    "report",
    "resume",
    "schedules",
    "sharing",
    "step_key",
    "to_diffusers",
    "trackers",
    "zoo",
]

warn_when_missing()

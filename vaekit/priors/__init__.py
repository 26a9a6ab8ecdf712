"""Priors p(z)."""

from vaekit.priors.autoregressive import AutoregressiveCodes, AutoregressivePrior
from vaekit.priors.base import Prior, registry
from vaekit.priors.codes import CodePrior, Codes
from vaekit.priors.diagonal_gaussian import LearnedGaussian
from vaekit.priors.flow import Flow
from vaekit.priors.gaussian_mixture import GaussianMixture
from vaekit.priors.pixel_cnn import PixelCNN
from vaekit.priors.sphere import UniformSphere
from vaekit.priors.standard_normal import StandardNormal
from vaekit.priors.top_down import TopDownPrior
from vaekit.priors.vamp import Vamp
from vaekit.priors.wrapped_normal import WrappedNormal

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = [
    "AutoregressiveCodes",
    "AutoregressivePrior",
    "CodePrior",
    "Codes",
    "Flow",
    "GaussianMixture",
    "LearnedGaussian",
    "PixelCNN",
    "Prior",
    "StandardNormal",
    "UniformSphere",
    "TopDownPrior",
    "Vamp",
    "WrappedNormal",
    "create",
    "describe",
    "names",
    "register",
    "registry",
]

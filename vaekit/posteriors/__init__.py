"""Approximate posteriors q(z | x): what an encoder returns, and the families from which it picks them."""

from vaekit.ops.draw import Draw
from vaekit.posteriors.base import Posterior
from vaekit.posteriors.codes import CertainCodes, CodeFamily, CodePosterior
from vaekit.posteriors.committed import CommittedGaussianFamily
from vaekit.posteriors.diagonal_gaussian import DiagonalGaussian
from vaekit.posteriors.directional import (
    Directional,
    DirectionalFamily,
    PowerSpherical,
    PowerSphericalFamily,
    VonMisesFisher,
    VonMisesFisherFamily,
)
from vaekit.posteriors.family import DiagonalGaussianFamily, Family, GaussianFamily, registry
from vaekit.posteriors.finite_scalar import FiniteScalarFamily
from vaekit.posteriors.flow import FlowFamily, FlowPosterior
from vaekit.posteriors.full_gaussian import FullGaussian, FullGaussianFamily
from vaekit.posteriors.gumbel_softmax import GumbelSoftmax, GumbelSoftmaxFamily
from vaekit.posteriors.ladder import LadderFamily
from vaekit.posteriors.levels import LevelsPosterior
from vaekit.posteriors.lookup_free import LookupFree, LookupFreeFamily
from vaekit.posteriors.mixture import GaussianMixturePosterior
from vaekit.posteriors.planar import PlanarFlowFamily, RadialFlowFamily
from vaekit.posteriors.point import Point, PointFamily
from vaekit.posteriors.residual_vector_quantized import ResidualVectorQuantized, ResidualVectorQuantizedFamily
from vaekit.posteriors.vector_quantized import VectorQuantized, VectorQuantizedFamily
from vaekit.posteriors.wrapped_normal import WrappedNormalFamily, WrappedNormalPosterior

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = [
    "CertainCodes",
    "CodeFamily",
    "CodePosterior",
    "CommittedGaussianFamily",
    "DiagonalGaussian",
    "DiagonalGaussianFamily",
    "Directional",
    "DirectionalFamily",
    "Draw",
    "Family",
    "FiniteScalarFamily",
    "FlowFamily",
    "FlowPosterior",
    "FullGaussian",
    "FullGaussianFamily",
    "GaussianFamily",
    "GaussianMixturePosterior",
    "GumbelSoftmax",
    "GumbelSoftmaxFamily",
    "LadderFamily",
    "LevelsPosterior",
    "LookupFree",
    "LookupFreeFamily",
    "PlanarFlowFamily",
    "Point",
    "PointFamily",
    "Posterior",
    "PowerSpherical",
    "PowerSphericalFamily",
    "RadialFlowFamily",
    "ResidualVectorQuantized",
    "ResidualVectorQuantizedFamily",
    "VectorQuantized",
    "VectorQuantizedFamily",
    "VonMisesFisher",
    "VonMisesFisherFamily",
    "WrappedNormalFamily",
    "WrappedNormalPosterior",
    "create",
    "describe",
    "names",
    "register",
    "registry",
]

"""Distances between pictures and their reconstructions, beside the likelihood's: (made, x) -> [B]."""

from vaekit.distances.base import Distance, registry
from vaekit.distances.features import FeatureDistance, Features
from vaekit.distances.lpips import LPIPS
from vaekit.distances.similarity import MultiScaleSSIM

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = [
    "Distance",
    "FeatureDistance",
    "Features",
    "LPIPS",
    "MultiScaleSSIM",
    "create",
    "describe",
    "names",
    "register",
    "registry",
]

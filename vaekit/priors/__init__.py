"""Priors p(z)."""

from vaekit.priors.base import Prior, registry
from vaekit.priors.standard_normal import StandardNormal

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = ["Prior", "StandardNormal", "create", "describe", "names", "register", "registry"]

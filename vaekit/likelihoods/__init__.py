"""Likelihoods p(x | z): what a decoder's output means, and how far data is from it in nats."""

from vaekit.likelihoods.base import Likelihood, registry
from vaekit.likelihoods.bernoulli import Bernoulli
from vaekit.likelihoods.gaussian import Gaussian

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = ["Bernoulli", "Gaussian", "Likelihood", "create", "describe", "names", "register", "registry"]

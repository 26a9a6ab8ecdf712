"""Approximate posteriors q(z | x): what an encoder returns."""

from vaekit.posteriors.base import Posterior
from vaekit.posteriors.diagonal_gaussian import DiagonalGaussian

__all__ = ["DiagonalGaussian", "Posterior"]

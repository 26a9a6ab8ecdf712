"""What kind of thing latents are: a posterior, a prior and an objective have to be for one kind to go with each other."""

from __future__ import annotations

from enum import Enum


class LatentKind(Enum):
    """What one example's latents are; the value says it in words.

    Example:
        >>> import vaekit
        >>> vaekit.create_vae(input_shape=(4,), latent_dim=2).encoder.family.latents.value
        'vectors of real numbers'
    """

    VECTORS = "vectors of real numbers"
    """Have a density."""
    CODES = "codes from a codebook"
    """Have probabilities."""

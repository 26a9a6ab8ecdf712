"""What kind of thing latents are: a posterior, a prior and an objective have to be for one kind to go with each other."""

from __future__ import annotations

from enum import Flag, auto


class LatentKind(Flag):
    """What one example's latents are; a part that is for several kinds has them joined, `CODES | RELAXED_CODES`.

    Example:
        >>> import vaekit
        >>> vaekit.create_vae(input_shape=(4,), latent_dim=2).encoder.family.latents.words
        'vectors of real numbers'
    """

    VECTORS = auto()
    """Have a density."""
    CODES = auto()
    """Have probabilities, of which the posterior gives 1 to one code: no gradient goes through the choice."""
    RELAXED_CODES = auto()
    """Have probabilities, for which a gradient reaches the encoder."""

    @property
    def words(self) -> str:
        """What the latents are, for messages."""
        return "vectors of real numbers" if self & LatentKind.VECTORS else "codes"

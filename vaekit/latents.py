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

    POINTS = auto()
    """Vectors of real numbers of which the posterior gives one for each example: there is nothing to draw, and no density."""
    DIRECTIONS = auto()
    """Unit vectors, at each position: have a density over the sphere."""
    BALL = auto()
    """Points of a hyperbolic ball, at each position: have a density over hyperbolic space."""

    @property
    def words(self) -> str:
        """What the latents are, for messages; of several kinds joined by "or"."""
        return " or ".join(dict.fromkeys(_WORDS[kind] for kind in LatentKind if kind in self))

    @property
    def are_codes(self) -> bool:
        """Whether there is nothing between one latent and the next."""
        return bool(self & (LatentKind.CODES | LatentKind.RELAXED_CODES))

    @property
    def fill_space(self) -> bool:
        """Whether any vector of real numbers is a latent."""
        return bool(self & (LatentKind.VECTORS | LatentKind.POINTS))


_WORDS = {
    LatentKind.VECTORS: "vectors of real numbers",
    LatentKind.CODES: "codes",
    LatentKind.RELAXED_CODES: "codes",
    LatentKind.POINTS: "points without a density",
    LatentKind.DIRECTIONS: "unit vectors",
    LatentKind.BALL: "points of a hyperbolic ball",
}

"""Pictures of what a model learned; each function returns a matplotlib Figure, which `savefig` writes."""

from vaekit.plots.columns import column_reconstructions, missingness
from vaekit.plots.curves import loss_curves
from vaekit.plots.latents import latent_space
from vaekit.plots.levels import levels
from vaekit.plots.moved import column_traversals
from vaekit.plots.paths import differences, interpolations
from vaekit.plots.pictures import latent_grid, reconstructions, samples, traversals
from vaekit.plots.tables import associations, marginals, pairs

__all__ = [
    "associations",
    "column_reconstructions",
    "column_traversals",
    "differences",
    "interpolations",
    "latent_grid",
    "latent_space",
    "levels",
    "loss_curves",
    "marginals",
    "missingness",
    "pairs",
    "reconstructions",
    "samples",
    "traversals",
]

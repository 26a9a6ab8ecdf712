"""Pictures of what a model learned; each function returns a matplotlib Figure, which `savefig` writes."""

from vaekit.plots.curves import loss_curves
from vaekit.plots.pictures import latent_grid, latent_space, reconstructions, samples, traversals

__all__ = ["latent_grid", "latent_space", "loss_curves", "reconstructions", "samples", "traversals"]

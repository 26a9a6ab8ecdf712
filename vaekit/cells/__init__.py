"""Single cells: models of AnnData, and what they say of it: latents, normalised expression, changes, new batches.

They need the extra `cells`: `pip install "vaekit[cells]"`.
"""

from vaekit.cells.adapting import adapt
from vaekit.cells.change import differential_expression
from vaekit.cells.expression import embed, expression_of, normalize
from vaekit.cells.models import create_vae, matching

__all__ = ["adapt", "create_vae", "differential_expression", "embed", "expression_of", "matching", "normalize"]

"""What each of several levels of latents holds: examples of which the upper levels are kept and the others drawn anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from vaekit.ops import make_key
from vaekit.plots.drawing import draw_example, new_figure, value_limits
from vaekit.plots.models import in_evaluation_mode, on_device_of
from vaekit.priors.top_down import TopDownPrior
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_EXAMPLES = 30
MOST_LEVELS = 12  # of which rows are drawn


@in_evaluation_mode
def levels(vae: VAE, x: Tensor, condition: Any = None, *, key: Tensor | None = None) -> Figure:
    """Each example above what becomes of it when only its upper levels are kept, and those below are drawn from the prior.

    The first row is the example, the second its reconstruction, of which all levels are kept; each row below keeps one level
    less, and the last is a draw from the prior. What two neighbouring rows have in common, the levels that both keep hold; what
    differs, the level that one of them drew. Kept levels are the posterior's means.

    Args:
        vae: a model with several levels of latents and the prior "top_down".
        x: [N, *input_shape], N from 1 to 30.
        condition: of each example, for a conditional model.
        key: the noise of the levels that are drawn, int64 [2]; `make_key(0)` by default. It is the same in all rows.

    Raises:
        TypeError: a model with another prior.
        ValueError: no examples, or too many; more than 12 levels.

    Example:
        >>> import torch, vaekit
        >>> ladder = {"name": "ladder", "levels": (1, 2)}
        >>> vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=3, posterior=ladder, prior="top_down")
        >>> len(levels(vae, torch.rand(5, 1, 8, 8)).axes)  # example, reconstruction, level 1 kept, none kept
        20
    """
    if not isinstance(vae.prior, TopDownPrior):
        raise TypeError(
            f"levels draws models with the prior 'top_down', whose lower levels depend on the upper ones, not with a "
            f"{type(vae.prior).__name__}; see reconstructions and samples"
        )
    if not 1 <= len(x) <= _MOST_EXAMPLES:
        raise ValueError(f"levels draws 1 to {_MOST_EXAMPLES} examples side by side, got {len(x)}; x[:5] for example")
    count = len(vae.latent_levels)
    if count > MOST_LEVELS:
        raise ValueError(f"levels draws models with up to {MOST_LEVELS} levels, not {count}; `vae.prior.below` draws any of them")
    x, key = on_device_of(vae, x), (make_key(0) if key is None else key).to(vae.device)
    z = vae.encode(x, condition).mean
    rows = {"example": x}
    for kept in range(count, -1, -1):
        label = "all levels" if kept == count else "no level" if not kept else "level 1" if kept == 1 else f"levels 1 to {kept}"
        rows[label] = vae.decode(vae.prior.below(z, kept, key=key), condition)
    support = vae.likelihood.support
    limits = value_limits(support.lowest, support.highest, *rows.values())
    figure = new_figure(max(1.1 * len(x) + 0.6, 4.0), 1.15 * len(rows) + 0.6)
    panels = figure.subplots(len(rows), len(x), squeeze=False)
    for row, (name, examples) in zip(panels, rows.items(), strict=True):
        for axes, example in zip(row, examples, strict=True):
            draw_example(axes, example, limits)
        row[0].set_ylabel(name)
    figure.suptitle("kept of each example; the levels below are drawn")
    return figure

"""Which pictures there are, which of them fit a model, and what each is drawn from.

A picture of one's own is one more `Entry` in `CATALOGUE`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from vaekit.data import Examples
from vaekit.inputs import column_names
from vaekit.plots import columns, curves, latents, moved, pictures, tables
from vaekit.plots.drawing import is_image, value_limits
from vaekit.plots.levels import MOST_LEVELS, levels
from vaekit.plots.units import Named, spread
from vaekit.priors.top_down import TopDownPrior
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_POINTS = 5000  # of a scatter plot


@dataclass(frozen=True)
class Subject:
    """What there is to draw: a model, held-out examples and, where it is known, how training went.

    Attributes:
        vae: the model.
        examples: at least one; with the conditions as y, for a conditional model.
        history: term -> value for each epoch, or None.
    """

    vae: VAE
    examples: Examples
    history: Mapping[str, Sequence[float]] | None = None

    @property
    def few(self) -> Tensor:
        """Rows of up to five examples."""
        return spread_rows(self.examples, min(len(self.examples), 5))

    @property
    def many(self) -> Tensor:
        """Rows of as many examples as a scatter plot shows."""
        return spread_rows(self.examples, min(len(self.examples), _MOST_POINTS))

    @property
    def limits(self) -> tuple[float, float] | None:
        """The least and the largest value of the examples, where the likelihood's support does not say; for grey levels."""
        support = self.vae.likelihood.support
        if math.isfinite(support.lowest) and math.isfinite(support.highest):
            return None
        return value_limits(-math.inf, math.inf, self.examples.x[self.many])

    def conditions(self, rows: Tensor) -> Tensor | None:
        """The conditions of these rows, for a conditional model."""
        return conditions_of(self.vae, self.examples, rows)

    @property
    def one_condition(self) -> Tensor | None:
        """That of the first example, for a picture that shows one."""
        conditions = self.conditions(self.few)
        return None if conditions is None else conditions[0]


class Entry(NamedTuple):
    """A picture: whether it fits a subject, and what it is."""

    fits: Callable[[Subject], bool]
    draw: Callable[[Subject], Figure]


def fitting(subject: Subject, only: Sequence[str] | None = None) -> Iterator[tuple[str, Figure]]:
    """Every picture that fits, by name, each drawn when it is asked for; `only` those of these names where they are given.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=3)
        >>> subject = Subject(vae, vaekit.data.as_examples(torch.rand(9, 1, 8, 8)))
        >>> [name for name, figure in fitting(subject)]
        ['reconstructions', 'samples', 'latent_space', 'traversals']
    """
    for name, entry in CATALOGUE.items():
        if (only is None or name in only) and entry.fits(subject):
            yield name, entry.draw(subject)


def spread_rows(examples: Examples, count: int) -> Tensor:
    """`count` rows, spread evenly over the examples: over the classes too, where they lie one after the other.

    Raises:
        ValueError: there are not so many.
    """
    if count > len(examples):
        raise ValueError(f"there are {len(examples)} held-out examples, {count} were asked for")
    return spread(len(examples), count)


def conditions_of(vae: VAE, examples: Examples, rows: Tensor) -> Tensor | None:
    """The conditions of these rows, for a conditional model: [R] or [R, K], where they are missing those that it infers."""
    if vae.condition is None or examples.y is None:
        return None
    told: Tensor = vae.completed(examples.x[rows].to(vae.device), examples.y[rows])
    return told


def _reconstructions(subject: Subject) -> Figure:
    x, conditions = subject.examples.x[subject.few], subject.conditions(subject.few)
    return pictures.reconstructions(subject.vae, x, conditions, limits=subject.limits)


def _samples(subject: Subject) -> Figure:
    """A row for each condition there is; where there are too many, for those of a few examples."""
    told, y = subject.vae.told, subject.examples.y
    values = None if told is None else told.all_values()
    if told is None or (values is not None and len(values) <= pictures.MOST_PANELS):
        return pictures.samples(subject.vae, limits=subject.limits)
    of_few = y[subject.few] if subject.vae.condition is None and y is not None else subject.conditions(subject.few)
    return pictures.samples(subject.vae, condition=of_few, limits=subject.limits)


def is_named_table(vae: VAE, examples: Examples) -> bool:
    """Whether the columns of the examples have names, of the data or of the model."""
    names = column_names(vae, examples)
    return len(vae.input_shape) == 1 and names != [f"x{number}" for number in range(len(names))]


def _is_named_table(subject: Subject) -> bool:
    return is_named_table(subject.vae, subject.examples)


def _has_named_columns(count: int) -> Callable[[Subject], bool]:
    return lambda subject: subject.vae.input_shape[0] >= count and _is_named_table(subject)


def _misses_values(subject: Subject) -> bool:
    return _is_named_table(subject) and bool(subject.examples.x[subject.many].isnan().any())


def _has_a_vector(subject: Subject) -> bool:
    return len(subject.vae.latent_shape) == 1


def _is_two_dimensional(subject: Subject) -> bool:
    return subject.vae.latent_shape == (2,)


def _has_grid(subject: Subject) -> bool:
    return _is_two_dimensional(subject) and subject.vae.encoder.family.latents.fill_space and is_image(subject.vae.input_shape)


def _has_traversals(subject: Subject) -> bool:
    return len(subject.vae.latent_shape) == 1 and subject.vae.encoder.family.latents.fill_space and not _has_grid(subject)


def _moves_columns(subject: Subject) -> bool:
    return _has_traversals(subject) and _is_named_table(subject)


def _column_traversals(subject: Subject) -> Figure:
    named = Named.of(subject.vae, subject.examples)
    return moved.column_traversals(named, condition=subject.one_condition)


def _has_levels(subject: Subject) -> bool:
    count = len(subject.vae.latent_levels)
    return 1 < count <= MOST_LEVELS and isinstance(subject.vae.prior, TopDownPrior) and not _is_named_table(subject)


def _levels(subject: Subject) -> Figure:
    return levels(subject.vae, subject.examples.x[subject.few], subject.conditions(subject.few))


def _latent_grid(subject: Subject) -> Figure:
    return pictures.latent_grid(subject.vae, condition=subject.one_condition, limits=subject.limits)


def _traversals(subject: Subject) -> Figure:
    return pictures.traversals(subject.vae, condition=subject.one_condition, limits=subject.limits)


CATALOGUE: dict[str, Entry] = {
    "loss": Entry(lambda subject: bool(subject.history), lambda subject: curves.loss_curves(subject.history or {})),
    "reconstructions": Entry(lambda subject: not _is_named_table(subject), _reconstructions),
    "samples": Entry(lambda subject: not _is_named_table(subject), _samples),
    "marginals": Entry(_is_named_table, lambda subject: tables.marginals(subject.vae, subject.examples)),
    "pairs": Entry(_has_named_columns(2), lambda subject: tables.pairs(subject.vae, subject.examples)),
    "associations": Entry(_has_named_columns(2), lambda subject: tables.associations(subject.vae, subject.examples)),
    "column_reconstructions": Entry(
        _is_named_table, lambda subject: columns.column_reconstructions(subject.vae, subject.examples)
    ),
    "missingness": Entry(_misses_values, lambda subject: columns.missingness(subject.vae, subject.examples)),
    "latent_space": Entry(_has_a_vector, lambda subject: latents.latent_space(subject.vae, subject.examples)),
    "latent_grid": Entry(_has_grid, _latent_grid),
    "traversals": Entry(lambda subject: _has_traversals(subject) and not _is_named_table(subject), _traversals),
    "column_traversals": Entry(_moves_columns, _column_traversals),
    "levels": Entry(_has_levels, _levels),
}

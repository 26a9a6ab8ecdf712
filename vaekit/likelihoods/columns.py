"""A likelihood for each column of a table: numbers, classes and counts side by side.

A. Nazábal, P. M. Olmos, Z. Ghahramani, I. Valera, "Handling Incomplete Heterogeneous Data using VAEs", 2018, arXiv:1807.03653,
section 3.1: given z, the columns are independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.checks import checked_sizes
from vaekit.data.schema import Schema
from vaekit.likelihoods.base import Gaps, Likelihood, MissingSpec, registry
from vaekit.likelihoods.positive import DispersedLikelihood
from vaekit.likelihoods.support import Support
from vaekit.ops import philox
from vaekit.registry import UnknownNameError


@registry.register("columns")
class Columns(Likelihood):
    """For each column of a table the likelihood that suits it: x [B, F], one likelihood for each of the F columns.

    The decoder gives what each column needs, one column after the other: [B, 1, the sum of the columns' own P], which is what
    `decoder_output_shape` says. Columns with equal likelihoods are computed together. The nll is the sum of the columns' own.
    What a likelihood learns, the scale of {"name": "gaussian", "variance": "feature"} or "shared", each column has for itself.
    The encoder sees what each column's likelihood shows of it, one after the other: log(1 + x) of a count, a one-hot vector of
    a class.

    Args:
        columns: {column: likelihood, ...} in the order of the table's columns, or a list of likelihoods, whose columns are then
            called "0", "1", ...; a likelihood is a name or {"name": ..., option: ...}.
        missing: "refuse" or "ignore" NaN in the data, or ignore with options, as of `Likelihood`, for all columns.
        schema: that by which a table became x, a `vaekit.data.Schema` or what its `to_config` gives; kept with the model, so that
            `fit` and `evaluate` take tables as they are.

    Attributes:
        schema: the same, as a `vaekit.data.Schema`, or None.

    Raises:
        TypeError: columns of another kind; an option that a column's likelihood does not take.
        ValueError: no columns; a column with another `missing`, or with columns of its own.
        UnknownNameError: a likelihood that is not registered.

    Example:
        >>> likelihood = Columns({"height": "gaussian", "blood": {"name": "categorical", "classes": 4}, "visits": "poisson"})
        >>> likelihood.decoder_output_shape((3,)), likelihood.encoder_input_shape((3,))
        ((6,), (6,))
        >>> likelihood.encoder_input(torch.tensor([[-1.5, 2.0, 0.0]]))
        tensor([[-1.5000,  0.0000,  0.0000,  1.0000,  0.0000,  0.0000]])
        >>> nll = likelihood.nll(torch.zeros(1, 1, 6), torch.tensor([[0.0, 2.0, 1.0]]))
        >>> round(float(nll), 4)  # log(2 pi) / 2 + log 4 + 1
        3.3052
    """

    support = Support("in each column the values of its own likelihood", remedy="Give each column the likelihood that suits it.")

    def __init__(
        self,
        columns: Mapping[str, str | Mapping[str, Any]] | Sequence[str | Mapping[str, Any]],
        missing: MissingSpec = "refuse",
        schema: Schema | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(missing)
        specs = _specs_by_name(columns)
        self.names = tuple(specs)
        self.schema = schema if schema is None or isinstance(schema, Schema) else Schema.from_config(schema)
        if self.schema is not None and tuple(self.schema.columns) != self.names:
            raise ValueError(
                f"the schema's columns are {', '.join(self.schema.columns)}, the likelihood's {', '.join(self.names)}; they have "
                "to be the same, in the same order"
            )
        shared: list[tuple[Mapping[str, Any], list[int]]] = []  # the columns that are computed together, by their spec
        grouped: list[tuple[Likelihood, list[int]]] = []
        for number, (name, spec) in enumerate(specs.items()):
            same = next((numbers for other, numbers in shared if other == spec), None)
            if same is not None:
                same.append(number)
                continue
            likelihood = _created(name, spec, self.gaps)
            grouped.append((likelihood, [number]))
            if _is_independent(likelihood):
                shared.append((spec, grouped[-1][1]))
        for likelihood, numbers in grouped:
            likelihood.set_data_shape((len(numbers),))
            if isinstance(likelihood, DispersedLikelihood) and len(numbers) > 1:
                likelihood.learn_by_column(len(numbers))
        self.groups = nn.ModuleList(_Group(likelihood, numbers) for likelihood, numbers in grouped)
        self.data_shape = (len(specs),)
        places = [numbers for _, numbers in grouped]
        self._values_in = _Layout(places, [1 for _ in grouped])
        self._parameters_in = _Layout(places, [likelihood.parameters_per_element for likelihood, _ in grouped])
        self._statistics_in = _Layout(places, [likelihood.statistics_per_element for likelihood, _ in grouped])
        self._features_in = _Layout(places, [likelihood.encoder_input_shape((1,))[0] for likelihood, _ in grouped])

    @property
    def likelihoods(self) -> tuple[Likelihood, ...]:
        """The likelihood of each column; columns whose specs are equal have one object, with what each of them learns."""
        of = {number: group.likelihood for group in self._groups for number in group.numbers}
        return tuple(of[number] for number in range(len(self.names)))

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        """The sum of the columns' own: parameters [B, 1, the sum of their P], x [B, F] -> [B], in nats."""
        self._check_shapes(parameters, x)
        if len(self.groups) == 1:  # at the cost of that likelihood
            (likelihood,), ((width, count),) = self._kinds, self._parameters_in.shapes
            return likelihood.nll(parameters if width == 1 else parameters.reshape(len(x), count, width).mT, x)
        own, columns = self._parameters_in.split(parameters.squeeze(1)), self._split_table(x)
        terms = [likelihood.nll(*both) for likelihood, *both in zip(self._kinds, own, columns, strict=True)]
        return torch.stack(terms).sum(0)

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Each column's own: parameters [B, 1, the sum of their P], x [B, F] -> [B, F], in nats."""
        self._check_shapes(parameters, x)
        own, columns = self._parameters_in.split(parameters[:, 0]), self._split_table(x)
        return self._joined_table(
            [likelihood.element_nll(*both) for likelihood, *both in zip(self._kinds, own, columns, strict=True)]
        )

    def mean(self, parameters: Tensor) -> Tensor:
        """The mean of each column as its likelihood says, for a class the most probable one: [B, 1, ...] -> [B, F]."""
        self._check_shapes(parameters)
        own = self._parameters_in.split(parameters.squeeze(1))
        return self._joined_table([likelihood.mean(p) for likelihood, p in zip(self._kinds, own, strict=True)])

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """As each column's likelihood says: [1, the sum of their Q] -> [1, the sum of their P]."""
        own = self._statistics_in.split(mean[0])
        parts = [likelihood.parameters_of_mean(m) for likelihood, m in zip(self._kinds, own, strict=True)]
        return self._parameters_in.join(parts).unsqueeze(0)

    def statistics(self, x: Tensor) -> Tensor:
        """Each column's own, one column after the other: [B, F] -> [B, 1, the sum of their Q]."""
        self._check_columns(x.shape[1:])
        parts = [likelihood.statistics(own) for likelihood, own in zip(self._kinds, self._split_table(x), strict=True)]
        return self._statistics_in.join(parts).unsqueeze(1)

    def expected_statistics(self, parameters: Tensor) -> Tensor:
        """Each column's own: [B, 1, the sum of their P] -> [B, 1, the sum of their Q]."""
        self._check_shapes(parameters)
        own = self._parameters_in.split(parameters[:, 0])
        parts = [likelihood.expected_statistics(p) for likelihood, p in zip(self._kinds, own, strict=True)]
        return self._statistics_in.join(parts).unsqueeze(1)

    def value_of(self, statistics: Tensor) -> Tensor:
        """Each column's own: [B, 1, the sum of their Q] -> [B, F]."""
        own = self._statistics_in.split(statistics[:, 0])
        return self._joined_table([likelihood.value_of(s) for likelihood, s in zip(self._kinds, own, strict=True)])

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        """As every likelihood's, each column's on its own; synchronises where one of theirs does."""
        self._check_shapes(parameters)
        own = self._parameters_in.split(parameters.squeeze(1))
        drawn = [
            likelihood.sample(p, key=philox.fold_in(key, number), row_start=row_start)
            for number, (likelihood, p) in enumerate(zip(self._kinds, own, strict=True))
        ]
        return self._joined_table(drawn)

    def encoder_input(self, x: Tensor) -> Tensor:
        """What an encoder sees of each column, one column after the other: [B, F] -> [B, F']."""
        self._check_columns(x.shape[1:])
        x = self.shown(x)
        shown = [likelihood.encoder_input(own) for likelihood, own in zip(self._kinds, self._split_table(x), strict=True)]
        # [B, columns times features] of each likelihood, as [B, features, columns]
        parts = [rows.unflatten(-1, (len(group.numbers), -1)).mT for rows, group in zip(shown, self._groups, strict=True)]
        return self._features_in.join(parts)

    def encoder_input_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        self._check_columns(checked_sizes("input_shape", shape))
        return (self._features_in.total,)

    def decoder_output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        self._check_columns(super().decoder_output_shape(shape))
        return (self._parameters_in.total,)

    def check(self, x: Tensor) -> None:
        """Raise ValueError, naming the column and what was seen, if a value lies outside its support; synchronises."""
        self._check_columns(x.shape[1:])
        for group, columns in zip(self._groups, self._split_table(x), strict=True):
            try:
                group.likelihood.check(columns)
            except ValueError:  # of one column at least
                for number in group.numbers:
                    try:
                        group.likelihood.check(x[:, number : number + 1])
                    except ValueError as error:
                        raise ValueError(f"column {self.names[number]!r}: {error}") from error
                raise

    @property
    def _groups(self) -> list[_Group]:
        return list(self.groups)  # type: ignore[arg-type]

    @property
    def _kinds(self) -> list[Likelihood]:
        """The likelihood of each group."""
        return [group.likelihood for group in self._groups]

    def _split_table(self, x: Tensor) -> list[Tensor]:
        """[B, F] -> for each group [B, its columns]."""
        return [part.squeeze(-2) for part in self._values_in.split(x)]

    def _joined_table(self, parts: list[Tensor]) -> Tensor:
        """For each group [B, its columns] -> [B, F]."""
        return self._values_in.join([part.unsqueeze(-2) for part in parts])

    def _check_shapes(self, parameters: Tensor, x: Tensor | None = None) -> None:
        expected = (1, self._parameters_in.total)
        if parameters.shape[1:] != expected:
            raise ValueError(
                f"{type(self).__name__} takes natural parameters [batch, 1, {expected[1]}], column by column, got "
                f"{tuple(parameters.shape)}"
            )
        if x is not None:
            self._check_columns(x.shape[1:])
            if x.shape[0] != parameters.shape[0]:
                raise ValueError(f"the decoder describes {parameters.shape[0]} example(s), but x has {x.shape[0]}")

    def _check_columns(self, shape: Sequence[int]) -> None:
        if tuple(shape) != self.data_shape:
            shown = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
            raise ValueError(
                f"the likelihood 'columns' describes tables with {len(self.names)} column(s) ({shown}), but an example here has "
                f"the shape {tuple(shape)}; name a likelihood for each column of the table"
            )


class _Group(nn.Module):
    """Columns that are computed together, by one likelihood; `numbers` are their places in the table."""

    def __init__(self, likelihood: Likelihood, numbers: list[int]) -> None:
        super().__init__()
        self.likelihood, self.numbers = likelihood, numbers


class _Layout(nn.Module):
    """Rows that hold several numbers of each column, one column after the other, and the same numbers group by group.

    Where a group's columns lie beside each other, it gets a part of the row in place. Otherwise a row is gathered once, not once
    for each group, whose gradients would each be as wide as the row.

    Args:
        groups: the columns' places in the table, group by group.
        widths: how many numbers each column of a group has.
    """

    def __init__(self, groups: Sequence[Sequence[int]], widths: Sequence[int]) -> None:
        super().__init__()
        self.shapes = [(width, len(numbers)) for numbers, width in zip(groups, widths, strict=True)]
        self.total = sum(map(math.prod, self.shapes))
        order = [number for numbers in groups for number in numbers]
        self._is_in_place = order == sorted(order)
        if self._is_in_place:
            return
        columns: dict[int, tuple[int, int, int]] = {}  # width, place of the first number group by group, distance to the next
        start = 0
        for numbers, (width, count) in zip(groups, self.shapes, strict=True):
            columns.update({number: (width, start + place, count) for place, number in enumerate(numbers)})
            start += width * count
        # Tensors instead of loops over `total` numbers: `MemoryBound` sees them coming.
        described = torch.tensor([columns[number] for number in range(len(columns))])
        first_of_row = described[:, 0].cumsum(0) - described[:, 0]
        each = torch.cat([described, first_of_row[:, None]], 1)
        _, first, distance, begin = each.repeat_interleave(described[:, 0], 0, output_size=self.total).unbind(1)
        in_order = first + (torch.arange(self.total) - begin) * distance
        self._grouped: Tensor
        self._in_order: Tensor
        self.register_buffer("_grouped", in_order.argsort(), persistent=False)
        self.register_buffer("_in_order", in_order, persistent=False)

    def split(self, rows: Tensor) -> list[Tensor]:
        """[..., total] -> for each group [..., width, columns]."""
        if not self._is_in_place:
            rows = rows.index_select(-1, self._grouped)
        parts = rows.split([math.prod(shape) for shape in self.shapes], -1)
        if self._is_in_place:
            return [part.unflatten(-1, (count, width)).mT for part, (width, count) in zip(parts, self.shapes, strict=True)]
        return [part.unflatten(-1, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def join(self, parts: list[Tensor]) -> Tensor:
        """For each group [..., width, columns] -> [..., total]."""
        if self._is_in_place:
            return torch.cat([part.mT.flatten(-2) for part in parts], -1)
        return torch.cat([part.flatten(-2) for part in parts], -1).index_select(-1, self._in_order)


def _is_independent(likelihood: Likelihood) -> bool:
    """Whether one object may serve several columns: it treats each element by itself, and learns nothing but by column."""
    by_element = all(getattr(type(likelihood), name) is getattr(Likelihood, name) for name in ("nll", "encoder_input"))
    learned = likelihood.learned if isinstance(likelihood, DispersedLikelihood) else {}
    return by_element and {name for name, _ in (*likelihood.named_parameters(), *likelihood.named_buffers())} == set(learned)


def _specs_by_name(columns: object) -> dict[str, Mapping[str, Any]]:
    """{column: {"name": likelihood, option: ...}}, whatever form the columns were given in."""
    if isinstance(columns, Sequence) and not isinstance(columns, str):
        columns = {str(number): spec for number, spec in enumerate(columns)}
    if not isinstance(columns, Mapping):
        raise TypeError(
            'columns has to be {column: likelihood, ...} or a list of likelihoods, {"age": "gaussian", "visits": "poisson"} for '
            f"example, got {columns!r}"
        )
    if not columns:
        raise ValueError("columns has to name at least one column")
    specs: dict[str, Mapping[str, Any]] = {}
    for name, spec in columns.items():
        spec = {"name": spec} if isinstance(spec, str) else spec
        if not isinstance(name, str) or not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
            raise TypeError(
                f"column {name!r} has to be a string, and what it is given the name of a likelihood or "
                f'{{"name": ..., option: ...}}, got {spec!r}'
            )
        specs[name] = dict(spec)
    return specs


def _created(column: str, spec: Mapping[str, Any], gaps: Gaps) -> Likelihood:
    """The likelihood of one column; a mistake in it names the column. What the table hides, a column does not hide again."""
    missing = gaps._replace(hide=0.0).spec
    try:
        likelihood = registry.build({**({} if missing == "refuse" else {"missing": missing}), **spec})
    except (UnknownNameError, TypeError, ValueError) as error:
        raise type(error)(f"column {column!r}: {error}") from error
    if isinstance(likelihood, Columns):
        raise ValueError(f"column {column!r} is given columns of its own; name all columns in one place")
    if likelihood.gaps.spec != missing:
        raise ValueError(
            f"column {column!r} has missing={likelihood.gaps.spec!r}, but missing is one option for all columns, here "
            f"{gaps.spec!r}; set it beside columns"
        )
    return likelihood

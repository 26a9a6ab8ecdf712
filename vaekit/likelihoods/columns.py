"""A likelihood for each column of a table: numbers, classes and counts side by side.

A. Nazábal, P. M. Olmos, Z. Ghahramani, I. Valera, "Handling Incomplete Heterogeneous Data using VAEs", 2018, arXiv:1807.03653,
section 3.1: given z, the columns are independent.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaekit.likelihoods.base import Likelihood, registry
from vaekit.ops import philox
from vaekit.registry import UnknownNameError


@registry.register("columns")
class Columns(Likelihood):
    """For each column of a table the likelihood that suits it: x [B, F], one likelihood for each of the F columns.

    P is the largest of the columns' numbers of parameters: a column that needs fewer takes the first ones, and the rest, which
    the decoder gives as well, have no meaning and a gradient of 0. The nll is the sum of the columns' own. What a likelihood
    learns, the scale of {"name": "gaussian", "variance": "shared"} for example, each column has for itself. The encoder sees what
    each column's likelihood shows of it, one after the other: log(1 + x) of a count, a one-hot vector of a class.

    Args:
        columns: {column: likelihood, ...} in the order of the table's columns, or a list of likelihoods, whose columns are then
            called "0", "1", ...; a likelihood is a name or {"name": ..., option: ...}.
        missing: "refuse" or "ignore" NaN in the data, for all columns.

    Raises:
        TypeError: columns of another kind; an option that a column's likelihood does not take.
        ValueError: no columns; a column with another `missing`, or with columns of its own.
        UnknownNameError: a likelihood that is not registered.

    Example:
        >>> likelihood = Columns({"height": "gaussian", "blood": {"name": "categorical", "classes": 4}, "visits": "poisson"})
        >>> likelihood.parameters_per_element, likelihood.encoder_input_shape((3,))
        (4, (6,))
        >>> likelihood.encoder_input(torch.tensor([[-1.5, 2.0, 0.0]]))
        tensor([[-1.5000,  0.0000,  0.0000,  1.0000,  0.0000,  0.0000]])
        >>> nll = likelihood.nll(torch.zeros(1, 4, 3), torch.tensor([[0.0, 2.0, 1.0]]))
        >>> round(float(nll), 4)  # log(2 pi) / 2 + log 4 + 1
        3.3052
    """

    support = "in each column the values of its own likelihood"
    remedy = "Give each column the likelihood that suits it."

    def __init__(
        self,
        columns: Mapping[str, str | Mapping[str, Any]] | Sequence[str | Mapping[str, Any]],
        missing: str = "refuse",
    ) -> None:
        super().__init__(missing)
        specs = _specs_by_name(columns)
        self.names = tuple(specs)
        shared: list[tuple[Mapping[str, Any], list[int]]] = []  # the columns that are computed together, by their spec
        grouped: list[tuple[Likelihood, list[int]]] = []
        for number, (name, spec) in enumerate(specs.items()):
            same = next((numbers for other, numbers in shared if other == spec), None)
            if same is not None:
                same.append(number)
                continue
            likelihood = _created(name, spec, missing)
            grouped.append((likelihood, [number]))
            if _is_independent(likelihood):
                shared.append((spec, grouped[-1][1]))
        self.groups = nn.ModuleList(_Group(likelihood, numbers) for likelihood, numbers in grouped)
        self.data_shape = (len(specs),)
        self.parameters_per_element = max(likelihood.parameters_per_element for likelihood, _ in grouped)
        self.statistics_per_element = max(likelihood.statistics_per_element for likelihood, _ in grouped)
        self._from_groups: Tensor
        self._features_from_groups: Tensor
        in_groups = [number for _, numbers in grouped for number in numbers]
        widths = [group.features_per_column for group in self._groups() for _ in group.numbers]
        ends = list(itertools.accumulate(widths))
        order = sorted(range(len(in_groups)), key=in_groups.__getitem__)
        features = [feature for place in order for feature in range(ends[place] - widths[place], ends[place])]
        self.register_buffer("_from_groups", torch.tensor(order), persistent=False)
        self.register_buffer("_features_from_groups", torch.tensor(features), persistent=False)

    @property
    def likelihoods(self) -> tuple[Likelihood, ...]:
        """The likelihood of each column; columns without learned parameters whose specs are equal have one object."""
        of = {number: group.likelihood for group in self._groups() for number in group.numbers}
        return tuple(of[number] for number in range(len(self.names)))

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        self._check_shapes(parameters, x)
        terms = [group.likelihood.nll(group.parameters_of(parameters), group.columns_of(x)) for group in self._groups()]
        return torch.stack(terms).sum(0)

    def mean(self, parameters: Tensor) -> Tensor:
        """The mean of each column as its likelihood says, for a class the most probable one: [B, P, F] -> [B, F]."""
        self._check_shapes(parameters)
        return self._ungrouped([group.likelihood.mean(group.parameters_of(parameters)) for group in self._groups()])

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """As each column's likelihood says; parameters that a column does not use are 0: [Q, F] -> [P, F]."""
        parts = [
            _widened(group.likelihood.parameters_of_mean(group.statistics_of(mean)), self.parameters_per_element)
            for group in self._groups()
        ]
        return self._ungrouped(parts)

    def statistics(self, x: Tensor) -> Tensor:
        """Each column's own, and then zeros: [B, F] -> [B, Q, F], Q being what the column that needs most has."""
        self._check_columns(x.shape[1:])
        parts = [
            _widened(group.likelihood.statistics(group.columns_of(x)), self.statistics_per_element) for group in self._groups()
        ]
        return self._ungrouped(parts)

    def sample(self, parameters: Tensor, *, key: Tensor) -> Tensor:
        """As every likelihood's, each column's on its own; synchronises where one of theirs does."""
        self._check_shapes(parameters)
        drawn = [
            group.likelihood.sample(group.parameters_of(parameters), key=philox.fold_in(key, number))
            for number, group in enumerate(self._groups())
        ]
        return self._ungrouped(drawn)

    def encoder_input(self, x: Tensor) -> Tensor:
        """What an encoder sees of each column, one column after the other: [B, F] -> [B, F']."""
        self._check_columns(x.shape[1:])
        seen = [group.likelihood.encoder_input(group.columns_of(x)) for group in self._groups()]
        return torch.cat(seen, -1).index_select(-1, self._features_from_groups)

    def encoder_input_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        self._check_columns(super().encoder_input_shape(shape))
        return (len(self._features_from_groups),)

    def check(self, x: Tensor) -> None:
        """Raise ValueError, naming the column and what was seen, if a value lies outside its support; synchronises."""
        self._check_columns(x.shape[1:])
        for group in self._groups():
            try:
                group.likelihood.check(group.columns_of(x))
            except ValueError:  # of one column at least
                for number in group.numbers:
                    try:
                        group.likelihood.check(x[:, number : number + 1])
                    except ValueError as error:
                        raise ValueError(f"column {self.names[number]!r}: {error}") from error
                raise

    def _groups(self) -> list[_Group]:
        return list(self.groups)  # type: ignore[arg-type]

    def _ungrouped(self, parts: list[Tensor]) -> Tensor:
        """What each group has for its columns, [..., columns of the group], in the table's order: [..., F]."""
        return torch.cat(parts, -1).index_select(-1, self._from_groups)

    def _check_shapes(self, parameters: Tensor, x: Tensor | None = None) -> None:
        super()._check_shapes(parameters, x)
        self._check_columns(parameters.shape[2:])

    def _check_columns(self, shape: Sequence[int]) -> None:
        if tuple(shape) != self.data_shape:
            shown = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
            raise ValueError(
                f"the likelihood 'columns' describes tables with {len(self.names)} column(s) ({shown}), but an example here has "
                f"the shape {tuple(shape)}; name a likelihood for each column of the table"
            )


class _Group(nn.Module):
    """Columns that are computed together, by one likelihood."""

    def __init__(self, likelihood: Likelihood, numbers: list[int]) -> None:
        super().__init__()
        self.likelihood, self.numbers = likelihood, numbers
        self.features_per_column = likelihood.encoder_input_shape((len(numbers),))[0] // len(numbers)
        self._index: Tensor
        self.register_buffer("_index", torch.tensor(numbers), persistent=False)

    def columns_of(self, table: Tensor) -> Tensor:
        """[..., F] -> [..., columns of the group]."""
        return table.index_select(-1, self._index)

    def parameters_of(self, parameters: Tensor) -> Tensor:
        """[B, P, F] -> [B, the likelihood's own P, columns of the group]."""
        return self.columns_of(parameters[:, : self.likelihood.parameters_per_element])

    def statistics_of(self, mean: Tensor) -> Tensor:
        """[Q, F] -> [the likelihood's own Q, columns of the group]."""
        return self.columns_of(mean[: self.likelihood.statistics_per_element])


def _widened(values: Tensor, size: int) -> Tensor:
    """[..., n, columns] -> [..., size, columns], zeros after the values."""
    return F.pad(values, (0, 0, 0, size - values.shape[-2]))


def _is_independent(likelihood: Likelihood) -> bool:
    """Whether one object may serve several columns: it learns nothing, and treats each element by itself."""
    by_element = all(getattr(type(likelihood), name) is getattr(Likelihood, name) for name in ("nll", "encoder_input"))
    return by_element and not likelihood.state_dict()


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


def _created(column: str, spec: Mapping[str, Any], missing: str) -> Likelihood:
    """The likelihood of one column; a mistake in it names the column."""
    try:
        likelihood = registry.build({**({} if missing == "refuse" else {"missing": missing}), **spec})
    except (UnknownNameError, TypeError, ValueError) as error:
        raise type(error)(f"column {column!r}: {error}") from error
    if isinstance(likelihood, Columns):
        raise ValueError(f"column {column!r} is given columns of its own; name all columns in one place")
    if likelihood.missing != missing:
        raise ValueError(
            f"column {column!r} has missing={likelihood.missing!r}, but missing is one option for all columns, here {missing!r}; "
            "set it beside columns"
        )
    return likelihood

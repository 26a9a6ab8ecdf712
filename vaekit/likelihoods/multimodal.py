"""The likelihood of several modalities: given z they are independent, and any of them may be missing.

M. Wu, N. Goodman, "Multimodal Generative Models for Scalable Weakly-Supervised Learning", NeurIPS 2018, arXiv:1802.05335.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.checks import checked_sizes
from vaekit.likelihoods.base import Likelihood, registry
from vaekit.likelihoods.support import Support
from vaekit.ops import philox


@registry.register("modalities")
class Modalities(Likelihood):
    """p(x | z) = product over modalities of p(x_m | z), each with a shape and a likelihood of its own; some may be missing.

    Inside, an example is one row, [F]: the modalities flattened, in the order of their names, and NaN where one is missing.
    `joined` makes such rows of {modality: tensor}, which the methods of a model do by themselves, and `parted` takes them apart.
    A modality that is missing adds nothing to the nll: the objective is then a bound on the log density of the others.

    The encoder is shown what each likelihood shows of its modality, and a 0 or 1 for each that says whether any of it is there.

    Args:
        parts: {modality: {"shape": ..., "likelihood": ...}}; a likelihood is a name or {"name": ..., option: ...}, "bernoulli"
            where there is none.
        missing: "ignore" modalities, and elements of them, that are NaN, or "refuse" them.

    Raises:
        TypeError, ValueError: no parts; a part of another form; a likelihood with another `missing`.

    Example:
        >>> word = {"shape": (2,), "likelihood": {"name": "categorical", "classes": 4}}
        >>> likelihood = Modalities({"word": word, "grey": {"shape": (3,)}})
        >>> likelihood.modalities, likelihood.joined({"word": torch.ones(1, 2)})
        (('grey', 'word'), tensor([[nan, nan, nan, 1., 1.]]))
        >>> nll = likelihood.nll(torch.zeros(1, 1, 11), likelihood.joined({"word": torch.ones(1, 2)}))
        >>> round(float(nll), 4)  # 2 log 4
        2.7726
    """

    support = Support("in each modality the values of its own likelihood", remedy="Give each one the likelihood that suits it.")

    def __init__(self, parts: Mapping[str, Mapping[str, Any]], missing: str = "ignore") -> None:
        super().__init__(missing)
        if not isinstance(parts, Mapping) or not parts:
            raise TypeError(f'parts has to be {{modality: {{"shape": ..., "likelihood": ...}}}}, got {parts!r}')
        self.modalities = tuple(sorted(parts))
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.likelihoods = nn.ModuleDict()
        for name in self.modalities:
            self.shapes[name], self.likelihoods[name] = _part(name, parts[name], self.missing)
        self.data_shape = (sum(map(math.prod, self.shapes.values())),)

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """The shape of each modality's natural parameters, (P, *output_shape)."""
        return {
            name: (one.parameters_per_element, *one.decoder_output_shape(self.shapes[name])) for name, one in self._each.items()
        }

    def likelihood_of(self, name: str) -> Likelihood:
        """The likelihood of one modality."""
        return self._each[name]

    def joined(self, x: Mapping[str, Any]) -> Tensor:
        """{modality: [B, *shape]} as rows [B, F], NaN where a modality is missing.

        Raises:
            TypeError, ValueError: an unknown modality, none at all, one of another shape, or other numbers of examples.
        """
        if unknown := [name for name in x if name not in self.shapes]:
            raise ValueError(f"there is no modality {unknown[0]!r}; there are: {', '.join(self.modalities)}")
        given = {name: torch.as_tensor(value) for name, value in x.items() if value is not None}
        counts = {name: len(value) for name, value in given.items() if value.ndim}
        if not counts or len(set(counts.values())) > 1 or len(counts) < len(given):
            raise ValueError(
                f"each modality has to be [batch, *shape] with the same batch, and one has to be there; got {counts}"
            )
        for name, value in given.items():
            if tuple(value.shape[1:]) != self.shapes[name]:
                raise ValueError(f"the modality {name!r} has the shape {self.shapes[name]}, got {tuple(value.shape[1:])}")
        count, like = next(iter(counts.values())), next(iter(given.values()))
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        rows = [
            given[name].to(like.device, dtype).flatten(1)
            if name in given
            else torch.full((count, math.prod(shape)), torch.nan, dtype=dtype, device=like.device)
            for name, shape in self.shapes.items()
        ]
        return torch.cat(rows, 1)

    def parted(self, x: Tensor) -> dict[str, Tensor]:
        """Rows [..., F] as {modality: [..., *shape]}."""
        parts = x.split([math.prod(shape) for shape in self.shapes.values()], -1)
        return {name: part.unflatten(-1, shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def present(self, x: Tensor) -> Tensor:
        """Which modalities are there, in part at least: [B, F] -> bool [B, M]."""
        return torch.stack([~part.flatten(1).isnan().all(1) for part in self.parted(x).values()], 1)

    def without(self, x: Tensor, kept: Tensor) -> Tensor:
        """x with the modalities alone that are kept, bool [B, M], and NaN elsewhere: [B, F] -> [B, F]."""
        sizes = torch.tensor([math.prod(shape) for shape in self.shapes.values()], device=x.device)
        return torch.where(kept.repeat_interleave(sizes, 1, output_size=x.shape[1]), x, torch.nan)

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        """The sum over the modalities that are there: parameters [B, 1, N], x [B, F] -> [B], in nats."""
        self._check_shapes(parameters, x)
        own, parts = self._parted_parameters(parameters), self.parted(x)
        return torch.stack([one.nll(own[name], parts[name]) for name, one in self._each.items()]).sum(0)

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Each modality's own, one after the other: parameters [B, 1, N], x [B, F] -> [B, F], in nats."""
        parts = self.parted(x)
        return self._of_each(lambda name, one, own: one.element_nll(own, parts[name]), parameters)

    def mean(self, parameters: Tensor) -> Tensor:
        return self._of_each(lambda _, one, own: one.mean(own), parameters)

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        """As every likelihood's, each modality's on its own."""
        numbers = {name: number for number, name in enumerate(self.modalities)}
        return self._of_each(
            lambda name, one, own: one.sample(own, key=philox.fold_in(key, numbers[name]), row_start=row_start), parameters
        )

    def statistics(self, x: Tensor) -> Tensor:
        """Each modality's own, one after the other: [B, F] -> [B, 1, Q]."""
        parts = self.parted(x)
        return torch.cat([one.statistics(parts[name]).flatten(1) for name, one in self._each.items()], 1).unsqueeze(1)

    def expected_statistics(self, parameters: Tensor) -> Tensor:
        return self._of_each(lambda _, one, own: one.expected_statistics(own), parameters).unsqueeze(1)

    def value_of(self, statistics: Tensor) -> Tensor:
        """Each modality's own: [B, 1, Q] -> [B, F]."""
        widths = {name: (one.statistics_per_element, *self.shapes[name]) for name, one in self._each.items()}
        parts = statistics[:, 0].split([math.prod(shape) for shape in widths.values()], 1)
        own = zip(self._each.values(), parts, widths.values(), strict=True)
        return torch.cat([one.value_of(part.unflatten(1, shape)).flatten(1) for one, part, shape in own], 1)

    def encoder_input(self, x: Tensor) -> Tensor:
        """What each likelihood shows, one after the other, 0 where it is missing, and which are there: [B, F] -> [B, F' + M]."""
        self.check_shape(x.shape[1:])
        parts, present = self.parted(x), self.present(x)
        shown = [one.encoder_input(parts[name]).flatten(1) for name, one in self._each.items()]
        return torch.cat([*shown, present.to(x.dtype)], 1)

    def encoder_input_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        self.check_shape(super().encoder_input_shape(shape))
        sizes = [math.prod(one.encoder_input_shape(self.shapes[name])) for name, one in self._each.items()]
        return (sum(sizes) + len(sizes),)

    def decoder_output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        self.check_shape(super().decoder_output_shape(shape))
        return (sum(map(math.prod, self.outputs.values())),)

    def check(self, x: Tensor) -> None:
        """Raise ValueError, naming the modality and what was seen, if a value lies outside its support; synchronises."""
        parts = self.parted(x)
        for name, one in self._each.items():
            try:
                one.check(parts[name])
            except ValueError as error:
                raise ValueError(f"modality {name!r}: {error}") from error

    def check_shape(self, shape: Sequence[int]) -> None:
        """Refuse examples that are no such rows."""
        if tuple(shape) != self.data_shape:
            raise ValueError(
                f"the likelihood 'modalities' describes rows of {self.data_shape} numbers ({', '.join(self.modalities)}, one "
                f"after the other), but an example here has the shape {tuple(shape)}; joined makes rows of {{modality: tensor}}"
            )

    @property
    def _each(self) -> dict[str, Likelihood]:
        return dict(self.likelihoods.items())  # type: ignore[arg-type]

    def _parted_parameters(self, parameters: Tensor) -> dict[str, Tensor]:
        """[B, 1, N] -> of each modality [B, P, *output_shape]."""
        parts = parameters[:, 0].split([math.prod(shape) for shape in self.outputs.values()], 1)
        return {name: part.unflatten(1, shape) for (name, shape), part in zip(self.outputs.items(), parts, strict=True)}

    def _of_each(self, made: Callable[[str, Likelihood, Tensor], Tensor], parameters: Tensor) -> Tensor:
        """What is made of each modality's parameters, flattened, one after the other."""
        self._check_shapes(parameters)
        own = self._parted_parameters(parameters)
        return torch.cat([made(name, one, own[name]).flatten(1) for name, one in self._each.items()], 1)

    def _check_shapes(self, parameters: Tensor, x: Tensor | None = None) -> None:
        expected = (1, sum(map(math.prod, self.outputs.values())))
        if parameters.shape[1:] != expected:
            raise ValueError(f"Modalities takes natural parameters [batch, 1, {expected[1]}], got {tuple(parameters.shape)}")
        if x is not None:
            self.check_shape(x.shape[1:])


def _part(name: str, given: Any, missing: str) -> tuple[tuple[int, ...], Likelihood]:
    """The shape and the likelihood of one modality; a mistake in it names the modality."""
    if not isinstance(given, Mapping) or "shape" not in given or set(given) - {"shape", "likelihood"}:
        raise TypeError(f'the modality {name!r} has to be {{"shape": ..., "likelihood": ...}}, got {given!r}')
    spec = given.get("likelihood", "bernoulli")
    spec = {"name": spec} if isinstance(spec, str) else spec
    try:
        shape = checked_sizes("shape", given["shape"])
        likelihood = registry.build({**({"missing": missing} if isinstance(spec, Mapping) else {}), **spec})
        likelihood.set_data_shape(shape)
    except (TypeError, ValueError) as error:
        raise type(error)(f"the modality {name!r}: {error}") from error
    if likelihood.missing != missing:
        raise ValueError(
            f"the modality {name!r} has missing={likelihood.missing!r}; set it for all, beside parts, here {missing!r}"
        )
    return shape, likelihood

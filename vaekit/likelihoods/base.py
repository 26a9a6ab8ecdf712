"""What every likelihood offers: from a decoder's natural parameters to nats, a mean and draws.

Missing values are NaN in x. With missing="ignore" a likelihood leaves them out of its sum, so that the objective is a bound on
the log density of what was observed: P.-A. Mattei, J. Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete
Data Sets", 2019, arXiv:1812.02633, section 2.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vaekit.checks import checked_flag, checked_number, checked_sizes, checked_word
from vaekit.likelihoods.support import REAL, Support
from vaekit.ops import reference
from vaekit.ops.nll import NllOperator, summed
from vaekit.registry import Part, Registry

# Where a decoder may start, see `parameters_of_mean`: at the edge of a support a mean has no finite parameters.
NEAREST_TO_BOUND = 1e-3  # of a mean to 0 or 1; a logit of 6.9
RAREST = 1e-6  # of counts and classes; a logarithm of -13.8


MissingSpec = str | Mapping[str, Any]  # of `Likelihood`


class Gaps(NamedTuple):
    """What NaN means, and what an encoder sees of it; the options of `Likelihood`'s `missing`."""

    name: str = "refuse"
    mark: bool = False
    hide: float = 0.0

    @classmethod
    def of(cls, spec: MissingSpec) -> Gaps:
        options: dict[str, Any] = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
        if unknown := [option for option in options if option not in cls._fields]:
            raise TypeError(f"missing has the options {', '.join(cls._fields)}, not {', '.join(map(repr, unknown))}")
        name = checked_word("missing, what NaN in the data means,", options.pop("name", "ignore"), ("refuse", "ignore"))
        if options and name == "refuse":
            raise ValueError('missing="refuse" has nothing to mark or hide; use {"name": "ignore", "mark": True, "hide": 0.4}')
        hide = checked_number("hide, the largest share that is not shown,", options.get("hide", 0.0), least=0.0, most=1.0)
        return cls(name, checked_flag("mark", options.get("mark", False)), hide)

    @property
    def spec(self) -> MissingSpec:
        """As `of` takes it."""
        return self._asdict() if self.mark or self.hide else self.name


def log_counts(x: Tensor) -> Tensor:
    """The features of counts, log(1 + x), as scvi-tools shows them to its encoders: [B, *S] -> [B, 1, *S].

    R. Lopez, J. Regier, M. B. Cole, M. I. Jordan, N. Yosef, "Deep generative modeling for single-cell transcriptomics", 2018,
    doi:10.1038/s41592-018-0229-2.
    """
    return torch.log1p(x).unsqueeze(1)


class Likelihood(Part, nn.Module, ABC):
    """p(x | z) with P unconstrained parameters for each element of x, a decoder's output [B, P, *S].

    A likelihood of one's own gives `element_nll`, `mean` and `sample`; one whose elements are not independent gives `nll` instead
    of `element_nll`, and sees to missing values itself. One whose data is not what a network should see as it is, counts for
    example, gives `element_features` as well; one whose decoder can start from the data's mean gives `parameters_of_mean`.

    Args:
        missing: what NaN in x means: "refuse", a mistake that `check` and `vaekit.fit` report; "ignore", a missing value, which
            adds nothing to the nll and nothing to any gradient; or {"name": "ignore", "mark": True, "hide": 0.4}, the same, where
            with `mark` the encoder is told which elements are missing, and with `hide` it is not shown some of those that are
            there, so that it learns to read what other gaps leave: of each example a share between 0 and `hide`, elements and
            share drawn anew in each training step. The objective bounds the density of all that is there still.

    Attributes:
        missing: "refuse" or "ignore".
        gaps: the same, with `mark` and `hide`.
        parameters_per_element: P; the axis is there even for P = 1.
        features_per_element: how many numbers an encoder sees of each element, see `encoder_input`.
        statistics_per_element: how many means of each element a decoder can start from, see `statistics`.
        data_shape: the shape of an example, where the likelihood has no others; None where any shape will do.
        support: the values that x may take; the real numbers unless a likelihood says otherwise.
        is_nominal: whether these are names of classes, which can be equal or not but have no distance.
        modalities: what x is made of where that is several things, each of which may be missing; () for x that is one.
        has_logits: whether the parameters are logits: the nll of an element changes by no more nats than its parameters do, so
            that a decoder in a lower precision may give them in it.
        has_log_mean: whether the first parameter is the logarithm of the mean, or of what it is a fixed share of.

    Raises:
        TypeError: options of `missing` that it does not have, or of another kind.
        ValueError: another word for `missing`, a share that is not in [0, 1].
    """

    parameters_per_element: int = 1
    features_per_element: int = 1
    statistics_per_element: int = 1
    data_shape: tuple[int, ...] | None = None
    support: Support = REAL
    is_nominal: bool = False
    has_logits: bool = False
    has_log_mean: bool = False
    missing: str = "refuse"
    gaps: Gaps = Gaps()
    modalities: tuple[str, ...] = ()
    operator: ClassVar[NllOperator | None] = None  # the sum of `element_nll` in one pass, where there is one

    def __init__(self, missing: MissingSpec = "refuse") -> None:
        super().__init__()
        self.gaps = Gaps.of(missing)
        self.missing = self.gaps.name

    def set_data_shape(self, shape: Sequence[int]) -> None:
        """Tell the likelihood the shape of an example; one that learns a number for each feature of the data makes them now.

        `VAE` does so for its likelihood.

        Raises:
            ValueError: it makes them for another shape already.
        """

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        """-log p(x | z) in nats, summed over the elements: parameters [B, P, *S], x [B, *S] -> [B].

        In float64 for float64 parameters and in float32 otherwise. With missing="ignore" the sum is over the elements of x that
        are not NaN, 0 where there is none.

        Raises:
            ValueError: another P, or an x of another shape than the parameters describe.
        """
        self._check_shapes(parameters, x)
        ignore_missing = self.missing == "ignore"
        if self.operator is None:
            return summed(self.element_nll, parameters, x, ignore_missing, self.support.filler)
        return self.operator(parameters, x, *self._operator_options(parameters), ignore_missing=ignore_missing)

    def _operator_options(self, parameters: Tensor) -> tuple[Any, ...]:
        """What the operator takes besides the parameters and x."""
        return ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "element_nll" in cls.__dict__ and "operator" not in cls.__dict__:
            cls.operator = None  # which has the formula of the class above

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        """-log p of each element, in nats: parameters [B, P, *S], x [B, *S] without NaN -> [B, *S], all of one dtype.

        The dtype is float32 or float64.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define element_nll, or nll itself")

    @abstractmethod
    def mean(self, parameters: Tensor) -> Tensor:
        """E[x | z]: [B, P, *S] -> [B, *S]."""

    def reconstruction(self, parameters: Tensor, x: Tensor) -> Tensor:
        """`mean` of an example that shares with x what the likelihood takes as given: [B, P, *S], x [B, *S] -> [B, *S].

        The mean itself unless the likelihood says otherwise; "library_size" takes the total of x.
        """
        return self.mean(parameters)

    @abstractmethod
    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        """A draw from p(x | z).

        Args:
            parameters: [B, P, *S].
            key: int64 [2], the noise.
            row_start: the number of the first row in a larger batch, whose draws for these rows are made.

        Returns:
            [B, *S], with the parameters' dtype.

        Example:
            >>> from vaekit import make_key
            >>> from vaekit.likelihoods import Poisson
            >>> log_rate, key = torch.ones(5, 1, 3), make_key(0)
            >>> part = Poisson().sample(log_rate[2:], key=key, row_start=2)
            >>> torch.equal(part, Poisson().sample(log_rate, key=key)[2:])
            True
        """

    def decoder_output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The output_shape of a decoder for examples of this shape: S of the natural parameters [B, P, *S], as a rule the same.

        Raises:
            ValueError: sizes that are not whole numbers of at least 1; a shape of which the likelihood has no examples.

        Example:
            >>> from vaekit.likelihoods import Columns, Gaussian
            >>> Gaussian().decoder_output_shape((1, 28, 28))
            (1, 28, 28)
            >>> Columns([{"name": "categorical", "classes": 4}, "gaussian"]).decoder_output_shape((2,))
            (5,)
        """
        return checked_sizes("input_shape", shape)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """Natural parameters under which `mean` is the mean of `statistics`, for a decoder to start from: [Q, *S] -> [P, *S].

        What a mean does not say, a scale for example, is as where the parameters are 0, which is what a new decoder gives. A mean
        at the edge of the support, whose parameters would be infinite, is taken to be a little inside: 1e-3 from 0 or 1, 1e-6
        for the mean of counts and for the frequency of a class. Where the mean is NaN, as no value was observed, so are the
        parameters, and the decoder keeps its own.

        Raises:
            NotImplementedError: the likelihood does not say.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say which parameters have a given mean, so the decoder's output bias cannot be set "
            "from data; define parameters_of_mean, or leave the bias as it is"
        )

    def statistics(self, x: Tensor) -> Tensor:
        """The Q numbers of each element whose mean `parameters_of_mean` takes, x itself as a rule: [B, *S] -> [B, Q, *S].

        NaN where x is NaN.
        """
        return x.unsqueeze(1)

    def expected_statistics(self, parameters: Tensor) -> Tensor:
        """E[statistics(x) | z], of which one may take the mean over several z: [B, P, *S] -> [B, Q, *S].

        Example:
            >>> from vaekit.likelihoods import Categorical
            >>> Categorical(classes=2).expected_statistics(torch.tensor([[[0.0], [3.0]]]).log())
            tensor([[[0.],
                     [1.]]])
        """
        return self.mean(parameters).unsqueeze(1)

    def given_observed(self, parameters: Tensor, x: Tensor) -> tuple[Likelihood, Tensor]:
        """The likelihood of each element given z and what is observed of x, NaN elsewhere: itself, where z says all about each.

        Returns:
            a likelihood whose elements are independent, and its parameters for them, [B, P, *S].
        """
        return self, parameters

    def value_of(self, statistics: Tensor) -> Tensor:
        """The value that stands for a mean of statistics: itself, or the most probable class: [B, Q, *S] -> [B, *S]."""
        return statistics.squeeze(1)

    def encoder_input(self, x: Tensor) -> Tensor:
        """What an encoder sees of data x: [B, C, *S] -> [B, C Q, *S], the Q features of each entry of the first axis in turn.

        x itself unless the likelihood says otherwise in `element_features`. With missing="ignore" all features of a NaN are 0,
        the zero imputation of MIWAE, and so are, in training mode, those of the elements that `hide` hides. With `mark` one
        feature more is 1 where the others are shown.

        Example:
            >>> from vaekit.likelihoods import Categorical, Gaussian
            >>> Categorical(classes=3).encoder_input(torch.tensor([[0.0, 2.0]]))
            tensor([[1., 0., 0., 0., 0., 1.]])
            >>> Gaussian(missing={"name": "ignore", "mark": True}).encoder_input(torch.tensor([[0.5, torch.nan]]))
            tensor([[0.5000, 1.0000, 0.0000, 0.0000]])
        """
        x = self.shown(x)
        features = self.element_features(x)
        if self.missing == "ignore":
            gone = x.isnan().unsqueeze(1)
            features = features.masked_fill(gone, 0.0)
            if self.gaps.mark:
                features = torch.cat([features, (~gone).to(features.dtype)], 1)
        return features.transpose(1, 2).flatten(1, 2)

    def shown(self, x: Tensor) -> Tensor:
        """x with NaN where `hide` hides what is there, in training mode alone: [B, *S] -> [B, *S]."""
        if not (self.training and self.gaps.hide):
            return x
        share = self.gaps.hide * torch.rand(len(x), *(1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return x.masked_fill(torch.rand_like(x) < share, math.nan)

    def encoder_input_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The input_shape of an encoder for examples of this shape: (C, *S) -> (C Q, *S).

        Raises:
            ValueError: sizes that are not whole numbers of at least 1; a shape of which the likelihood has no examples.

        Example:
            >>> from vaekit.likelihoods import Categorical
            >>> Categorical(classes=3).encoder_input_shape((1, 28, 28))
            (3, 28, 28)
        """
        sizes = checked_sizes("input_shape", shape)
        each = self.features_per_element + self.gaps.mark
        return (*(size * each for size in sizes[:1]), *sizes[1:])

    def element_features(self, x: Tensor) -> Tensor:
        """The Q numbers that an encoder sees of each element: [B, *S] -> [B, Q, *S]; NaN where x is NaN."""
        return x.unsqueeze(1)

    def check(self, x: Tensor) -> None:
        """Raise ValueError, saying what was seen, if a value of x lies outside the support; synchronises.

        NaN is refused, or with missing="ignore" not looked at.
        """
        missing = x.isnan()
        if missing.any():
            if self.missing == "refuse":
                raise ValueError(
                    f"{type(self).__name__} was given {int(missing.sum())} missing value(s) (NaN) in {x.numel()}; fill them, or "
                    'leave them out with the option missing="ignore"'
                )
            x = x[~missing]
        self.support.check(type(self).__name__, x)

    def joined(self, x: Mapping[str, Any]) -> Tensor:
        """{modality: tensor} as x, of a likelihood of several modalities."""
        raise TypeError(
            f"x was given as {{{', '.join(map(str, x))}}}, but the model's x is one tensor; create_vae(modalities=...) composes "
            "a model of several"
        )

    def parted(self, x: Tensor) -> dict[str, Tensor]:
        """x as {modality: tensor}, of a likelihood of several modalities."""
        raise TypeError("the model's x is one tensor; create_vae(modalities=...) composes a model of several modalities")

    def without(self, x: Tensor, kept: Tensor) -> Tensor:
        """x with the modalities alone that are kept, bool [B, M], of a likelihood of several."""
        raise TypeError("the model's x is one tensor; create_vae(modalities=...) composes a model of several modalities")

    def _check_shapes(self, parameters: Tensor, x: Tensor | None = None) -> None:
        """Refuse another P, or an x of another shape, which would only broadcast."""
        if parameters.ndim < 2 or parameters.shape[1] != self.parameters_per_element:
            raise ValueError(
                f"{type(self).__name__} takes natural parameters [batch, {self.parameters_per_element}, ...], "
                f"got {tuple(parameters.shape)}"
            )
        shape = (parameters.shape[0], *parameters.shape[2:])
        if x is not None and x.shape != shape:
            raise ValueError(f"the decoder describes data of shape {tuple(shape)}, but x has the shape {tuple(x.shape)}")

    def _before_zeros(self, first: Tensor) -> Tensor:
        """`first` as the first of P parameters, and the others 0, or NaN where it is: [*S] -> [P, *S]."""
        zeros = torch.zeros_like(first).masked_fill(first.isnan(), torch.nan)
        return torch.stack((first, *(zeros,) * (self.parameters_per_element - 1)))

    def _wide(self, parameters: Tensor) -> Tensor:
        """The parameters, checked, in the dtype in which they are computed with."""
        self._check_shapes(parameters)
        return parameters.to(reference.compute_dtype(parameters.dtype))


registry: Registry[Likelihood] = Registry("likelihood", "vaekit.likelihoods", Likelihood)

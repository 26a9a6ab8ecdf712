"""Counts whose total is known of each example, a cell's library size: what is modelled is how it is shared out.

R. Lopez, J. Regier, M. B. Cole, M. I. Jordan, N. Yosef, "Deep generative modeling for single-cell transcriptomics", 2018,
doi:10.1038/s41592-018-0229-2, with the observed library size, as scvi-tools has it by default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vaekit.checks import checked_number
from vaekit.likelihoods.base import Likelihood, MissingSpec, registry


@registry.register("library_size")
class LibrarySize(Likelihood):
    """Counts with the mean l s: l, the total of the example's counts, is taken as given; s is a softmax of the decoder's output.

    How deep a cell was sequenced is then neither the latents' nor the networks' to explain. It stands around the counts' own
    likelihood, so that each of them can have it, with any dispersion, and the decoder stays as it is: the first of its P numbers,
    log m for the counts alone, is the logit of s. The nll takes the total from x itself. Like the offset of a regression it is no
    part of the density: exp(-nll) sums to 1 over all x at one total, not over those that have it. Where there is no x, `mean` and
    `sample` are those of an example with the total `size`. With missing="ignore" the total and the softmax are those of what was
    observed.

    Args:
        counts: their likelihood: "poisson", "negative_binomial", "zero_inflated_negative_binomial", {"name": ..., option: ...} or
            an object.
        size: the library size where there is none to take: 10,000 gives counts per ten thousand, 1 the shares themselves.
        features: the names of what is counted in the order of x, genes for example, kept with the model.
        missing: "refuse" or "ignore" NaN in the data, or ignore with options, as of `Likelihood`.

    Raises:
        TypeError, ValueError: counts whose first parameter is not the logarithm of their mean, or with another `missing`; a size
            that is not a positive number; a name twice.

    Example:
        >>> likelihood = LibrarySize("poisson", size=1.0)
        >>> logits, x = torch.tensor([[[0.0, 0.0, math.log(2.0)]]]), torch.tensor([[2.0, 0.0, 6.0]])
        >>> likelihood.mean(logits), likelihood.reconstruction(logits, x)
        (tensor([[0.2500, 0.2500, 0.5000]]), tensor([[2., 2., 4.]]))
    """

    def __init__(
        self,
        counts: str | Mapping[str, Any] | Likelihood = "negative_binomial",
        size: float = 1e4,
        features: Sequence[str] | None = None,
        missing: MissingSpec = "refuse",
    ) -> None:
        super().__init__(missing)
        self.counts = registry.build(counts, offers={"missing": missing})
        if not self.counts.has_log_mean:
            raise ValueError(
                "library_size needs counts whose first parameter is the logarithm of their mean, negative_binomial for example; "
                f"got {counts!r}"
            )
        if self.counts.gaps != self.gaps:
            given, own = self.counts.gaps.spec, self.gaps.spec
            raise ValueError(f"the counts have missing={given!r}, and library_size missing={own!r}; give one")
        self.size = checked_number("size", size, above=0.0)
        self.features = None if features is None else tuple(map(str, features))
        if self.features is not None and len(set(self.features)) < len(self.features):
            twice = next(name for name in self.features if self.features.count(name) > 1)
            raise ValueError(f"every feature has a name of its own, but {twice!r} is there twice")
        self.data_shape = self.counts.data_shape if self.features is None else (len(self.features),)
        self.parameters_per_element = self.counts.parameters_per_element
        self.features_per_element = self.counts.features_per_element
        self.support = self.counts.support

    def set_data_shape(self, shape: Sequence[int]) -> None:
        self.counts.set_data_shape(shape)

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        """As every likelihood's, given the total of each example."""
        self._check_shapes(parameters, x)
        return self.counts.nll(self._of_library(parameters, x), x)

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self.counts.element_nll(self._of_library(parameters, x), x)

    def given_observed(self, parameters: Tensor, x: Tensor) -> tuple[Likelihood, Tensor]:
        """The counts, given the total of what is observed."""
        return self.counts, self._of_library(parameters, x)

    def element_features(self, x: Tensor) -> Tensor:
        return self.counts.element_features(x)

    def mean(self, parameters: Tensor) -> Tensor:
        return self.counts.mean(self._of_size(parameters))

    def reconstruction(self, parameters: Tensor, x: Tensor) -> Tensor:
        self._check_shapes(parameters, x)
        return self.counts.mean(self._of_library(parameters, x))

    def statistics(self, x: Tensor) -> Tensor:
        """The counts per `size`."""
        total = _summed(x)
        return (x * (self.size / total.masked_fill(total == 0.0, 1.0))).unsqueeze(1)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """As every likelihood's; under zero inflation, which takes from every count, the shares are those of the mean."""
        return self.counts.parameters_of_mean(mean)

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        """As every likelihood's; synchronises."""
        return self.counts.sample(self._of_size(parameters), key=key, row_start=row_start)

    def shares(self, parameters: Tensor) -> Tensor:
        """s, the shares of the total before any is lost to zero inflation: [B, P, *S] -> [B, *S]."""
        logits = self._wide(parameters)[:, 0]
        return logits.flatten(1).softmax(1).reshape(logits.shape).to(parameters.dtype)

    def _of_size(self, parameters: Tensor) -> Tensor:
        wide = self._wide(parameters)
        return _shifted(wide, math.log(self.size) - wide[:, 0].flatten(1).logsumexp(1)).to(parameters.dtype)

    def _of_library(self, parameters: Tensor, x: Tensor) -> Tensor:
        """The parameters of the counts, their first log m, for the totals of x [B, *S]."""
        wide = self._wide(parameters)
        logits, total = wide[:, 0], _summed(x.to(wide.dtype))
        if self.missing == "ignore":  # -1e4 is a share of 0, and unlike infinity has a derivative where all are missing
            logits = logits.masked_fill(x.isnan(), -1e4)
        return _shifted(wide, total.flatten(1)[:, 0].log() - logits.flatten(1).logsumexp(1))


def _summed(x: Tensor) -> Tensor:
    """The total of each example, of what is observed: [B, *S] -> [B, 1, ...]."""
    return x.nansum(tuple(range(1, x.ndim)), keepdim=True)


def _shifted(parameters: Tensor, shift: Tensor) -> Tensor:
    """[B, P, *S] with shift [B] added to the first of the P."""
    first, others = parameters[:, :1], parameters[:, 1:]
    moved = first + shift.reshape(-1, *(1,) * (parameters.ndim - 1))
    return torch.cat((moved, others), dim=1) if others.shape[1] else moved

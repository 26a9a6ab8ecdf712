"""What every likelihood offers: from a decoder's natural parameters to nats, a mean and draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from vaekit.registry import Registry


class Likelihood(nn.Module, ABC):
    """p(x | z) with P unconstrained parameters for each element of x.

    Attributes:
        parameters_per_element: P; a decoder's output is [B, P, *x.shape[1:]], the axis is there even for P = 1.
        support: the values that x may take, in words, for messages and figures.
        lowest, highest: the bounds of the support.
    """

    parameters_per_element: int = 1
    support: ClassVar[str]
    lowest: ClassVar[float] = -float("inf")
    highest: ClassVar[float] = float("inf")

    def __init__(self) -> None:  # torch's own takes any option
        super().__init__()

    @abstractmethod
    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        """-log p(x | z) in nats, summed over the elements: parameters [B, P, *S], x [B, *S] -> [B]."""

    @abstractmethod
    def mean(self, parameters: Tensor) -> Tensor:
        """E[x | z]: [B, P, *S] -> [B, *S]."""

    @abstractmethod
    def sample(self, parameters: Tensor, *, key: Tensor) -> Tensor:
        """A draw from p(x | z), made from `key`: [B, P, *S] -> [B, *S]."""

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """Natural parameters under which `mean` is the mean, for a decoder to start from: [*S] -> [P, *S].

        Raises:
            NotImplementedError: the likelihood does not say.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say which parameters have a given mean, so the decoder's output bias cannot be set "
            "from data; define parameters_of_mean, or leave the bias as it is"
        )

    def check(self, x: Tensor) -> None:
        """Raise ValueError, saying what range was seen, if a value of x lies outside the support; synchronises.

        NaN is not looked for here: `vaekit.data` does, and names the sample.
        """
        if x.numel() == 0 or (self.lowest == -float("inf") and self.highest == float("inf")):
            return
        low, high = (float(bound) for bound in torch.aminmax(x))
        if low < self.lowest or high > self.highest:
            raise ValueError(
                f"{type(self).__name__} models {self.support}, but the data ranges from {low:.6g} to {high:.6g}. "
                "Rescale the data (uint8 images: divide by 255) or choose another likelihood, 'gaussian' for example."
            )

    def _split(self, parameters: Tensor, x: Tensor | None = None) -> tuple[Tensor, ...]:
        """[B, P, *S] -> P tensors [B, *S]; refuses another P, or an x of another shape, which would only broadcast."""
        if parameters.ndim < 2 or parameters.shape[1] != self.parameters_per_element:
            raise ValueError(
                f"{type(self).__name__} takes natural parameters [batch, {self.parameters_per_element}, ...], "
                f"got {tuple(parameters.shape)}"
            )
        shape = (parameters.shape[0], *parameters.shape[2:])
        if x is not None and x.shape != shape:
            raise ValueError(f"the decoder describes data of shape {tuple(shape)}, but x has the shape {tuple(x.shape)}")
        return parameters.unbind(1)


registry: Registry[Likelihood] = Registry("likelihood", "vaekit.likelihoods", Likelihood)

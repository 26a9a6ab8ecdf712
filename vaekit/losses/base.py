"""What an objective takes and gives, and what it asks of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vaekit.likelihoods.base import Likelihood
from vaekit.posteriors.base import Posterior
from vaekit.priors.base import Prior
from vaekit.registry import Registry


class Batch(NamedTuple):
    """One batch of B examples.

    Attributes:
        x: [B, *input_shape].
        condition: what a conditional model is told of each example, [B] or [B, K]; None for other models.
        index: int64 [B], each example's row in its dataset; None where it has none, a stream for example.
    """

    x: Tensor
    condition: Tensor | None = None
    index: Tensor | None = None  # type: ignore[assignment]  # shadows tuple.index, which nobody calls on a batch

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        condition, index = (None if value is None else value.to(device, non_blocking=True) for value in self[1:])
        return Batch(self.x.to(device, non_blocking=True), condition, index)


class StepContext(NamedTuple):
    """Where in a run a batch is seen.

    Attributes:
        key: int64 [2], the noise of this step; see `vaekit.fold_in` for a second draw.
        step: the optimizer's step, 0, 1, ...; None outside training, where scheduled weights take their final values.
        dataset_size: the number of training examples, where it is known.
        row_start: the number of the batch's first row in what the key draws noise for: so evaluation does not depend on the
            size of its batches.
    """

    key: Tensor
    step: int | None = None
    dataset_size: int | None = None
    row_start: int = 0


class LossTerms(NamedTuple):
    """An objective and its terms, in nats.

    Attributes:
        total: scalar, what is minimised; a mean over the batch (0 for an empty one).
        reconstruction: [B], -log p(x | z), summed over the elements of each x.
        kl: [B], the divergence from the prior, summed over latent dimensions, before any weight.
        extras: further named scalars or [B], for the history.
    """

    total: Tensor
    reconstruction: Tensor
    kl: Tensor
    extras: dict[str, Tensor]


class LatentVariableModel(Protocol):
    """What an objective asks of a model; `condition` is the batch's, [B] or [B, K], None for a model without one."""

    prior: Prior
    likelihood: Likelihood

    def encode(self, x: Tensor, condition: Tensor | None = None) -> Posterior: ...

    def natural_parameters(self, z: Tensor, condition: Tensor | None = None) -> Tensor: ...


class Loss(nn.Module, ABC):
    """An objective, called as loss(model, batch, context).

    Attributes:
        discrete: whether it is one for latents that are codes from a codebook; others are for latents with a density.
    """

    discrete: bool = False

    def __init__(self) -> None:  # torch's own takes any option
        super().__init__()

    @abstractmethod
    def forward(self, model: LatentVariableModel, batch: Batch, context: StepContext) -> LossTerms:
        """The terms of one batch."""


registry: Registry[Loss] = Registry("loss", "vaekit.losses", Loss)

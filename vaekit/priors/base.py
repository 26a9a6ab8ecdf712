"""What every prior offers: a density and draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.conditions.base import Condition
from vaekit.latents import LatentKind
from vaekit.registry import Part, Registry


class Prior(Part, nn.Module, ABC):
    """p(z) over latents of shape [*S].

    A prior with an option `latent_shape` or `input_shape` (what the encoder reads) gets it from `vaekit.create_vae`.

    Attributes:
        latent_shape: S, where the prior is one over latents of that shape only.
        latents: what kind of latents it is over.
        is_standard: whether it is N(0, I).
        any_positions: whether it is one over latents of any number of positions.
        condition: what the prior is told of each example, labels for example: p(z | c); None for a prior that is told nothing. A
            prior that is told sets it to a `vaekit.Condition` of its own, and reads `told_for` where it computes.
    """

    latent_shape: tuple[int, ...] | None = None
    latents: LatentKind = LatentKind.VECTORS | LatentKind.POINTS
    is_standard: bool = False
    any_positions: bool = False

    def __init__(self) -> None:  # nn.Module.__init__ would swallow unknown options
        super().__init__()
        self.condition: Condition | None = None
        self._told: Tensor | None = None

    def given(self, condition: Any, count: int) -> Prior:
        """The prior of `count` examples with these conditions: this one, told what they are; called by the model.

        Args:
            condition: of each example, [count] or [count, K]; one value stands for all.
            count: how many.

        Raises:
            TypeError, ValueError: a condition that is not what the prior is told, or none.
        """
        if self.condition is None:
            return self
        rows = self.condition.as_rows(condition, count)
        weight = next(self.parameters(), torch.zeros(()))
        # A shallow copy: its weights and its class are this one's. torch.compile does not trace copy.copy of a module.
        told: Prior = object.__new__(type(self))
        embedded = self.condition(self.condition.placed(rows, weight.device, weight.dtype))
        vars(told).update({**vars(self), "_told": embedded})
        return told

    def told_for(self, count: int) -> Tensor | None:
        """What the prior is told of `count` draws, [count, condition.dim]: of K draws of each example, example after example.

        None for a prior that is told nothing.

        Raises:
            RuntimeError: a prior that is told something, and was not.
        """
        if self.condition is None:
            return None
        if self._told is None:
            raise RuntimeError(f"this {type(self).__name__} is told a condition: ask prior.given(condition, count)")
        told = self._told
        return told if len(told) == count or not len(told) else told.repeat(count // len(told), 1)

    def attach(self, encoder: nn.Module) -> None:
        """Called by the `vaekit.VAE` that the prior is for, with its encoder: for a prior that is made of posteriors or codes.

        Raises:
            ValueError: the prior belongs to another model.
        """

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats: z [B, *S] -> [B]."""

    @abstractmethod
    def sample(self, shape: Sequence[int], *, key: Tensor, dtype: torch.dtype, row_start: int = 0) -> Tensor:
        """Draws of z.

        Args:
            shape: [n, *S].
            key: int64 [2], the noise, on the device where draws are made; a prior that draws more than z takes
                `fold_in(key, i)`, with i of at least 0, for it.
            row_start: the number of the first draw: draws row_start, row_start + 1, ... of a longer call with that key.

        Returns:
            `dtype` [n, *S].
        """

    def from_noise(self, noise: Tensor) -> Tensor:
        """Draws of z made of standard normal noise [B, *S], for where noise comes from outside: an exported sampler's.

        Raises:
            NotImplementedError: the prior draws more than that, a component for example.
        """
        raise NotImplementedError(f"{type(self).__name__} does not make its draws of standard normal noise alone")


registry: Registry[Prior] = Registry("prior", "vaekit.priors", Prior)

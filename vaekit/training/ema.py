"""A running average of the weights, which is often better than the last of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

import torch
from torch import Tensor, nn

from vaekit.checks import checked_number
from vaekit.training.shards import assign, local, whole


class Average:
    """The exponential moving average of a model's trainable parameters.

    After step n it is decay_n average + (1 - decay_n) weights with decay_n = min(decay, (1 + n) / (10 + n)), so that the weights
    that training began with are soon forgotten. B. T. Polyak, A. B. Juditsky, "Acceleration of Stochastic Approximation by
    Averaging", 1992, doi:10.1137/0330046; with this decay: T. Salimans et al., 2016, arXiv:1606.03498, and TensorFlow's
    ExponentialMovingAverage. Buffers, running averages of batch normalisation for example, are not averaged again.

    Args:
        model: on its device.
        decay: of the average, in (0, 1).

    Raises:
        TypeError, ValueError: another decay.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> average = Average(layer, decay=0.999)
        >>> with average.in_place():  # evaluate or save the averaged weights
        ...     y = layer(torch.ones(1))
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = checked_number("ema", decay, above=0.0, below=1.0)
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._weights: list[Tensor] = list(named.values())
        self._averages = {name: p.detach().clone() for name, p in named.items()}

    @torch.no_grad()
    def update(self, step: int, bad: Tensor | None = None) -> None:
        """Take the weights after step 0, 1, ... in; not those of a step whose flag, a bool scalar on the device, is set."""
        decay = min(self.decay, (1 + step) / (10 + step))
        new = torch.tensor(1.0 - decay, dtype=torch.float64)
        shares: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        for average, weight in zip(self._averages.values(), self._weights, strict=True):
            kind = (average.device, average.dtype)
            if kind not in shares:
                shares[kind] = new.to(*kind) if bad is None else torch.where(bad, 0.0, new.to(*kind))
            local(average).lerp_(local(weight), shares[kind])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages in the model for a while; afterwards the weights again, whenever it is interrupted."""
        held = [weight.detach().clone() for weight in self._weights]
        try:
            self.replace_weights()
            yield
        finally:
            try:
                self._put_back(held)
            except BaseException:  # ^C
                self._put_back(held)
                raise

    @torch.no_grad()
    def restart(self) -> None:
        """Begin with the weights as they are now."""
        for weight, average in zip(self._weights, self._averages.values(), strict=True):
            average.copy_(weight)

    @torch.no_grad()
    def replace_weights(self) -> None:
        """Put the averages into the model for good."""
        for weight, average in zip(self._weights, self._averages.values(), strict=True):
            weight.copy_(average)

    def put_together(self, model: nn.Module) -> Average:
        """The whole averages of the model, which was divided among processes and is whole now; all processes ask for them."""
        named, made = dict(model.named_parameters()), copy(self)
        made._weights = [named[name] for name in self._averages]
        made._averages = {name: whole(average) for name, average in self._averages.items()}
        return made

    def take_apart(self, average: Average) -> None:
        """Go on from what `put_together` gave, each process from its part."""
        for name, tensor in average._averages.items():
            assign(self._averages[name], tensor)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the names of the parameters."""
        return dict(self._averages)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from the averages of `state_dict`.

        Raises:
            ValueError: those of another model.
        """
        if state.keys() != self._averages.keys():
            raise ValueError("the averages are those of a model with other trainable parameters")
        for name, average in self._averages.items():
            average.copy_(state[name])

    @torch.no_grad()
    def _put_back(self, held: list[Tensor]) -> None:
        for weight, before in zip(self._weights, held, strict=True):
            weight.copy_(before)

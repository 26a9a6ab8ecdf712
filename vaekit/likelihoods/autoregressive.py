"""The likelihood of sequences whose every step depends on the steps before it: a decoder that sees x.

S. R. Bowman, L. Vilnis, O. Vinyals, A. M. Dai, R. Jozefowicz, S. Bengio, "Generating Sentences from a Continuous Space", CoNLL
2016, arXiv:1511.06349.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.checks import checked_number, checked_size, checked_sizes
from vaekit.likelihoods.base import Likelihood, registry
from vaekit.likelihoods.support import Support
from vaekit.ops import philox


@registry.register("autoregressive")
class Autoregressive(Likelihood):
    """p(x | z) = product over t of p(x_t | x_1, ..., x_t-1, z), of tokens [T] or of vectors [T, F], by a GRU that sees both.

    The decoder makes a context of z, [B, 1, context]. The GRU, which is this likelihood's own, starts from the context and reads
    it at each step beside the step before; what it gives are the parameters of `step`, the likelihood of one step. So any
    objective and any posterior goes with it, and the bound is that of the whole sequence: nothing of x_t is seen before it is
    scored. It is computed in the precision of the weights, also under `torch.autocast`.
    `mean` takes the mean of each step, of a class the most probable one, and goes on from it; `sample` draws.

    Sequences may be shorter than T: NaN from where they end on, which adds nothing. With `end` that token ends them, also where
    they are made, and its probability is part of the bound; the data has to have it. Without, a length is taken as given, and
    what is made has T steps. NaN between two steps is refused.

    A GRU that sees every step before may leave z alone (posterior collapse). word_dropout hides a step from the next ones at
    random in training, so that z has to tell; a falling weight of the divergence helps as well (the `beta` of an objective).

    Args:
        shape: (T,) of tokens, or (T, F) of vectors.
        step: the likelihood of one step, "gaussian" or {"name": "categorical", "classes": 30} for example.
        context: how many numbers the decoder gives.
        hidden: the size of the GRU's state.
        layers: of the GRU.
        word_dropout: the share of steps that are hidden from the GRU in training, from 0 to 1, where each sees z and no step
            before it.
        end: the number of the token that ends a sequence; None for sequences of a length that is given.

    Raises:
        TypeError, ValueError: another shape; an end that is no class of `step`; a share outside [0, 1].

    Example:
        >>> step = {"name": "categorical", "classes": 4}
        >>> likelihood = Autoregressive((5,), step, context=8, hidden=16, end=0)
        >>> x = torch.tensor([[3.0, 1.0, 2.0, 0.0, torch.nan], [0.0, *[torch.nan] * 4]])
        >>> likelihood.nll(torch.zeros(2, 1, 8), x).shape, likelihood.encoder_input(x).shape
        (torch.Size([2]), torch.Size([2, 5, 5]))
    """

    def __init__(
        self,
        shape: Sequence[int],
        step: str | Mapping[str, Any] | Likelihood,
        context: int = 64,
        hidden: int = 128,
        layers: int = 1,
        word_dropout: float = 0.0,
        end: int | None = None,
    ) -> None:
        super().__init__("ignore")
        self.data_shape = self._shape = checked_sizes("shape", shape)
        if len(self.data_shape) not in (1, 2):
            raise ValueError(f"shape has to be (T,) of tokens or (T, F) of vectors, got {self.data_shape}")
        self.step = registry.build(step, offers={"missing": "ignore"})
        if self.step.missing != "ignore":
            raise ValueError('the steps after the end of a sequence are missing, so that step has to have missing="ignore"')
        self._of_step = self.data_shape[1:] or (1,)
        self.step.set_data_shape(self._of_step)
        self.is_nominal = self.step.is_nominal
        self.support = Support(f"sequences of steps that are {self.step.support.words}")
        self.context = checked_size("context", context)
        self.word_dropout = checked_number("word_dropout", word_dropout, least=0.0, most=1.0)
        self.end = end if end is None else checked_size("end", end, least=0)
        if end is not None and (self.data_shape[1:] or not self.step.is_nominal or end >= self.step.parameters_per_element):
            raise ValueError(f"end={end} has to be the number of a class of step, in sequences of tokens (T,)")
        features = math.prod(self.step.encoder_input_shape(self._of_step))
        self._per_step = (self.step.parameters_per_element, *self.step.decoder_output_shape(self._of_step))
        self.start = nn.Linear(self.context, layers * checked_size("hidden", hidden))
        # Beside the step before it sees whether there is one that is not hidden.
        self.network = nn.GRU(features + 1 + self.context, hidden, checked_size("layers", layers), batch_first=True)
        self.head = nn.Linear(hidden, math.prod(self._per_step))

    def step_parameters(self, parameters: Tensor, x: Tensor) -> Tensor:
        """The parameters of each step, given those before it: parameters [B, 1, context], x [B, T(, F)] -> [B, T, P, ...]."""
        self._check_shapes(parameters, x)
        shown = self._shown(x)
        before = torch.cat([torch.zeros_like(shown[:, :1]), shown[:, :-1]], 1)
        if self.training and self.word_dropout:
            kept = torch.rand(before.shape[:2], device=x.device) >= self.word_dropout
            before = before * kept.unsqueeze(2).to(before.dtype)
        context = parameters.expand(-1, x.shape[1], -1)
        states, _ = self.network(torch.cat([before, context.to(before.dtype)], 2), self._first_state(parameters))
        each: Tensor = self.head(states).unflatten(2, self._per_step)
        return each

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        """-log p(x | z) of the sequence up to its end: parameters [B, 1, context], x [B, T] or [B, T, F] -> [B], in nats."""
        steps = self.step_parameters(parameters, x)
        own = self.step.nll(steps.flatten(0, 1), x.reshape(-1, *self._of_step))
        return own.view(x.shape[:2]).sum(1)

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        steps = self.step_parameters(parameters, x)
        return self.step.element_nll(steps.flatten(0, 1), x.reshape(-1, *self._of_step)).reshape(x.shape)

    def mean(self, parameters: Tensor) -> Tensor:
        """What goes on from the mean of each step: [B, 1, context] -> [B, T] or [B, T, F], NaN after the end."""
        return self._made(parameters, lambda step, _: self.step.mean(step))

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        """A draw step by step, NaN after the end; step t has the noise of fold_in(key, t)."""
        return self._made(
            parameters, lambda step, time: self.step.sample(step, key=philox.fold_in(key, time), row_start=row_start)
        )

    def expected_statistics(self, parameters: Tensor) -> Tensor:
        raise NotImplementedError("the steps of a sequence that are missing depend on those that are there, and are not imputed")

    def encoder_input(self, x: Tensor) -> Tensor:
        """What `step` shows of every step, and whether it is there: [B, T] or [B, T, F] -> [B, T, Q + 1], 0 after the end."""
        return self._shown(x)

    def encoder_input_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        self._check_data_shape(super().encoder_input_shape(shape)[: len(shape)], shape)
        return (self._shape[0], math.prod(self.step.encoder_input_shape(self._of_step)) + 1)

    def decoder_output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        self._check_data_shape(shape, shape)
        return (self.context,)

    def check(self, x: Tensor) -> None:
        """Raise ValueError if a step is missing before another, a value lies outside the support, or an end is not the last."""
        present = ~x.reshape(*x.shape[:2], math.prod(self._of_step)).isnan()
        if (present.any(2) != present.all(2)).any() or (~present[:, :-1, 0] & present[:, 1:, 0]).any():
            raise ValueError("a step is missing before the end of a sequence; NaN is for the steps after it")
        self.step.check(x.reshape(-1, *self._of_step))
        if self.end is None:
            return
        last = present[..., 0] & ~torch.cat([present[:, 1:, 0], torch.zeros_like(present[:, :1, 0])], 1)
        ends = x == self.end
        if (ends & ~last).any() or (last & ~ends)[:, :-1].any():
            raise ValueError(
                f"sequences end with the token {self.end} and have it nowhere else, unless they are longer than {x.shape[1]} "
                "steps; vaekit.data.sequences(..., end=...) makes them so"
            )

    def _shown(self, x: Tensor) -> Tensor:
        """Features of every step and a 1 where it is there, 0 elsewhere: [B, T, Q + 1]."""
        flat = x.reshape(-1, *self._of_step)
        features = self.step.encoder_input(flat).flatten(1).unflatten(0, x.shape[:2])
        return torch.cat([features, (~flat[:, :1].isnan()).to(x.dtype).unflatten(0, x.shape[:2])], 2)

    def _first_state(self, parameters: Tensor) -> Tensor:
        state: Tensor = torch.tanh(self.start(parameters[:, 0]))
        by_layer = state.view(state.shape[0], self.network.num_layers, self.network.hidden_size)
        return by_layer.transpose(0, 1).contiguous()

    def _made(self, parameters: Tensor, made: Callable[[Tensor, int], Tensor]) -> Tensor:
        """A sequence of which each step is made of its parameters and its number."""
        return torch.stack(list(self._steps(parameters, made)), 1).to(parameters.dtype)

    def _steps(self, parameters: Tensor, made: Callable[[Tensor, int], Tensor]) -> Iterator[Tensor]:
        self._check_shapes(parameters)
        state, rows = self._first_state(parameters), parameters.shape[0]
        before = parameters.new_zeros(rows, self.network.input_size - self.context)
        is_over = torch.zeros(rows, dtype=torch.bool, device=parameters.device)
        for time in range(self._shape[0]):
            output, state = self.network(torch.cat([before.unsqueeze(1), parameters.to(before.dtype)], 2), state)
            step = made(self.head(output[:, 0]).unflatten(1, self._per_step), time)  # [B, F]
            step = step.masked_fill(is_over.unsqueeze(1), torch.nan)
            if self.end is not None:
                is_over = is_over | (step[:, 0] == self.end)
            before = self._shown(step.unsqueeze(1))[:, 0]
            yield step if len(self._shape) == 2 else step[:, 0]

    def _check_data_shape(self, shape: Sequence[int], given: Sequence[int]) -> None:
        if tuple(shape) != self.data_shape:
            raise ValueError(f"the likelihood 'autoregressive' is made for sequences {self.data_shape}, got {tuple(given)}")

    def _check_shapes(self, parameters: Tensor, x: Tensor | None = None) -> None:
        if parameters.shape[1:] != (1, self.context):
            raise ValueError(f"Autoregressive takes a context [batch, 1, {self.context}], got {tuple(parameters.shape)}")
        if x is not None:
            self._check_data_shape(x.shape[1:], x.shape[1:])

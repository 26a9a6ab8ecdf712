"""Draws from q(z | x) with their importance weights, a few at a time, and sums over all of them.

The weight of a draw is w = p(x | z) p(z) / q(z | x): Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders",
ICLR 2016, arXiv:1509.00519, section 3; the effective sample size: A. Kong, "A note on importance sampling using standardized
weights", 1992. The sums are of weights relative to the largest so far, which rescales the earlier ones: M. Milakov,
N. Gimelshein, "Online normalizer calculation for softmax", 2018, arXiv:1805.02867.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.conditions.base import Condition
from vaekit.data import Batch, Batches
from vaekit.evaluation.terms import on_device
from vaekit.latents import LatentKind
from vaekit.likelihoods.base import Likelihood
from vaekit.losses.draws import repeated
from vaekit.ops import philox, streams
from vaekit.ops.precision import wide
from vaekit.vae import VAE

_ELEMENTS_AT_ONCE = 1 << 18  # of decoded data: a decoder's activations are some hundred times as large
_NUMBERS_HELD = 1 << 24  # of all draws of z, and of x, for the examples of a piece


class Draws(NamedTuple):
    """k draws of z for each of B examples.

    Attributes:
        z: [k, B, *latent_shape].
        likelihood: of each element of x given z and what is observed.
        parameters: [k B, P, *output_shape], its own.
        log_weights: [k, B], in nats; float64 on the CPU.
        condition: [k, B] or [k, B, K], what each draw was decoded with; None for a model without one.
    """

    z: Tensor
    likelihood: Likelihood
    parameters: Tensor
    log_weights: Tensor
    condition: Tensor | None


def weighted_draws(vae: VAE, batch: Batch, key: Tensor, row_start: int, num_samples: int, at_once: int) -> Iterator[Draws]:
    """`num_samples` draws for each example, in chunks of at most `at_once` latents, or of one for each example.

    Args:
        vae: the model, in evaluation mode.
        batch: on its device.
        key: int64 [2], the noise.
        row_start: the first example's number among all, which has its noise. The draws depend on no chunk.
        num_samples: K.
        at_once: latents that are decoded at a time.
    """
    family = vae.encoder.family
    if family.latents & LatentKind.POINTS:
        raise TypeError(
            f"log p(x) is weighed up from draws of q(z | x), but {type(family).__name__} gives a single point for each example; "
            "take a model with another posterior, 'diagonal_gaussian' for example"
        )
    examples, latents = len(batch.x), _latents_of(vae, batch, row_start)
    chunk = max(1, at_once // max(1, examples))
    for first in range(0, num_samples, chunk):
        count = min(chunk, num_samples - first)
        # Sample k is the stream with offset + k 2^40: so the samples do not depend on the chunks.
        z, log_ratio, told = latents(key + torch.tensor([0, first], device=key.device) * philox.SAMPLE_STRIDE, count)
        condition = None if told is None else told.flatten(0, 1)
        parameters, x = vae.natural_parameters(z.flatten(0, 1), condition), repeated(batch.x, count)
        nll = vae.likelihood.nll(parameters, x).view(count, examples)
        log_weights = -(nll.cpu().double() + log_ratio.cpu().double())  # MPS has no float64
        yield Draws(z, *vae.likelihood.given_observed(parameters, x), log_weights, told)


_Latents = Callable[[Tensor, int], tuple[Tensor, Tensor, "Tensor | None"]]


def _latents_of(vae: VAE, batch: Batch, row_start: int) -> _Latents:
    """What draws, with a key, k latents of each example: z [k, B, *S], log q - log p [k, B] and the condition, [k, B, ...].

    A condition that is missing is drawn too, from q(c | x), and its log q(c | x) - log p(c) is part of the log ratio: the weights
    are then those of log p(x), not of log p(x | c).
    """
    if vae.condition is not None and vae.condition.infers:
        told = vae.condition.as_rows(batch.condition, len(batch.x))
        if vae.condition.is_missing(told).any():
            return _latents_of_classes(vae, batch.x, told, vae.condition, row_start)
    posterior, prior = vae.encode(batch.x, batch.condition), vae.prior_given(batch.condition, len(batch.x))

    def draw(key: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor | None]:
        z, log_ratio = posterior.rsample_log_ratio(prior, key=key, num_samples=count, row_start=row_start)
        return z, log_ratio, None if batch.condition is None else batch.condition.expand(count, *batch.condition.shape)

    return draw


def _latents_of_classes(vae: VAE, x: Tensor, told: Tensor, condition: Condition, row_start: int) -> _Latents:
    values, missing, own = condition.values(told.device).to(told.dtype), condition.is_missing(told), condition.numbers(told)
    log_posterior = condition.log_posterior(vae.likelihood.encoder_input(x)).cpu().double()
    log_ratios = log_posterior - condition.log_prior().cpu().double()
    below = log_posterior.exp().cumsum(1)
    given = [value.expand(len(x), *value.shape) for value in values]
    each = [(vae.encode(x, one), vae.prior_given(one, len(x))) for one in given]

    def draw(key: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor | None]:
        samples = torch.arange(count, device=key.device)
        keys = philox.fold_in(key, streams.Step.CLASS) + torch.stack((0 * samples, samples), 1) * philox.SAMPLE_STRIDE
        places = philox.uniform(keys.cpu(), (len(x),), torch.float64, row_start).T * below[:, -1:]
        number = torch.searchsorted(below, places.contiguous()).clamp(max=len(values) - 1).T.to(x.device)
        number = torch.where(missing, number, own)
        drawn = [q.rsample_log_ratio(p, key=key, num_samples=count, row_start=row_start) for q, p in each]
        z, log_ratio = (torch.stack(some, dim=2) for some in zip(*drawn, strict=True))  # [k, B, V, ...]
        rows = torch.arange(len(x), device=x.device)
        of_draw = torch.arange(count, device=x.device)[:, None]
        of_class = torch.where(missing.cpu(), log_ratios[rows.cpu(), number.cpu()], 0.0).to(log_ratio.device, log_ratio.dtype)
        return z[of_draw, rows, number], log_ratio[of_draw, rows, number] + of_class, values[number]

    return draw


class WeightSums:
    """Sums over the draws for each of B examples: of the weights, of their squares, and of weighted values.

    Example:
        >>> sums = WeightSums(1)
        >>> sums.add(torch.tensor([[-1000.0], [-1000.0]]), torch.tensor([[[2.0]], [[4.0]]]))
        >>> sums.add(torch.tensor([[-1000.0]]), torch.tensor([[[6.0]]]))
        >>> sums.mean, sums.effective_sample_size
        (tensor([[4.]], dtype=torch.float64), tensor([3.], dtype=torch.float64))
    """

    def __init__(self, examples: int) -> None:
        self._largest = torch.full((examples,), -math.inf, dtype=torch.float64)  # of log w so far
        self._total, self._squares = (torch.zeros_like(self._largest) for _ in range(2))
        self._values: Tensor | None = None
        self._draws = 0

    def add(self, log_weights: Tensor, values: Tensor | None = None) -> None:
        """Add k draws: log_weights [k, B], and values [k, B, *S], each time of the same S, or none."""
        log_weights = log_weights.double()
        before, self._largest = self._largest, torch.maximum(self._largest, log_weights.amax(0))
        origin = self._origin
        kept, weights = torch.exp(before - origin), torch.exp(log_weights - origin)
        self._total = self._total * kept + weights.sum(0)
        self._squares = self._squares * kept.square() + weights.square().sum(0)
        self._draws += len(log_weights)
        if values is not None:
            dtype, after = wide(values.device), (1,) * (values.ndim - 2)
            added = torch.einsum("kb,kb...->b...", weights.to(values.device, dtype), values.to(dtype))
            if self._values is not None:
                added += self._values * kept.to(values.device, dtype).view(-1, *after)
            self._values = added

    @property
    def log_sum(self) -> Tensor:
        """log sum_k w_k, float64 [B]."""
        return self._total.log() + self._origin

    @property
    def effective_sample_size(self) -> Tensor:
        """(sum_k w_k)^2 / sum_k w_k^2, float64 [B], between 1 and the number of draws; NaN where every weight is 0."""
        return (self._total.square() / self._squares).clamp(1.0, self._draws)

    @property
    def mean(self) -> Tensor:
        """sum_k w_k values_k / sum_k w_k, [B, *S], wide, on the values' device; NaN where every weight is 0."""
        assert self._values is not None
        total = self._total.to(self._values.device, self._values.dtype)
        return self._values / total.view(-1, *(1,) * (self._values.ndim - 1))

    @property
    def _origin(self) -> Tensor:
        return torch.where(self._largest.isfinite(), self._largest, 0.0)


class Piece(NamedTuple):
    """A few examples, on the model's device.

    Attributes:
        batch: the examples.
        row_start: the first one's number among all.
        at_once: how many latents may be decoded at a time, so that activations take bounded memory.
    """

    batch: Batch
    row_start: int
    at_once: int


def pieces(vae: VAE, batches: Batches, num_samples: int, row_start: int = 0, copies: int = 0) -> Iterator[Piece]:
    """All examples, a few at a time, whatever batches they come in; of each, `copies` are held beside its draws of z."""
    at_once = max(1, _ELEMENTS_AT_ONCE // math.prod(vae.input_shape))
    held = num_samples * math.prod(vae.latent_shape) + copies * math.prod(vae.input_shape)
    size = min(at_once, max(1, _NUMBERS_HELD // held))
    for batch in on_device(vae, batches):
        for first in range(0, len(batch.x), size):
            piece = batch.rows(slice(first, first + size))
            yield Piece(piece, row_start, at_once)
            row_start += len(piece.x)

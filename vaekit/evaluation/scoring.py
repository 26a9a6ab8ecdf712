"""How probable each example is, and each element of it: log p(x) from draws of z with their importance weights.

Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, arXiv:1509.00519, equation 8. With K draws
z_k from q(z | x), of the weights w_k = p(x | z_k) p(z_k) / q(z_k | x), and with v_k = w_k / sum_i w_i:

- log p(x), from below in expectation: log 1/K sum_k w_k;
- of element j the part of the nll that is its own, as E[-log p(x_j | z) | x]: sum_k v_k (-log p(x_j | z_k)). Summed over j, and
  with the divergence of p(z | x) from p(z), it is -log p(x);
- of element j how surprising it is given all others, -log p(x_j | x_others) = log E[1 / p(x_j | z) | x]:
  log sum_k v_k / p(x_j | z_k).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.checks import checked_flag, checked_number, checked_size
from vaekit.evaluation.terms import evaluation_key
from vaekit.evaluation.weighting import Draws, Piece, WeightSums, pieces, weighted_draws
from vaekit.inputs import check_model, checked_batches
from vaekit.modes import evaluation_mode
from vaekit.ops import philox
from vaekit.vae import VAE

_BATCH = 1000  # examples that are read at a time


class Scores(NamedTuple):
    """log p(x) of each example, in nats, on the CPU; what is missing in x is integrated out.

    Attributes:
        log_likelihood: float64 [N], log p(x): the lower, the less the model has seen of its kind.
        effective_sample_size: float64 [N], of the weights, between 1 and the number of samples; NaN where every weight is 0.
        element_nll: float64 [N, *input_shape], E[-log p(x_j | z) | x]: how badly the model fits each element even knowing it.
            None where elements were not asked for; NaN where x is missing.
        surprise: float64 [N, *input_shape], -log p(x_j | x_others): how improbable each element is, given all others of its
            example. None and NaN likewise.
    """

    log_likelihood: Tensor
    effective_sample_size: Tensor
    element_nll: Tensor | None
    surprise: Tensor | None

    def threshold(self, share: float) -> float:
        """The score below which at most this share of the examples lies: of ordinary examples, the limit of the ordinary.

        Args:
            share: from 0 to 1, 0.05 for example.

        Raises:
            TypeError, ValueError: a share that is no number from 0 to 1; a score that is NaN.

        Example:
            >>> scores = Scores(torch.arange(100.0).double(), torch.ones(100).double(), None, None)
            >>> limit = scores.threshold(0.05)
            >>> limit, int((scores.log_likelihood < limit).sum())
            (4.0, 4)
        """
        share = checked_number("share", share, least=0.0, most=1.0)
        if bad := int(self.log_likelihood.isnan().sum()):
            raise ValueError(f"{bad} of {len(self.log_likelihood)} scores are NaN, beside which no other is high or low")
        return float(np.quantile(self.log_likelihood.numpy(), share, method="lower"))


def score(
    vae: VAE,
    data: Any,
    *,
    elements: bool = False,
    samples: int = 500,
    seed: int = 0,
    key: Tensor | None = None,
    row_start: int = 0,
) -> Scores:
    """log p(x) of each example by the importance-weighted bound, and if asked for what each element has to do with it.

    Args:
        vae: the model; it stays on its device.
        data: what `vaekit.evaluate` takes.
        elements: score each element, of a table each column, as well.
        samples: K, draws of z for each example.
        seed: fixes the noise.
        key: int64 [2], on the model's device; fixes it instead.
        row_start: the first example's number in larger data, whose scores for these rows are then made.

    Returns:
        `Scores`. Those of an example are the same to rounding however many others there are.

    Raises:
        NotImplementedError: elements of a likelihood that has no nll of an element.
        TypeError: something else than a model.
        ValueError: an empty dataset, data that does not fit the model, sizes below 1.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(3,), latent_dim=1, likelihood="gaussian")
        >>> scores = score(vae, torch.tensor([[1.0, 0.0, 2.0], [0.0, 9.0, 0.0]]), elements=True)
        >>> bool(scores.log_likelihood[0] > scores.log_likelihood[1]), int(scores.surprise[1].argmax())
        (True, 1)
    """
    parts = list(scores(vae, data, elements=elements, samples=samples, seed=seed, key=key, row_start=row_start))
    columns: list[Any] = [None if part[0] is None else torch.cat(part) for part in zip(*parts, strict=True)]
    return Scores(*columns)


def scores(
    vae: VAE,
    data: Any,
    *,
    elements: bool = False,
    samples: int = 500,
    seed: int = 0,
    key: Tensor | None = None,
    row_start: int = 0,
) -> Iterator[Scores]:
    """`score` for data that does not fit into memory: the parts, a few examples each, whose concatenation it is.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(3,), latent_dim=1, likelihood="gaussian")
        >>> sum(len(part.log_likelihood) for part in scores(vae, torch.zeros(250, 3), samples=2))
        250
    """
    checked_flag("elements", elements)
    checked_size("samples", samples)
    checked_size("row_start", row_start, least=0)
    check_model(vae)
    key = evaluation_key(seed).to(vae.device) if key is None else philox.resolve_key(key, None, vae.device)
    batches = checked_batches(vae, data, _BATCH)
    return (_scored(vae, piece, key, samples, elements) for piece in pieces(vae, batches, samples, row_start))


@torch.no_grad()
def _scored(vae: VAE, piece: Piece, key: Tensor, samples: int, elements: bool) -> Scores:
    x = piece.batch.x
    sums, without = WeightSums(len(x)), WeightSums(x.numel())  # of w, and of each element w / p(x_j | z)
    with evaluation_mode(vae):
        for draws in weighted_draws(vae, piece.batch, key, piece.row_start, samples, piece.at_once):
            if not elements:
                sums.add(draws.log_weights)
                continue
            nll = _element_nll(draws, x)
            sums.add(draws.log_weights, nll)
            own = draws.log_weights.view(*nll.shape[:2], *(1,) * (nll.ndim - 2))
            without.add((own + nll.cpu().double()).flatten(1))
    log_likelihood = sums.log_sum - math.log(samples)
    if not elements:
        return Scores(log_likelihood, sums.effective_sample_size, None, None)
    missing, each = x.isnan().cpu(), (-1, *(1,) * (x.ndim - 1))
    surprise = without.log_sum.view(x.shape) - sums.log_sum.view(each)
    own_nll = sums.mean.cpu().double().masked_fill(missing, math.nan)
    return Scores(log_likelihood, sums.effective_sample_size, own_nll, surprise.masked_fill(missing, math.nan))


def _element_nll(draws: Draws, x: Tensor) -> Tensor:
    """The nll of each element under each of k draws, of some value where x is missing: [k, B, *S]."""
    count = len(draws.z)
    filled = x.masked_fill(x.isnan(), draws.likelihood.support.filler).expand(count, *x.shape).flatten(0, 1)
    nll = draws.likelihood.element_nll(draws.parameters, filled)
    return nll.view(count, *x.shape)

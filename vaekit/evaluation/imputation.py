"""Missing values, from what a model makes of the observed ones.

P.-A. Mattei, J. Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets", 2019, arXiv:1812.02633,
section 3. Draws z_k from q(z | x_obs) have the weights w_k = p(x_obs | z_k) p(z_k) / q(z_k | x_obs). Single imputation is the
self-normalised estimate of E[x_mis | x_obs], equation 12: sum_k w_k E[x_mis | z_k] / sum_k w_k. Multiple imputation is
sampling importance resampling, section 3.2: z_k with probability w_k / sum_k w_k, and then x_mis from p(x_mis | z_k).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.checks import checked_size
from vaekit.evaluation.terms import evaluation_key
from vaekit.evaluation.weighting import Piece, WeightSums, pieces, weighted_draws
from vaekit.inputs import check_model, checked_batches
from vaekit.memory import check_room
from vaekit.modes import evaluation_mode
from vaekit.ops import philox, streams
from vaekit.vae import VAE

_BATCH = 1000  # examples that are read at a time


class Imputation(NamedTuple):
    """Data whose missing values are filled; the observed ones are those that were given, bit for bit. On the CPU.

    Attributes:
        x: [N, *input_shape], with the mean of each missing value given the observed ones, of a class the most probable one.
        draws: [M, N, *input_shape], with draws from the distribution of the missing values given the observed ones; None where
            none were asked for.
        effective_sample_size: float64 [N], of the weights: between 1, where one draw of z outweighs all others and more samples
            are needed, and the number of samples. NaN where every weight is 0: what was missing is NaN then still.
    """

    x: Tensor
    draws: Tensor | None
    effective_sample_size: Tensor


def impute(
    vae: VAE,
    data: Any,
    *,
    draws: int | None = None,
    samples: int = 500,
    seed: int = 0,
    key: Tensor | None = None,
    row_start: int = 0,
) -> Imputation:
    """Fill the missing values of data, NaN, by importance weighting.

    Args:
        vae: the model; it stays on its device. Its likelihood has to ignore missing values: of the others a model has learned
            nothing by which it could tell what is missing.
        data: what `vaekit.evaluate` takes.
        draws: M, how many values are drawn for each missing one, so that what is computed from each of M completed datasets
            shows how uncertain it is; None for the mean alone.
        samples: K, draws of z for each example.
        seed: fixes the noise.
        key: int64 [2], on the model's device; fixes it instead.
        row_start: the first example's number in larger data, whose imputation for these rows is then made.

    Returns:
        an `Imputation`. Example n, and draw m of it, are the same to rounding however many others there are.

    Raises:
        MemoryError: more draws than there is room for.
        TypeError: something else than a model.
        ValueError: a model whose likelihood refuses missing values; an empty dataset, data that does not fit the model, sizes
            below 1.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(3,), latent_dim=1, likelihood={"name": "gaussian", "missing": "ignore"})
        >>> filled = impute(vae, torch.tensor([[1.0, float("nan"), 2.0]]), draws=5)
        >>> filled.x.isfinite().all(), filled.draws.shape
        (tensor(True), torch.Size([5, 1, 3]))
    """
    parts = list(imputations(vae, data, draws=draws, samples=samples, seed=seed, key=key, row_start=row_start))
    drawn = None if draws is None else torch.cat([part.draws for part in parts if part.draws is not None], 1)
    return Imputation(torch.cat([part.x for part in parts]), drawn, torch.cat([part.effective_sample_size for part in parts]))


def imputations(
    vae: VAE,
    data: Any,
    *,
    draws: int | None = None,
    samples: int = 500,
    seed: int = 0,
    key: Tensor | None = None,
    row_start: int = 0,
) -> Iterator[Imputation]:
    """`impute` for data that does not fit into memory: the parts, a few examples each, whose concatenation it is.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(3,), latent_dim=1, likelihood={"name": "gaussian", "missing": "ignore"})
        >>> sum(len(part.x) for part in imputations(vae, torch.full((250, 3), torch.nan), samples=2))
        250
    """
    checked_size("samples", samples)
    checked_size("row_start", row_start, least=0)
    if draws is not None:
        checked_size("draws", draws)
    check_model(vae)
    _check_likelihood(vae)
    key = evaluation_key(seed).to(vae.device) if key is None else philox.resolve_key(key, None, vae.device)
    batches = checked_batches(vae, data, _BATCH)
    if draws is not None:
        check_room(draws, vae.input_shape, vae.dtype, torch.device("cpu"))  # of one example
    return (_imputed(vae, piece, key, samples, draws) for piece in pieces(vae, batches, samples, row_start, draws or 0))


def _check_likelihood(vae: VAE) -> None:
    if vae.likelihood.missing != "ignore":
        name = type(vae.likelihood).__name__
        raise ValueError(
            f"the model's likelihood, {name}, refuses missing values, so the model has not learned to do without them; train one "
            'whose likelihood ignores them, likelihood={"name": ..., "missing": "ignore"} or vaekit train --set '
            "likelihood.missing=ignore, on data with or without missing values"
        )


@torch.no_grad()
def _imputed(vae: VAE, piece: Piece, key: Tensor, samples: int, draws: int | None) -> Imputation:
    x = piece.batch.x
    sums, kept = WeightSums(len(x)), []
    with evaluation_mode(vae):
        for drawn in weighted_draws(vae, piece.batch, key, piece.row_start, samples, piece.at_once):
            expected, value_of = drawn.likelihood.expected_statistics(drawn.parameters), drawn.likelihood.value_of
            sums.add(drawn.log_weights, expected.unflatten(0, drawn.log_weights.shape))
            if draws is not None:
                kept.append((drawn.z, drawn.log_weights, drawn.condition))
        mean = value_of(sums.mean)
        filled = None
        if draws is not None:
            z, log_weights, told = zip(*kept, strict=True)
            condition = None if told[0] is None else torch.cat(told)
            filled = _resampled(vae, piece, torch.cat(z), torch.cat(log_weights), condition, key, draws)
    # Where every weight is 0 there is no distribution to take a mean of, or a class.
    missing, usable = x.isnan(), sums.log_sum.isfinite().to(x.device).view(-1, *(1,) * (x.ndim - 1))
    to_fill = missing & usable
    return Imputation(
        torch.where(to_fill, mean.to(x.dtype), x).cpu(),
        None if filled is None else torch.where(to_fill, filled, x).cpu(),
        sums.effective_sample_size,
    )


def _resampled(
    vae: VAE, piece: Piece, z: Tensor, log_weights: Tensor, condition: Tensor | None, key: Tensor, draws: int
) -> Tensor:
    """Draws of x from K draws z [K, B, *S] with their weights [K, B] and conditions [K, B, ...]: [M, B, *input_shape]."""
    batch, row_start = piece.batch, piece.row_start
    own, numbers = philox.fold_in(key, streams.Step.IMPUTATION), torch.arange(draws, device=key.device)
    choice, data = (
        philox.fold_in(philox.fold_in(own, stream), numbers) for stream in (streams.Imputation.CHOICE, streams.Imputation.DATA)
    )
    cumulative = log_weights.softmax(0).cumsum(0).T.contiguous()
    places = philox.uniform(choice.cpu(), (len(batch.x),), torch.float64, row_start).T * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, places.contiguous()).clamp(max=len(z) - 1).to(z.device)
    rows, drawn = torch.arange(len(batch.x), device=z.device), []
    for of_draw, data_key in zip(chosen.unbind(1), data, strict=True):
        parameters = vae.natural_parameters(z[of_draw, rows], None if condition is None else condition[of_draw, rows])
        likelihood, parameters = vae.likelihood.given_observed(parameters, batch.x)
        drawn.append(likelihood.sample(parameters, key=data_key, row_start=row_start))
    return torch.stack(drawn).to(batch.x.dtype)

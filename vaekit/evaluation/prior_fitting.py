"""A prior fitted to what a trained model makes of the data: the second of two stages.

A. van den Oord, O. Vinyals, K. Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937, section 3.3; for
vectors: P. Ghosh et al., "From Variational to Deterministic Autoencoders", 2020, arXiv:1903.12436, section 4.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit import priors, seeding
from vaekit.checks import checked_number, checked_size
from vaekit.compatibility import check_latents_of
from vaekit.evaluation.sampler import fitted_codes, fitted_mixture
from vaekit.evaluation.terms import evaluation_key, on_device
from vaekit.inputs import checked_batches
from vaekit.modes import evaluation_mode
from vaekit.posteriors.codes import CodePosterior
from vaekit.priors import CodePrior, Codes, GaussianMixture, Prior
from vaekit.vae import VAE

_ROWS_AT_ONCE = 500
_WARM_UP = 0.05  # of the steps, in which the learning rate rises


class _Encoded(NamedTuple):
    """What a model makes of the data, on its device: codes by their numbers or draws of z, and the conditions where asked for."""

    latents: Tensor
    condition: Tensor | None

    def rows(self, rows: Tensor) -> _Encoded:
        return _Encoded(self.latents[rows], None if self.condition is None else self.condition[rows])


def fit_prior(
    vae: VAE,
    data: Any,
    prior: str | Mapping[str, Any] | Prior = "autoregressive_codes",
    *,
    validation: Any = None,
    epochs: int = 30,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    seed: int = 0,
) -> Prior:
    """A prior that is fitted to the codes of a trained model, so that draws from it look like the data.

    The model is looked at once, and stays as it is: `vae.sample(16, prior=fit_prior(vae, train))`. As its own prior, `vae.prior =
    fit_prior(vae, train)`, the prior makes `kl` the length of the codes in nats, and the bound of log p(x) the higher; it is
    saved with the model. The posterior is not told, so that the bound has no part in the fit.

    "codes" is counted and "gaussian_mixture" fitted by EM; every other prior with weights, over codes or over vectors
    ("flow", "diagonal_gaussian", "vamp"), by Adam with decoupled weight decay, a learning rate that rises for a twentieth of the
    steps and falls to 0 by a cosine. Vectors are drawn from the posterior of each example, once. A prior with a condition is told
    the label or the vector that goes with each example, whether or not the model is.

    Args:
        vae: the model; it stays on its device.
        data: what `vaekit.evaluate` takes: the training data as a rule, with labels where the prior is told them.
        prior: a name, {"name": ..., option: ...}, or a `vaekit.Prior`; it is fitted further where it has been already.
        validation: data on which the prior is looked at after each epoch; the best one is kept. None keeps the last.
        epochs, batch_size, learning_rate, weight_decay: of the fit.
        seed: fixes the prior's first weights, the order and the draws.

    Returns:
        the prior, attached to the model, on its device and in its dtype, in evaluation mode.

    Raises:
        TypeError, ValueError: a prior that does not go with the model or has nothing to fit; data that does not fit the model;
            a prior that is told a condition, and data without.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae("vq-mnist", seed=0)
        >>> x, labels = torch.rand(20, 1, 28, 28), torch.arange(20) % 10
        >>> small = {"name": "autoregressive_codes", "width": 16, "layers": 1, "condition": {"name": "labels", "classes": 10}}
        >>> vae.sample(5, condition=3, prior=fit_prior(vae, (x, labels), small, epochs=1)).shape
        torch.Size([5, 1, 28, 28])
    """
    for name, size in (("epochs", epochs), ("batch_size", batch_size)):
        checked_size(name, size)
    checked_number("learning_rate", learning_rate, above=0.0)
    checked_number("weight_decay", weight_decay, least=0.0)
    with seeding.drawing_from(seed):
        offers = {"latent_shape": vae.latent_shape, "input_shape": vae.encoder.input_shape}
        fitted = priors.registry.build(prior, offers=offers)
        check_latents_of("prior", fitted, vae.encoder)
        fitted.attach(vae.encoder)
    fitted = fitted.to(next(vae.parameters()))
    if type(fitted) is Codes:
        return fitted_codes(vae, data)
    if type(fitted) is GaussianMixture:
        mixture = fitted_mixture(vae, data, components=len(fitted.logits), seed=seed)
        mixture.attach(vae.encoder)
        return mixture.eval()
    if not any(weight.requires_grad for weight in fitted.parameters()):
        raise ValueError(f"{type(fitted).__name__} has no weights that could be fitted to codes")
    train, held = (None if some is None else _encoded(vae, some, fitted, seed) for some in (data, validation))
    assert train is not None
    weights = [weight for weight in fitted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=weight_decay)
    device = train.latents.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(seed)
        _train(fitted, train, held, optimizer, epochs, batch_size)
    return fitted.eval()


def _train(
    prior: Prior, train: _Encoded, held: _Encoded | None, optimizer: torch.optim.Optimizer, epochs: int, batch_size: int
) -> None:
    """Minimise the mean of -log p; keep the weights that were best on what is held out."""
    count, best, kept = len(train.latents), math.inf, None
    steps = epochs * -(-count // batch_size)
    warm = max(1, round(_WARM_UP * steps))

    def share(step: int) -> float:
        return (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))

    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    for _ in range(epochs):
        prior.train()
        for rows in torch.randperm(count).to(train.latents.device).split(batch_size):
            optimizer.zero_grad()
            (-_log_prob(prior, train.rows(rows)).mean()).backward()
            torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
            optimizer.step()
            rate.step()
        if held is not None and (nats := _nats(prior, held)) < best:
            best, kept = nats, copy.deepcopy(prior.state_dict())
    if kept is not None:
        prior.load_state_dict(kept)


@torch.no_grad()
def _nats(prior: Prior, held: _Encoded) -> float:
    """The mean of -log p in evaluation mode."""
    prior.eval()
    parts = [-_log_prob(prior, held.rows(rows)).double().sum() for rows in torch.arange(len(held.latents)).split(_ROWS_AT_ONCE)]
    return float(torch.stack(parts).sum()) / len(held.latents)


def _log_prob(prior: Prior, encoded: _Encoded) -> Tensor:
    """[B], in nats."""
    told = prior.given(encoded.condition, len(encoded.latents))
    if isinstance(told, CodePrior):
        return told.log_prob_of(encoded.latents, next(told.parameters()).dtype)
    return told.log_prob(encoded.latents)


@torch.no_grad()
def _encoded(vae: VAE, data: Any, prior: Prior, seed: int) -> _Encoded:
    """The codes of the data, or a draw of z for each example."""
    batches = checked_batches(vae, data, _ROWS_AT_ONCE, conditional=vae.condition is not None or prior.condition is not None)
    key, row_start, latents, conditions = evaluation_key(seed).to(vae.device), 0, [], []
    with evaluation_mode(vae):
        for batch in on_device(vae, batches):
            posterior = vae.encode(batch.x, None if vae.condition is None else batch.condition)
            if isinstance(posterior, CodePosterior):
                latents.append(posterior.indices)
            else:
                latents.append(posterior.rsample(key=key, row_start=row_start))
            if prior.condition is not None:
                conditions.append(prior.condition.as_rows(batch.condition, len(batch.x)))
            row_start += len(batch.x)
    if not row_start:
        raise ValueError("the dataset is empty")
    return _Encoded(torch.cat(latents), torch.cat(conditions) if conditions else None)

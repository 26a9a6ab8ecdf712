"""A prior fitted to what a trained model makes of the data: the second of two stages, trained by `fit`.

A. van den Oord, O. Vinyals, K. Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937, section 3.3; for
vectors: P. Ghosh et al., "From Variational to Deterministic Autoencoders", 2020, arXiv:1903.12436, section 4.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from vaekit import priors, seeding
from vaekit.checks import is_number
from vaekit.compatibility import check_latents_of
from vaekit.evaluation.sampler import fitted_codes, fitted_mixture
from vaekit.inputs import check_model
from vaekit.latents import LatentKind
from vaekit.layout import BEST, LAST
from vaekit.losses import Autoencoder, Elbo, Loss, VectorQuantizedLoss
from vaekit.modes import evaluation_mode
from vaekit.priors import Codes, GaussianMixture, Prior
from vaekit.schedules import Schedule
from vaekit.training import optimizers
from vaekit.training.callbacks import Callback
from vaekit.training.fit import fit
from vaekit.training.history import History
from vaekit.training.options import FitOptions
from vaekit.training.state import RunState
from vaekit.vae import VAE

DEFAULT_PRIOR = "autoregressive_codes"
_OPTIMIZER, _GRADIENT_CLIP = "adamw", 1.0


def rising_and_falling(peak: float) -> dict[str, Any]:
    """The schedule of a learning rate that is given as a number: it rises for a twentieth of the steps, and falls to 0."""
    return {"name": "warmup_cosine", "peak": peak, "warmup": 0.05}


@dataclass(frozen=True, kw_only=True)
class PriorOptions(FitOptions):
    """What `fit_prior` hands on to `fit`: its options, three of which have other defaults here."""

    learning_rate: float | Schedule | Mapping[str, Any] = field(
        default=1e-3, metadata={"help": "The highest, of one that rises and falls, or a schedule of it."}
    )
    optimizer: optimizers.Spec = field(
        default=_OPTIMIZER, metadata={"help": "What updates the weights; see `vaekit list optimizers`."}
    )
    gradient_clip: float | Mapping[str, float] | None = field(
        default=_GRADIENT_CLIP, metadata={"help": "Shorten longer gradients to this norm."}
    )


class FittedPrior(NamedTuple):
    """A prior, attached to its model, and how its training went: None where it was counted."""

    prior: Prior
    history: History | None


def fit_prior(
    vae: VAE,
    data: Any,
    prior: str | Mapping[str, Any] | Prior = DEFAULT_PRIOR,
    *,
    validation: Any = None,
    learning_rate: float | Schedule | Mapping[str, Any] = 1e-3,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
    **options: Any,
) -> Prior:
    """A prior that is fitted to the codes of a trained model, so that draws from it look like the data.

    The model stays as it is: `vae.sample(16, prior=fit_prior(vae, train))`. As its own prior, `vae.prior = fit_prior(vae,
    train)`, the prior makes `kl` the length of the codes in nats, and the bound of log p(x) the higher; it is saved with the
    model.

    "codes" is counted and "gaussian_mixture" fitted by EM. Every other prior with weights, over codes or over vectors ("flow",
    "diagonal_gaussian", "vamp"), is trained by `vaekit.fit`, with all of the model frozen but its prior: with its progress,
    checkpoints, callbacks and exact resumption. What the history calls `loss` is `reconstruction + kl`, the bound; the networks
    encode and decode in each step, without gradients. A prior with a condition is told the label or the vector that goes with
    each example, whether or not the model is.

    Args:
        vae: the model; it stays on its device, unless `device` says otherwise.
        data: what `vaekit.fit` takes: the training data as a rule, with labels where the prior is told them.
        prior: a name, {"name": ..., option: ...}, or a `vaekit.Prior`; it is fitted further where it has been already.
        validation: as of `vaekit.fit`. The weights of the epoch that is best on it are kept; None keeps the last.
        learning_rate: the highest one: it rises for a twentieth of the steps and falls to 0 by a cosine. Or a schedule of the
            step, as of `vaekit.fit`; a loader without a length needs one that knows its `steps`.
        seed: fixes the prior's first weights, the order and the draws.
        callbacks: of the fit, `vaekit.EarlyStopping()` for example.
        out: a folder for `best`, `last`, checkpoints and the history, as of `vaekit.fit`. Its models are this one with the
            prior, and with the bound for their objective: "elbo", or its like for codes and points.
        resume: go on with the fit in `out`. All the rest is to be as it was.
        progress: show how far it is.
        options: any other of `vaekit.fit`: epochs, batch_size, time_limit, device, ... The optimizer is AdamW with decoupled
            weight decay, and gradients are shortened to a norm of 1, unless they say otherwise.

    Returns:
        the prior, attached to the model, on its device and in its dtype, in evaluation mode. ^C or a time limit ends the fit
        early; `out` can be resumed then.

    Raises:
        TypeError, ValueError: a prior that does not go with the model or has nothing to fit; data that does not fit the model;
            a prior that is told a condition, and data without; an option that `fit` does not take; callbacks or a fit to go on
            with, for a prior that is counted.
        OSError: as `vaekit.fit`.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.create_vae("vq-mnist", seed=0)
        >>> x, labels = torch.rand(20, 1, 28, 28), torch.arange(20) % 10
        >>> small = {"name": "autoregressive_codes", "width": 16, "layers": 1, "condition": {"name": "labels", "classes": 10}}
        >>> prior = fit_prior(vae, (x, labels), small, epochs=1, progress=False)
        >>> vae.sample(5, condition=3, prior=prior).shape
        torch.Size([5, 1, 28, 28])
    """
    how = {"learning_rate": learning_rate, "seed": seed, "callbacks": callbacks, "out": out, "resume": resume, **options}
    return prior_and_history(vae, data, prior, how, validation=validation, progress=progress).prior


def prior_and_history(
    vae: VAE,
    data: Any,
    prior: str | Mapping[str, Any] | Prior,
    options: Mapping[str, Any],
    *,
    validation: Any = None,
    progress: bool = True,
) -> FittedPrior:
    """As `fit_prior`, with the history of the fit; `options` are all others of its and of `fit`."""
    check_model(vae)
    fitted = _attached(vae, prior, options.get("seed", 0))
    if type(fitted) in (Codes, GaussianMixture):
        return FittedPrior(_counted(vae, data, fitted, options), None)
    if not any(weight.requires_grad for weight in fitted.parameters()):
        raise ValueError(f"{type(fitted).__name__} has no weights that could be fitted to codes")
    options = {"optimizer": _OPTIMIZER, "gradient_clip": _GRADIENT_CLIP, "device": vae.device, "learning_rate": 1e-3, **options}
    if is_number(rate := options["learning_rate"]):
        options["learning_rate"] = rising_and_falling(float(rate))
    best = _Best(fitted)
    options["callbacks"] = (*options.get("callbacks", ()), *(() if validation is None else (best,)))
    with _alone_learning(vae, fitted) as stage:
        history = fit(stage, data, validation=validation, progress=progress, **options)
    if best.weights is not None:
        fitted.load_state_dict(best.weights)
    return FittedPrior(fitted.eval(), history)


def _attached(vae: VAE, prior: str | Mapping[str, Any] | Prior, seed: int) -> Prior:
    """The prior, over the model's latents, on its device and in its dtype."""
    with seeding.drawing_from(seed):
        fitted = priors.registry.build(prior, offers={"latent_shape": vae.latent_shape, "input_shape": vae.encoder.input_shape})
        check_latents_of("prior", fitted, vae.encoder)
        fitted.attach(vae.encoder)
    return fitted.to(next(vae.parameters()))


def _counted(vae: VAE, data: Any, prior: Prior, options: Mapping[str, Any]) -> Prior:
    """A prior whose fit needs no steps, in `out` too."""
    if options.get("resume") or options.get("callbacks"):
        raise ValueError(f"{type(prior).__name__} is counted at once: there is no run that has callbacks or could go on")
    counted: Prior
    if isinstance(prior, Codes):
        counted = fitted_codes(vae, data)
    else:
        assert isinstance(prior, GaussianMixture)
        counted = fitted_mixture(vae, data, components=len(prior.logits), seed=options.get("seed", 0))
        counted.attach(vae.encoder)
    if (out := options.get("out")) is not None:
        _save_in(Path(out), vae, counted)
    return counted.eval()


def _save_in(folder: Path, vae: VAE, prior: Prior) -> None:
    """The model with a prior that was not trained, under the names that a run has.

    Raises:
        FileExistsError: the folder holds a run.
    """
    for name in (BEST, LAST):
        if (folder / name).exists():
            raise FileExistsError(f"{folder} holds the {name} of an earlier run; choose another folder, or remove it")
    with _alone_learning(vae, prior) as stage:
        for name in (BEST, LAST):
            stage.save(folder / name)


@contextmanager
def _alone_learning(vae: VAE, prior: Prior) -> Iterator[VAE]:
    """A model of the same networks with this prior, of which nothing else can learn; the networks are as they were afterwards."""
    own = set(prior.parameters())
    rest = nn.ModuleList(part for part in (vae.encoder, vae.decoder, vae.likelihood, vae.condition) if part is not None)
    learning = [weight for weight in rest.parameters() if weight.requires_grad and weight not in own]
    with evaluation_mode(rest):
        for weight in learning:
            weight.requires_grad_(False)
        try:
            yield VAE(vae.encoder, vae.decoder, likelihood=vae.likelihood, prior=prior, loss=_bound(vae), condition=vae.condition)
        finally:
            for weight in learning:
                weight.requires_grad_(True)


def _bound(vae: VAE) -> Loss:
    """The objective that is reconstruction + kl, for latents of the model's kind: not every one goes with every prior."""
    if vae.condition is not None and vae.condition.infers:
        return vae.loss  # no other goes with a condition that may be missing
    kind = vae.encoder.family.latents
    return (
        VectorQuantizedLoss(beta=0.0)
        if LatentKind.CODES in kind
        else Autoencoder(beta=1.0)
        if LatentKind.POINTS in kind
        else Elbo()
    )


class _Best(Callback):
    """Keeps the prior's weights of the best epoch."""

    def __init__(self, prior: Prior) -> None:
        self._prior = prior
        self.weights: dict[str, Any] | None = None

    def on_epoch_end(self, state: RunState) -> None:
        if state.history.best_epoch == state.history.epochs - 1:
            with state.averaged():
                self.weights = {name: value.clone() for name, value in self._prior.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return {} if self.weights is None else {"weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weights = dict(state["weights"])

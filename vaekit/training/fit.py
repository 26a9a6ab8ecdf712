"""`fit`: checks what it is given, builds a run from its components, and runs it."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vaekit.data import Stream, Whole
from vaekit.evaluation.terms import evaluation_key, mean_terms
from vaekit.inputs import checked_batches
from vaekit.layers import BATCH_NORMALIZATIONS
from vaekit.schedules import Schedule, scheduled
from vaekit.training.callbacks import Callback
from vaekit.training.checkpoints import Checkpoints
from vaekit.training.engine import Engine
from vaekit.training.guard import Guard
from vaekit.training.history import History
from vaekit.training.loop import Loop
from vaekit.training.options import FitOptions
from vaekit.training.plan import Plan
from vaekit.training.state import RunState
from vaekit.training.update import Update
from vaekit.training.watch import Watch
from vaekit.vae import VAE


def fit(
    vae: VAE,
    train: Any,
    *,
    validation: Any = None,
    epochs: int = 30,
    batch_size: int = 64,
    learning_rate: float | Schedule | Mapping[str, Any] = 1e-3,
    optimizer: str | Mapping[str, Any] = "adam",
    seed: int = 0,
    device: str | torch.device = "auto",
    gradient_clip: float | None = None,
    callbacks: Sequence[Callback] = (),
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    initialize_output_bias: bool = False,
) -> History:
    """Train a model, in place.

    An objective with parameters of its own, the discriminator of `factor` for example, says how those are trained, in the same
    step after one backward through `LossTerms.objective`.

    Args:
        vae: the model, with weights in float32 or float64. Afterwards it holds the last weights, on `device`, in evaluation mode.
            Parameters with requires_grad=False stay as they are; a module whose parameters are all frozen, and which is in
            evaluation mode, stays in it.
        train: `vaekit.data.Examples`, a tensor or array [N, *input_shape], a pair (x, y) of them, or a loader, whose batches
            are x, (x, ...) or {"x": x}. For a conditional model y is the condition, and a loader's batches are (x, y, ...) or
            {"x": x, "y": y}. Whole examples are reshuffled every epoch; an incomplete last batch counts.
        validation: the same, evaluated after every epoch with the same noise each time.
        epochs: passes over `train`.
        batch_size: for whole examples; a loader has its own.
        learning_rate: the optimizer's, as a number, a schedule of the step, or its spec, {"name": "cosine", "start": 1e-3, "end":
            1e-5, "steps": 10000} for example; not that of parameters for which the objective has one of its own
            (`Loss.parameter_groups`).
        optimizer: a name from `vaekit.optimizers.names()`, or {"name": ..., option: ...}. Adam (D. P. Kingma, J. Ba, 2014,
            arXiv:1412.6980) by default.
        seed: fixes the order of the examples and all noise (dropout too, unless other threads draw from torch's global
            generator meanwhile). A second `fit` with the same seed sees the noise and the orders of the first again; give it
            another one to go on with new ones. The weights that training starts from are the model's own:
            `create_vae(..., seed=0)` fixes those.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps".
        gradient_clip: scale the gradient down to this norm where it is longer; that of each group of the objective's own
            parameters by itself.
        callbacks: see `Callback`.
        out: a folder for the results: `best` (the lowest validation loss, or training loss without validation) and `last`, each
            to be read by `vaekit.load`, and `history.csv`. Where the objective has a scheduled weight, only epochs with its
            final value can be the best, or the last epoch where there are none (`History.best_epoch`).
        progress: show a bar with loss, reconstruction and KL in nats, samples a second and the time left.
        initialize_output_bias: before the first step, let the decoder start from the mean of `train`: for a new model, whose
            first epochs would go into learning it. See `VAE.initialize_output_bias`; whole examples only.

    Returns:
        a `History`. ^C ends a run early: everything so far is kept and saved, `history.interrupted` is set, and the epoch that
        was running is not in the history.

    Raises:
        NonFiniteLossError: names epoch, step, term and rows; the last finite weights are kept, in `vae` and in `out`.
        ValueError, TypeError: options or data that do not fit, before the first step where the data is whole; weights in half
            precision; a model without a trainable parameter.
        RuntimeError: a call inside `torch.autocast`.
        OSError: `out` cannot be written, or holds an earlier run; before the first step.

    Warns:
        UserWarning: the run is shorter than the schedule of one of the objective's weights.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, seed=0)
        >>> history = fit(vae, torch.rand(100, 4), epochs=2, progress=False)
        >>> len(history["loss"])
        2
    """
    options = FitOptions(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        optimizer=optimizer,
        gradient_clip=gradient_clip,
        seed=seed,
        device=device,
        initialize_output_bias=initialize_output_bias,
    )
    if isinstance(callbacks, Callback) or not all(isinstance(callback, Callback) for callback in callbacks):
        raise TypeError(f"callbacks takes a sequence of objects that extend vaekit.Callback, got {callbacks!r}")
    engine = Engine(device)
    _check_precision(vae, engine.device)
    batches, validation_batches = checked_batches(vae, train, batch_size, "train"), None
    if validation is not None:
        validation_batches = checked_batches(vae, validation, batch_size, "validation")
    if initialize_output_bias and isinstance(batches, Stream):
        raise ValueError(
            "initialize_output_bias=True reads the data once before training, and a loader may give its batches only once; "
            "call vae.initialize_output_bias(x) with some of it, and then fit"
        )
    if out is not None:
        vae.config()  # a model that cannot be saved is refused before it is trained, not after
    checkpoints = Checkpoints(out)
    with engine.seeded(seed), torch.inference_mode(False), torch.enable_grad(), _training_mode(vae):
        _check_smallest_batch(vae, batches)
        if initialize_output_bias:
            vae.initialize_output_bias(batch.x for batch in batches)
        vae.to(engine.device)
        state, plan, guard = RunState(vae), Plan(batches, seed, engine.device), Guard(vae, batches)
        update = Update(vae, engine, options, guard, batches.size)
        weights = scheduled(vae.loss)
        if isinstance(batches, Whole):
            _warn_of_unfinished(weights, epochs * -(-batches.size // batch_size), "the run has")

        def validate() -> dict[str, float]:
            assert validation_batches is not None
            return mean_terms(vae, validation_batches, evaluation_key(seed))

        checkpoints.claim()  # from here on nothing is refused
        total = None if batches.size is None else epochs * batches.size
        watch = Watch(state, guard, total, progress)
        has_validation = validation_batches is not None
        loop = Loop(state, plan, update, guard, watch, checkpoints, callbacks, validate if has_validation else None, weights)
        history = loop.run(epochs)
        if isinstance(batches, Stream):
            _warn_of_unfinished(weights, state.step, "the run had")
    return history


def _check_precision(vae: VAE, device: torch.device) -> None:
    """Refuse to train where numbers are rounded in ways that nobody asked for."""
    half = sorted({str(p.dtype) for p in vae.parameters() if p.dtype in (torch.float16, torch.bfloat16)})
    if half:
        raise TypeError(
            f"the model's weights are {' and '.join(half)}, in which the steps of an optimizer are lost to rounding; train it in "
            "single precision, vae.float()"
        )
    for kind in dict.fromkeys(("cpu", device.type)):
        if torch.is_autocast_enabled(kind):
            raise RuntimeError(
                f"fit was called inside torch.autocast({kind!r}), which keeps casts of the weights while those are trained; call "
                "it outside, and the model is trained in the weights' dtype"
            )


@contextmanager
def _training_mode(vae: VAE) -> Iterator[None]:
    """The model in training mode, less what its owner has frozen and put into evaluation mode; afterwards in evaluation mode."""
    frozen = {part for module in vae.modules() if not module.training and _is_frozen(module) for part in module.modules()}
    for module in vae.modules():
        module.training = module not in frozen
    try:
        yield
    finally:
        vae.eval()


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def _check_smallest_batch(vae: VAE, batches: Whole | Stream) -> None:
    """Refuse a last batch of one example where batch normalisation cannot be trained on it, before the steps up to it."""
    if not isinstance(batches, Whole) or min(batches.size, batches.size % batches.batch_size or batches.batch_size) != 1:
        return
    if not any(isinstance(m, BATCH_NORMALIZATIONS) and m.training for m in vae.modules()):
        return
    one = next(iter(Whole(batches.examples, 1, vae.condition is not None)))
    trial, batch = copy.deepcopy(vae), one.to(vae.device)  # whose averages the trial may move
    try:
        trial(batch.x, batch.condition)
    except ValueError as error:
        raise ValueError(
            f"batch_size={batches.batch_size} leaves one example for the last batch of {batches.size}, and batch normalisation "
            f"cannot be trained on one ({error}); choose another batch_size, or leave an example out"
        ) from error


def _warn_of_unfinished(weights: Mapping[str, Schedule], steps: int, run_has: str) -> None:
    """Warn of a scheduled weight that does not reach its final value in so many steps."""
    for name, weight in weights.items():
        if steps and weight(steps - 1) != weight(None):
            warnings.warn(
                f"{run_has} {steps:,} steps, in which the scheduled {name} reaches {weight(steps - 1):.4g}; its final value "
                f"is {weight(None):.4g}. Train for longer, or shorten the schedule; until then the last epoch counts as the best",
                UserWarning,
                stacklevel=3,
            )

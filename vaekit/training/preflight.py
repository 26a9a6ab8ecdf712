"""What is looked at before the first step: precision, weights, frozen modules, the smallest batch, schedules."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from vaekit.batch_norm import BATCH_NORMALIZATIONS
from vaekit.data import Batches
from vaekit.schedules import Schedule, is_final
from vaekit.training.options import FitOptions
from vaekit.training.rates import LearningRate
from vaekit.training.warned import warn
from vaekit.vae import VAE


def dtype_of_weights(vae: VAE) -> torch.dtype:
    """float64 where a weight is, which no lower precision is meant for; otherwise float32."""
    return torch.float64 if any(p.dtype == torch.float64 for p in vae.parameters()) else torch.float32


def check_precision(vae: VAE, device: torch.device) -> None:
    """Refuse to train where numbers are rounded in ways that nobody asked for.

    Raises:
        TypeError: trainable weights in half precision.
        RuntimeError: a call inside `torch.autocast`.
    """
    half = sorted({str(p.dtype) for p in vae.parameters() if p.requires_grad and p.dtype in (torch.float16, torch.bfloat16)})
    if half:
        raise TypeError(
            f"the model's weights are {' and '.join(half)}, in which the steps of an optimizer are lost to rounding; train it in "
            "single precision, vae.float()"
        )
    for kind in dict.fromkeys(("cpu", device.type)):
        if torch.is_autocast_enabled(kind):
            raise RuntimeError(
                f"fit was called inside torch.autocast({kind!r}), but what networks compute in is the option precision; call it "
                'outside, with precision="bf16" for example'
            )


def check_weights(vae: VAE) -> None:
    """Refuse weights from which nothing can be learned any more.

    Raises:
        ValueError: NaN or infinity in a parameter; the message names it.
    """
    for name, parameter in vae.named_parameters():
        if parameter.is_floating_point() and not parameter.isfinite().all():
            raise ValueError(
                f"the model's {name} is not finite before the first step: compose a new model, or load the weights of a run that "
                "ended well"
            )


def check_accumulation(vae: VAE, accumulate: int) -> None:
    """Refuse to put a step together from batches where the objective compares all its examples with each other.

    Raises:
        ValueError: it does.
    """
    if accumulate > 1 and vae.loss.compares_examples:
        raise ValueError(
            f"accumulate={accumulate} puts a step together from several batches, but the objective {type(vae.loss).__name__} "
            "compares the examples of a step with each other; give it accumulate=1, and a batch_size that holds them all"
        )


def check_division(vae: VAE, options: FitOptions) -> None:
    """Refuse a model or a run whose weights cannot be divided among processes.

    Raises:
        ValueError: weights of several dtypes, one weight in two places, or one that is not contiguous; compile=True or adafactor.
    """
    why = ""
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in vae.parameters()})
    places: dict[int, str] = {}
    for name, parameter in vae.named_parameters(remove_duplicate=False):
        if (other := places.setdefault(id(parameter), name)) != name:
            why = f"{other} and {name} are one parameter, which would be divided twice"
        if not parameter.is_contiguous():
            why = f"{name} is not contiguous in memory, channels last for example; vae.to(memory_format=torch.contiguous_format)"
    if len(dtypes) > 1:
        why = f"the weights are {' and '.join(dtypes)}, and have to be of one dtype"
    if (options.optimizer["name"] if isinstance(options.optimizer, Mapping) else options.optimizer) == "adafactor":
        why = "PyTorch's Adafactor takes means over the rows and columns of whole weights; take adam or lion"
    if options.compile:
        why = "compile=True compiles a model that is whole; leave it out"
    if why:
        raise ValueError(f'strategy="fsdp" cannot divide this run: {why}. strategy="ddp" has the whole model in every process')


def check_smallest_batch(vae: VAE, batches: Batches) -> None:
    """Refuse a last batch of one example where batch normalisation cannot be trained on it, before the steps up to it.

    Raises:
        ValueError: it cannot; of a loader that does not tell the sizes of its batches nobody knows before.
    """
    if batches.smallest != 1 or not any(isinstance(m, BATCH_NORMALIZATIONS) and m.training for m in vae.modules()):
        return
    one = batches.one().to(vae.device)
    averages = {name: buffer.clone() for name, buffer in vae.named_buffers()}  # which the trial may move
    try:
        torch.func.functional_call(vae, averages, (one.x, one.condition), {"step": 0})
    except ValueError as error:
        if "normalisation" not in str(error) and "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"batch_size={batches.batch_size} leaves one example for the last batch of {batches.size}, and batch normalisation "
            f"cannot be trained on one ({error}); choose another batch_size, or leave an example out, as a DataLoader with "
            "drop_last=True does"
        ) from error


def warn_of_unfinished(weights: Mapping[str, Schedule], steps: int, run_has: str) -> None:
    """Warn of a scheduled weight that does not reach its final value in so many steps."""
    for name, weight in weights.items():
        if steps and not is_final(weight, steps - 1):
            warnings.warn(
                f"{run_has} {steps:,} steps, in which the scheduled {name} reaches {weight(steps - 1):.4g}; its final value "
                f"is {weight(None):.4g}. Train for longer, or shorten the schedule; until then the last epoch counts as the best",
                UserWarning,
                stacklevel=4,
            )


def warn_of_unfinished_rate(rate: LearningRate, steps: int, run_has: str) -> None:
    """Warn of a learning rate whose schedule is longer than the run."""
    if rate.least_steps is not None and steps < rate.least_steps:
        warn(
            f"{run_has} {steps:,} steps, and the schedule of the learning rate takes {rate.least_steps:,}: it is "
            f"{rate(max(steps - 1, 0)):.4g} at the last step; its final value is {rate.final:.4g}. Train for longer, or shorten "
            "the schedule: a spec without steps gets the run's own number"
        )


def warn_of_no_rate(rate: LearningRate, options: FitOptions) -> None:
    """Warn of epochs after those for which the learning rate was made, where it is 0 in them."""
    planned = options.planned_epochs or options.epochs
    if planned < options.epochs and rate.final == 0.0:
        warn(
            f"the learning rate was made for {planned} epochs and is 0 after them: what comes until epoch {options.epochs} "
            "changes no weights. For another schedule begin another run, from the weights in `last`"
        )


@contextmanager
def training_mode(vae: VAE) -> Iterator[None]:
    """The model in training mode, less what its owner has frozen and put into evaluation mode; afterwards in evaluation mode.

    A module without parameters, dropout for example, stays in evaluation mode where it was put there by itself: in a model
    that is in training mode otherwise.
    """
    evaluating = [module for module in vae.modules() if not module.training]
    frozen = [module for module in evaluating if _is_frozen(module)]
    within = {part for module in frozen for part in module.modules()}
    alone = [m for m in evaluating if vae.training and m not in within and not list(m.parameters())]
    roots = [*frozen, *alone]
    trained = set(_without(vae, set(roots)))
    vae.train()
    for root in roots:
        root.eval()
    for module in trained & within:  # shared with a frozen module
        module.training = True
    try:
        yield
    finally:
        vae.eval()


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def _without(module: nn.Module, left_out: set[nn.Module]) -> Iterator[nn.Module]:
    """The module and what it holds, but for what is only held by modules that are left out."""
    if module in left_out:
        return
    yield module
    for child in module.children():
        yield from _without(child, left_out)

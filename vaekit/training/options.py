"""The options of a run: one frozen record, from which the command has its flags and a run's folder its run.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from vaekit.checks import checked_flag, checked_number, checked_size, checked_word
from vaekit.ops import philox
from vaekit.schedules import Schedule
from vaekit.training import clipping, optimizers, rates, trackers
from vaekit.training.precision import PRECISIONS
from vaekit.training.processes import checked_devices, checked_strategy
from vaekit.training.trackers import Tracker


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What `vaekit.fit` takes besides the model, the data and objects such as callbacks; it checks itself.

    `vaekit.training.FitOptions.describe()` gives each option's name, default and meaning.

    Raises:
        TypeError, ValueError: an option of another type, or outside its range; the message names it.
        UnknownNameError: an optimizer or a schedule that is not registered.

    Example:
        >>> FitOptions(epochs=3).learning_rate
        0.001
        >>> FitOptions(epochs=0)
        Traceback (most recent call last):
        ValueError: epochs has to be a whole number of at least 1, got 0
    """

    epochs: int = field(default=30, metadata={"help": "Passes over the training data.", "may_change": True})
    planned_epochs: int | None = field(
        default=None,
        metadata={"help": "Epochs for which a rate without steps of its own is scheduled; epochs by default."},
    )
    batch_size: int = field(default=64, metadata={"help": "Examples that go through the model at once."})
    learning_rate: float | Schedule | Mapping[str, Any] = field(
        default=1e-3, metadata={"help": "The optimizer's, or a schedule of it."}
    )
    optimizer: optimizers.Spec = field(
        default="adam", metadata={"help": "What updates the weights; see `vaekit list optimizers`."}
    )
    precision: str | int = field(
        default="32",
        metadata={"help": "Of the networks: 32 (the weights' dtype), bf16, 16, or auto (bf16 on a GPU that computes in it)."},
    )
    accumulate: int = field(default=1, metadata={"help": "Batches in an optimizer step."})
    ema: float | None = field(
        default=None, metadata={"help": "Average the weights with this decay, 0.999 for example; off by default."}
    )
    gradient_clip: float | Mapping[str, float] | None = field(
        default=None, metadata={"help": "Shorten longer gradients to this norm; off by default."}
    )
    on_nonfinite: str = field(
        default="stop", metadata={"help": "At a loss or gradient that is NaN or infinite: stop, or skip the step."}
    )
    compile: bool = field(default=False, metadata={"help": "Compile the forward and backward pass (torch.compile)."})
    keep: int = field(default=2, metadata={"help": "Checkpoints in the run's folder; 0 for none.", "may_change": True})
    checkpoint_minutes: float = field(default=10.0, metadata={"help": "Minutes between two checkpoints.", "may_change": True})
    seed: int = field(default=0, metadata={"help": "Fixes order and noise; in the command the first weights as well."})
    device: str | torch.device = field(default="auto", metadata={"help": "auto, cpu, cuda, cuda:1, mps.", "may_change": True})
    devices: int | Sequence[int] = field(
        default=1, metadata={"help": "How many devices, each with a process of its own.", "may_change": True}
    )
    strategy: str = field(
        default="auto", metadata={"help": "How several processes train one model: ddp or fsdp.", "may_change": True}
    )
    trackers: Sequence[str | Mapping[str, Any] | Tracker] = field(
        default=("csv",), metadata={"help": "What a run records is written by; see `vaekit list trackers`.", "may_change": True}
    )
    time_limit: float | None = field(
        default=None,
        metadata={"help": "Minutes after which the run ends, with everything saved; no limit by default.", "may_change": True},
    )
    initialize_output_bias: bool = field(
        default=False, metadata={"help": "Let the decoder start from the mean of the training data."}
    )

    def __post_init__(self) -> None:
        checked_size("epochs", self.epochs)
        if self.planned_epochs is not None:
            checked_size("planned_epochs", self.planned_epochs)
        checked_size("batch_size", self.batch_size)
        rates.check(self.learning_rate)
        optimizers.check(self.optimizer)
        object.__setattr__(self, "precision", checked_word("precision", str(self.precision), PRECISIONS))  # --set gives numbers
        checked_size("accumulate", self.accumulate)
        if self.ema is not None:
            checked_number("ema", self.ema, above=0.0, below=1.0)
        clipping.check(self.gradient_clip)
        checked_word("on_nonfinite", self.on_nonfinite, ("stop", "skip"))
        checked_devices(self.devices)
        checked_strategy(self.strategy)
        trackers.build(self.trackers)
        if self.time_limit is not None:
            checked_number("time_limit", self.time_limit, above=0.0)
        checked_flag("compile", self.compile)
        checked_size("keep", self.keep, least=0)
        checked_number("checkpoint_minutes", self.checkpoint_minutes, least=0.0)
        philox.make_key(self.seed)  # refuses what is not a whole number of 64 bits
        checked_flag("initialize_output_bias", self.initialize_output_bias)

    @classmethod
    def lasting(cls) -> tuple[str, ...]:
        """The options that stay as they are when a run is resumed; `planned_epochs` is what it was, or left out."""
        return tuple(
            option.name for option in fields(cls) if not (option.metadata.get("may_change") or option.name == "planned_epochs")
        )

    @classmethod
    def describe(cls) -> Iterator[tuple[str, Any, str]]:
        """Name, default and meaning of each option."""
        for option in fields(cls):
            yield option.name, option.default, option.metadata["help"]

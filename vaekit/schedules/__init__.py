"""Weights and learning rates as functions of the optimizer's step."""

from vaekit.schedules.base import (
    Constant,
    Epochs,
    HistorySchedule,
    Schedule,
    as_schedule,
    bounded,
    checked_schedule,
    is_final,
    named_schedule,
    registry,
    scheduled,
    warn_of_final_values,
)
from vaekit.schedules.plateau import Plateau
from vaekit.schedules.ramps import Cosine, Cyclic, Linear, Sigmoid
from vaekit.schedules.rates import OneCycle, StepDecay, WarmupCosine

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = [
    "Constant",
    "Cosine",
    "Cyclic",
    "Epochs",
    "HistorySchedule",
    "Linear",
    "OneCycle",
    "Plateau",
    "Schedule",
    "Sigmoid",
    "StepDecay",
    "WarmupCosine",
    "as_schedule",
    "bounded",
    "checked_schedule",
    "create",
    "describe",
    "is_final",
    "named_schedule",
    "names",
    "register",
    "registry",
    "scheduled",
    "warn_of_final_values",
]

"""What updates the weights, by name.

An optimizer is a function of `params`, the groups, and `lr`, which `vaekit.fit` gives it, and of options of its own; it returns a
`torch.optim.Optimizer`. Packages announce theirs in the entry-point group "vaekit.optimizers".

A spec may have "groups" besides the optimizer's options: patterns of parameter names, as `fnmatch` has them, with options for
what they match. In {"name": "adam", "groups": {"encoder.*": {"lr": 1e-4}, "*.bias": {"eps": 1e-6}}} the biases of the encoder get
both; of two values of one option the later pattern's counts. "lr" stays as it is; "lr_factor" is a multiple of the run's learning
rate, its schedule included. What a pattern sets comes before what the objective asks for. `*` stands for dots too, frozen
parameters are in no group, and a pattern that matches no name is refused.
"""

from vaekit.training.optimizers.catalogue import (
    adafactor,
    adam,
    adamax,
    adamw,
    lion,
    nadam,
    radam,
    registry,
    rmsprop,
    sgd,
)
from vaekit.training.optimizers.construction import Maker, Spec, build, check, check_that_all_are_updated
from vaekit.training.optimizers.groups import clipped_together

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = [
    "Maker",
    "Spec",
    "adafactor",
    "adam",
    "adamax",
    "adamw",
    "build",
    "check",
    "check_that_all_are_updated",
    "clipped_together",
    "create",
    "describe",
    "lion",
    "nadam",
    "names",
    "radam",
    "register",
    "registry",
    "rmsprop",
    "sgd",
]

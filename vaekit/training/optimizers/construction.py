"""From a spec, or a function of the caller's, and a model to an optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from vaekit.training.optimizers.catalogue import DECAY_LAYERS_ONLY, Groups, registry
from vaekit.training.optimizers.groups import Options, checked_own, checked_patterns, grouped, whose_groups
from vaekit.vae import VAE

Maker: TypeAlias = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
Spec: TypeAlias = str | Mapping[str, Any] | Maker


def check(spec: Spec) -> None:
    """Refuse a spec that describes no optimizer, or has options that it does not take, before there is a model.

    Raises:
        TypeError, ValueError, UnknownNameError: as `build` would.
        ModuleNotFoundError: the optimizer is in a package that is not installed.
    """
    if isinstance(spec, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer: {type(spec).__name__} has its parameters already, and fit gives each parameter its group; give the "
            f"class, or a function of the groups: optimizer=lambda groups: {type(spec).__name__}(groups, ...)"
        )
    if isinstance(spec, (str, Mapping)) or not callable(spec):
        _checked(spec)


def build(spec: Spec, vae: VAE, learning_rate: float, is_scheduled: bool = False) -> torch.optim.Optimizer:
    """The optimizer of a model's trainable parameters.

    Args:
        spec: a name, {"name": ..., option: ..., "groups": ...}, or a function of the groups, torch.optim.Adam for example. It is
            given a list of {"params": [...], "lr": ...} with the options that the objective asks for.
        vae: the model.
        learning_rate: of the first step.
        is_scheduled: whether later ones have another.

    Raises:
        TypeError: a group with something else than parameters and options of the optimizer; a function that returns no
            optimizer, or one that has other options.
        ValueError: parameters that are not the model's, or come twice; a pattern that matches none; a value that the optimizer
            refuses; a model without a trainable parameter.
    """
    if not isinstance(spec, (str, Mapping)) and callable(spec):
        return _made_by(spec, vae, learning_rate, is_scheduled)
    named, patterns, takes = _checked(spec)
    name = named["name"]
    own = checked_own(vae, name, takes)
    for group in own:
        try:
            _tried(named, group, learning_rate)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{whose_groups(vae)} gives what the optimizer {name!r} does not take: {error}") from error
    groups = grouped(vae, learning_rate, own, patterns, name in DECAY_LAYERS_ONLY)
    handed = _copied(groups)
    made = _built(named, groups, learning_rate or 1.0)  # some refuse 0, with which a warm-up begins; each group has its own
    _check_groups(made, handed, f"the optimizer {name!r}")
    return made


def check_that_all_are_updated(vae: VAE, optimizer: torch.optim.Optimizer) -> None:
    """Refuse to go on with a parameter that has become trainable since the optimizer was built, which would stand still.

    Raises:
        ValueError: there is one.
    """
    held = {p for group in optimizer.param_groups for p in group["params"]}
    if late := [name for name, p in vae.named_parameters() if p.requires_grad and p not in held]:
        more = f" and {len(late) - 1} more" if len(late) > 1 else ""
        raise ValueError(
            f"{late[0]!r}{more} had requires_grad=False when fit began, so that the optimizer does not have it; set it to True "
            "before, and to False until it is to be trained (in Callback.on_fit_start, for example)"
        )


def _checked(spec: Any) -> tuple[dict[str, Any], dict[str, Options], list[str]]:
    """A spec without its groups, its groups, and the options that a group may have."""
    named: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    groups = named.pop("groups", {})
    sample = _built(named if named else spec, [{"params": [torch.zeros(1)]}], 1e-3)
    takes = [option for option in registry.describe(named["name"]).options if option in sample.defaults]
    patterns = checked_patterns(groups, takes)
    for pattern, options in patterns.items():
        try:
            _tried(named, options, 1e-3)
        except (TypeError, ValueError) as error:
            raise type(error)(f"optimizer: groups[{pattern!r}]: {error}") from error
    return named, patterns, takes


def _tried(named: Mapping[str, Any], options: Mapping[str, Any], learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer with the options of a group for all, which checks their values; of a group's torch checks few."""
    own = {option: value for option, value in options.items() if option not in ("params", "lr", "lr_factor")}
    return _built({**named, **own}, [{"params": [torch.zeros(1)]}], options.get("lr", learning_rate) or 1.0)


def _built(spec: Any, groups: Groups, learning_rate: float) -> torch.optim.Optimizer:
    named = spec
    if isinstance(named, Mapping) and isinstance(named.get("name"), str):
        if given := named.keys() & {"params", "lr"}:
            raise TypeError(f"optimizer takes no {' and '.join(sorted(given))}: fit gives it the model's, and learning_rate")
        named = {**named, "params": groups, "lr": learning_rate}
    try:
        made = registry.build(named)
    except (TypeError, ValueError, IndexError) as error:  # torch's own say what is wrong, but not of what
        message = str(error) if str(error).startswith("optimizer") else f"optimizer {named['name']!r}: {error}"
        raise (ValueError if isinstance(error, IndexError) else type(error))(message) from error
    return _checked_optimizer(made, f"the optimizer {named['name']!r}")


def _made_by(make: Maker, vae: VAE, learning_rate: float, is_scheduled: bool) -> torch.optim.Optimizer:
    """What a function of the caller's makes of the groups."""
    who = f"optimizer: {getattr(make, '__name__', type(make).__name__)}"
    groups = grouped(vae, learning_rate, checked_own(vae, who, None), {}, decays_layers_only=False)
    handed = _copied(groups)
    made = _checked_optimizer(make(groups), who)
    if unknown := {option for group in handed for option in group} - {"params", "lr_factor", *made.defaults}:
        raise TypeError(f"{whose_groups(vae)} gives {', '.join(sorted(unknown))}, which {type(made).__name__} does not take")
    _check_groups(made, handed, who)
    rate = made.defaults["lr"]
    usual = inspect.signature(type(made).__init__).parameters.get("lr")
    if not is_scheduled and rate != learning_rate and (usual is None or rate != usual.default):
        raise ValueError(
            f"{who} sets lr={rate:g}, where the run has learning_rate={learning_rate:g}; leave lr out of the function, and give "
            f"fit learning_rate={rate:g}"
        )
    return made


def _checked_optimizer(made: Any, who: str) -> torch.optim.Optimizer:
    """`made`, if a step of fit can call it.

    Raises:
        TypeError: it is no optimizer, or its step needs a closure, as LBFGS's does.
    """
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"{who} has to return a torch.optim.Optimizer, got {made!r}")
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise TypeError(
            f"{who}: the step of {type(made).__name__} needs a closure that computes the loss anew; fit computes it once a step"
        )
    return made


def _check_groups(made: torch.optim.Optimizer, handed: Sequence[Mapping[str, Any]], who: str) -> None:
    """Refuse an optimizer that has other parameters than it was given, or other options for them.

    Raises:
        ValueError: it has.
    """
    held = {p: group for group in made.param_groups for p in group["params"]}
    given = {p for group in handed for p in group["params"]}
    if held.keys() != given:
        raise ValueError(
            f"{who} has to update the parameters that it is given: {len(given - held.keys())} are missing, and "
            f"{len(held.keys() - given)} are others"
        )
    for group in handed:
        for option, value in group.items():
            if option != "params" and any(held[p].get(option) != value for p in group["params"]):
                raise ValueError(
                    f"{who} changes {option} of the groups that it is given; hand them on as they are: "
                    "optimizer=lambda groups: torch.optim.Adam(groups, eps=1e-6)"
                )


def _copied(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The groups as they are now: an optimizer adds its defaults to them."""
    return [{**group, "params": list(group["params"])} for group in groups]

"""What updates the weights, by name, and the groups of parameters that it updates.

An optimizer is a function of `params`, the groups, and `lr`, which `vaekit.fit` gives it, and of options of its own; it returns a
`torch.optim.Optimizer`. Packages announce theirs in the entry-point group "vaekit.optimizers".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from vaekit.checks import checked_number
from vaekit.registry import Registry
from vaekit.vae import VAE

registry: Registry[torch.optim.Optimizer] = Registry("optimizer", "vaekit.optimizers")
register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

Groups = Iterable[dict[str, Any]]


@register("adam")
def adam(
    params: Groups, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Steps scaled by running averages of the gradient and of its square. The default.

    D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", 2014, arXiv:1412.6980. weight_decay is added to the
    gradient.
    """
    return torch.optim.Adam(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=True)


@register("adamw")
def adamw(
    params: Groups, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01
) -> torch.optim.Optimizer:
    """Adam with weight decay that shrinks the weights themselves, and is not scaled with the gradient.

    I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101.
    """
    return torch.optim.AdamW(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=True)


@register("sgd")
def sgd(
    params: Groups, lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Steps along the gradient, or along its running sum with momentum.

    B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964, doi:10.1016/0041-5553(64)90137-5;
    nesterov: I. Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.
    """
    return torch.optim.SGD(params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=True)


@register("adamax")
def adamax(
    params: Groups, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Adam with the largest gradient in place of the root of the mean square; what IWAE-style models of hierarchies often take.

    D. P. Kingma, J. Ba, 2014, arXiv:1412.6980, section 7.1.
    """
    return torch.optim.Adamax(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, foreach=True)


def check(spec: str | Mapping[str, Any]) -> None:
    """Refuse a spec that describes no optimizer, or has options that it does not take, before there is a model.

    Raises:
        TypeError, ValueError, UnknownNameError: as `build` would.
    """
    _built(spec, [{"params": [torch.zeros(1)]}], 1e-3)


def build(spec: str | Mapping[str, Any], vae: VAE, learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer of a model's trainable parameters: one group for the model, and those that its objective asks for.

    Raises:
        TypeError: a group of the objective's with something else than parameters and options of the optimizer.
        ValueError: parameters that are not the model's, or a value that the optimizer refuses; a model without a trainable
            parameter.
    """
    whose, known = f"{type(vae.loss).__name__}.parameter_groups", set(vae.parameters())
    named = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = named["name"]
    own: list[dict[str, Any]] = []
    for group in vae.loss.parameter_groups():
        own.append(_checked_group(group, whose, name, known))
        try:
            options = {option: value for option, value in group.items() if option not in ("params", "lr")}
            _built({**named, **options}, [{"params": [torch.zeros(1)]}], group.get("lr", learning_rate))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{whose} gives what the optimizer {name!r} does not take: {error}") from error
    taken = {p for group in own for p in group["params"]}
    rest = [p for p in vae.parameters() if p.requires_grad and p not in taken]
    groups = [group for group in ({"params": rest}, *own) if group["params"]]
    if not groups:
        raise ValueError(
            "the model has no trainable parameter: requires_grad is False for all of them; vae.requires_grad_(True) makes them "
            "trainable again"
        )
    return _built(spec, groups, learning_rate)


def without_rate_of_their_own(optimizer: torch.optim.Optimizer, vae: VAE) -> list[dict[str, Any]]:
    """The optimizer's groups, less those for which the objective has a learning rate of its own."""
    own: set[Any] = set()
    for group in vae.loss.parameter_groups():
        if "lr" in group:
            params = [group["params"]] if isinstance(group["params"], Tensor) else group["params"]
            own |= {p[1] if isinstance(p, tuple) else p for p in params}
    return [group for group in optimizer.param_groups if not own & set(group["params"])]


def _built(spec: str | Mapping[str, Any], groups: Groups, learning_rate: float) -> torch.optim.Optimizer:
    named: Any = {"name": spec} if isinstance(spec, str) else spec
    if isinstance(named, Mapping) and isinstance(named.get("name"), str):
        if given := named.keys() & {"params", "lr"}:
            raise TypeError(f"optimizer takes no {' and '.join(sorted(given))}: fit gives it the model's, and learning_rate")
        named = {**named, "params": groups, "lr": learning_rate}
    try:
        made = registry.build(named)
    except (TypeError, ValueError, IndexError) as error:  # torch's own say what is wrong, but not of what
        message = str(error) if str(error).startswith("optimizer") else f"optimizer {named['name']!r}: {error}"
        raise (ValueError if isinstance(error, IndexError) else type(error))(message) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"the optimizer {named['name']!r} has to return a torch.optim.Optimizer, got {made!r}")
    return made


def _checked_group(group: Any, whose: str, optimizer: str, known: Collection[Tensor]) -> dict[str, Any]:
    """A group of the objective's own, with its parameters as a list."""
    options = [o for o in registry.describe(optimizer).options if o != "params"]
    if not isinstance(group, Mapping) or "params" not in group or not group.keys() <= {"params", *options}:
        got = ", ".join(map(str, group)) if isinstance(group, Mapping) else repr(group)
        raise TypeError(
            f'{whose} has to give mappings with "params" and any of {", ".join(options)}, what the optimizer '
            f'{optimizer!r} takes, {{"params": [...], "lr": 1e-4}} for example; got {got}'
        )
    given = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
    parameters = [p[1] if isinstance(p, tuple) else p for p in given]  # torch takes (name, parameter) too
    if others := [p for p in parameters if not isinstance(p, Tensor)]:
        raise TypeError(f'{whose} has to give parameters as "params", got {others[0]!r}')
    if foreign := [tuple(p.shape) for p in parameters if p not in known]:
        raise ValueError(
            f"{whose} gives parameters that are not the model's, of the shapes {', '.join(map(str, foreign))}; "
            "make their module an attribute of the loss"
        )
    if "lr" in group:
        checked_number(f"lr in {whose}", group["lr"], above=0.0)
    return {**group, "params": [p for p in parameters if p.requires_grad]}


__all__ = [
    "adam",
    "adamax",
    "adamw",
    "build",
    "check",
    "create",
    "describe",
    "names",
    "register",
    "registry",
    "sgd",
    "without_rate_of_their_own",
]

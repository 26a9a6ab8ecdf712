"""Which options each parameter is trained with: the objective's, and the user's by patterns of names."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from vaekit.checks import checked_number
from vaekit.registry import Part
from vaekit.vae import VAE

Options = dict[str, Any]

_NOT_LAYERS = (Part, nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)


def grouped(
    vae: VAE, rate: float, own: Sequence[Mapping[str, Any]], patterns: Mapping[str, Options], decays_layers_only: bool
) -> list[dict[str, Any]]:
    """A model's trainable parameters in groups, as an optimizer takes them; those without options of their own come first.

    Each group has "params", "lr" and other options. Where its rate follows the run's, "lr_factor" is the factor.

    Args:
        vae: the model.
        rate: the run's learning rate at the first step.
        own: the objective's groups, as `checked_own` gives them.
        patterns: pattern of names -> options, as `checked_patterns` gives them. A parameter takes the options of every pattern
            that matches its name, or one of its names where modules share it; of two values of one option the later pattern's
            counts, and the pattern's before the objective's. "lr" and "lr_factor" are one option.
        decays_layers_only: no weight decay by default on biases, norms and what is not a layer's, see `_spared`.

    Raises:
        ValueError: a pattern that matches no name; no trainable parameter.
    """
    names: dict[Tensor, list[str]] = {}
    for name, parameter in vae.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    _check_that_all_match(patterns, [name for shared in names.values() for name in shared])
    spared = _spared(vae) if decays_layers_only else set()
    taken = {p for group in own for p in group["params"]}
    rest: Options = {"params": [p for p in names if p.requires_grad and p not in taken]}
    groups: list[dict[str, Any]] = []
    for source in (rest, *own):
        alike: list[tuple[Options, list[Tensor]]] = []
        for parameter in source["params"]:
            options: Options = {"weight_decay": 0.0} if parameter in spared else {}
            options = _with(options, {option: value for option, value in source.items() if option != "params"})
            for pattern, more in patterns.items():
                if any(fnmatchcase(name, pattern) for name in names[parameter]):
                    options = _with(options, more)
            same = next((params for each, params in alike if each == options), None)
            if same is None:
                alike.append((options, same := []))
            same.append(parameter)
        alike.sort(key=lambda one: len(one[0]))
        groups += [{"params": params, **_with_rate(options, rate)} for options, params in alike]
    if not groups:
        raise ValueError(
            "the model has no trainable parameter: requires_grad is False for all of them; vae.requires_grad_(True) makes them "
            "trainable again"
        )
    return groups


def checked_patterns(groups: Any, takes: Collection[str]) -> dict[str, Options]:
    """The user's groups, pattern -> options.

    Args:
        groups: what the spec of the optimizer has as "groups".
        takes: the options that the optimizer can have for a group.

    Raises:
        TypeError: not a mapping of mappings, or with an option that the optimizer cannot have for a group.
        ValueError: an option outside its range; both "lr" and "lr_factor".
    """
    if not isinstance(groups, Mapping):
        raise TypeError(
            f'optimizer: groups has to map patterns of parameter names to options, {{"encoder.*": {{"lr": 1e-4}}}} for example, '
            f"got {groups!r}"
        )
    allowed = ["lr", "lr_factor", *(option for option in takes if option != "lr")]
    for pattern, options in groups.items():
        where = f"optimizer: groups[{pattern!r}]"
        if not isinstance(pattern, str) or not isinstance(options, Mapping) or not options:
            raise TypeError(f'{where} has to be a mapping of options, {{"lr": 1e-4}} for example, got {options!r}')
        for option, value in options.items():
            if option not in allowed:
                near = difflib.get_close_matches(str(option), allowed, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                if isinstance(value, Mapping):  # --set optimizer.groups.encoder.*.lr=1e-4
                    hint = ' A pattern with a dot is set with all groups: --set \'optimizer.groups={"encoder.*": {"lr": 1e-4}}\'.'
                raise TypeError(f"{where} takes no option {option!r}.{hint} It takes: {', '.join(allowed)}")
        if options.keys() >= {"lr", "lr_factor"}:
            raise ValueError(f"{where} has lr, a rate that stays, and lr_factor, a part of learning_rate; leave one of them out")
        for option in options.keys() & {"lr", "lr_factor"}:
            checked_number(f"{where}: {option}", options[option], above=0.0)
    return {pattern: dict(options) for pattern, options in groups.items()}


def checked_own(vae: VAE, optimizer: str, takes: Collection[str] | None) -> list[dict[str, Any]]:
    """The objective's groups, with their trainable parameters as a list.

    Args:
        vae: the model.
        optimizer: what messages call it.
        takes: the options that the optimizer can have for a group; None where that is not known yet.

    Raises:
        TypeError: something else than groups of parameters with options of the optimizer.
        ValueError: parameters that are not the model's, or that come twice.
    """
    whose, names = whose_groups(vae), {p: name for name, p in vae.named_parameters()}
    given: Any = vae.loss.parameter_groups()
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise TypeError(f'{whose} has to give a list of mappings, [{{"params": [...], "lr": 1e-4}}] for example, got {given!r}')
    own: list[dict[str, Any]] = []
    seen: set[Tensor] = set()
    for group in given:
        own.append(_checked_group(group, whose, optimizer, takes))
        for parameter in own[-1]["params"]:
            if parameter not in names:
                raise ValueError(
                    f"{whose} gives a parameter that is not the model's, of the shape {tuple(parameter.shape)}; make its module "
                    "an attribute of the loss"
                )
            if parameter in seen:
                raise ValueError(f"{whose} gives the parameter {names[parameter]!r} twice; an optimizer updates it in one group")
            seen.add(parameter)
        own[-1]["params"] = [p for p in own[-1]["params"] if p.requires_grad]
    return own


def clipped_together(vae: VAE) -> list[list[Tensor]]:
    """The lists of trainable parameters whose gradients have one norm: the model's, and each group of the objective's own."""
    own = [group["params"] for group in checked_own(vae, "", None)]
    taken = {p for params in own for p in params}
    rest = [p for p in vae.parameters() if p.requires_grad and p not in taken]
    return [params for params in (rest, *own) if params]


def whose_groups(vae: VAE) -> str:
    """What messages call the objective's groups."""
    return f"{type(vae.loss).__name__}.parameter_groups"


def _checked_group(group: Any, whose: str, optimizer: str, takes: Collection[str] | None) -> dict[str, Any]:
    if not isinstance(group, Mapping) or "params" not in group or (takes is not None and not group.keys() <= {"params", *takes}):
        got = ", ".join(map(str, group)) if isinstance(group, Mapping) else repr(group)
        raise TypeError(
            f'{whose} has to give mappings with "params" and any of {", ".join(takes or ["lr"])}, what the optimizer '
            f'{optimizer!r} takes, {{"params": [...], "lr": 1e-4}} for example; got {got}'
        )
    params = group["params"]
    if not isinstance(params, Iterable):
        raise TypeError(f'{whose} has to give parameters as "params", got {params!r}')
    given = [params] if isinstance(params, Tensor) else list(params)
    parameters = [p[1] if isinstance(p, tuple) else p for p in given]  # torch takes (name, parameter) too
    if others := [p for p in parameters if not isinstance(p, Tensor)]:
        raise TypeError(f'{whose} has to give parameters as "params", got {others[0]!r}')
    if "lr" in group:
        checked_number(f"lr in {whose}", group["lr"], above=0.0)
    return {**group, "params": parameters}


def _check_that_all_match(patterns: Iterable[str], names: Collection[str]) -> None:
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        modules = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 1)}
        near = difflib.get_close_matches(pattern, sorted({f"{module}.*" for module in modules} | set(names)), n=3, cutoff=0.5)
        hint = f"; near it are {', '.join(map(repr, near))}" if near else ""
        raise ValueError(
            f"optimizer: groups[{pattern!r}] matches no parameter of the model{hint}; "
            "[name for name, _ in vae.named_parameters()] lists their names"
        )


def _spared(vae: VAE) -> set[Tensor]:
    """The parameters that weight decay would do no good: it is for what a layer multiplies its input by.

    Those with fewer than two axes, such as biases, scales and the weights of norms; biases and norms of any shape; embeddings;
    and what a part of the model holds itself, not in a layer: the means of a prior, pseudo-inputs, a codebook, the vectors of
    labels. A shared parameter is spared if it is in one of its places.
    """
    return {
        parameter
        for module in vae.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim < 2 or name == "bias" or isinstance(module, _NOT_LAYERS)
    }


def _with(options: Options, more: Mapping[str, Any]) -> Options:
    """Both, of which the second counts; "lr" and "lr_factor" are one option."""
    if more.keys() & {"lr", "lr_factor"}:
        options = {option: value for option, value in options.items() if option not in ("lr", "lr_factor")}
    return {**options, **more}


def _with_rate(options: Options, rate: float) -> Options:
    """A rate that stays, or the run's and the factor by which it is followed."""
    factor = options.get("lr_factor", 1.0)
    return options if "lr" in options else {**options, "lr": factor * rate, "lr_factor": factor}

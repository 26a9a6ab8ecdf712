"""Specs, a part's name and options as plain data, and the one table of the kinds of parts that a model has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vaekit import conditions, decoders, encoders, likelihoods, losses, priors
from vaekit.registry import Registry, recorded_spec

REGISTRIES: dict[str, Registry[Any]] = {
    "encoder": encoders.registry,
    "decoder": decoders.registry,
    "likelihood": likelihoods.registry,
    "prior": priors.registry,
    "loss": losses.registry,
    "condition": conditions.registry,
}
OPTIONAL = ("condition",)  # a model may be without; its config then says nothing of it

Spec = Mapping[str, Any]


def build_part(kind: str, spec: Spec) -> Any:
    """The part that a spec {"name": ..., option: ...} describes.

    Args:
        kind: "encoder", "decoder", "likelihood", "prior", "loss" or "condition".

    Raises:
        TypeError: a spec without a name, or with an option that the part does not take.
        UnknownNameError: a name that is not registered.

    Example:
        >>> build_part("loss", {"name": "elbo", "beta": 4.0}).beta(step=0)
        4.0
    """
    options = dict(spec)
    name = options.pop("name", None)
    if not isinstance(name, str):
        example = "mlp" if kind in ("encoder", "decoder") else REGISTRIES[kind].names()[0]
        raise TypeError(f'the spec of a {kind} needs a "name", {{"name": "{example}", ...}} for example; got {dict(spec)!r}')
    return REGISTRIES[kind].create(name, **options)


def spec_of(kind: str, part: object) -> dict[str, Any]:
    """The spec from which `part` can be built again, as plain data.

    Raises:
        ValueError: its class is not registered, or an option is not plain data; the message says what to do.
    """
    spec = recorded_spec(part)
    if spec is None:
        cls = type(part)
        raise ValueError(
            f"the {kind} {cls.__module__}.{cls.__qualname__} has no name by which it could be built again. Register its class: "
            f'put @{REGISTRIES[kind].group}.register("some-name") above it and make a new instance. '
            "torch.save(vae.state_dict(), path) stores the weights alone."
        )
    return {option: _plain(kind, option, value) for option, value in spec.items()}


def _plain(kind: str, option: str, value: Any) -> Any:
    """`value` as JSON has it: the recorded options of a part may hold tuples, or registered objects such as schedules."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # "inf", which JSON has no number for
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(kind, option, v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(kind, option, v) for k, v in value.items()}
    nested = recorded_spec(value)
    if nested is None:
        raise ValueError(
            f"the {kind}'s option {option!r} is a {type(value).__name__}, which a config cannot hold; "
            "give it as numbers, strings, lists, mappings or a registered part"
        )
    return {k: _plain(kind, option, v) for k, v in nested.items()}

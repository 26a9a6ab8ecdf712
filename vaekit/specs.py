"""Specs, a part's name and options as plain data, and the one table of the kinds of parts that a model has."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from vaekit import (
    conditions,
    decoders,
    encoders,
    inferred,  # noqa: F401 (it registers a condition)
    likelihoods,
    losses,
    priors,
)
from vaekit.data import Schema
from vaekit.registry import Registry, recorded_spec


@dataclass(frozen=True)
class Kind:
    """A kind of part that a model is made of.

    Attributes:
        registry: where its parts are found by name.
        default: the name that `vaekit.create_vae` takes unless it is told otherwise; None where a model may be without.
    """

    registry: Registry[Any]
    default: str | None

    @property
    def base(self) -> type:
        """The class that all its parts extend."""
        assert self.registry.base is not None
        return self.registry.base

    @property
    def is_optional(self) -> bool:
        """Whether a model may be without."""
        return self.default is None


KINDS: dict[str, Kind] = {  # by the name of the model's attribute, in the order in which a config lists them
    "encoder": Kind(encoders.registry, "mlp"),
    "decoder": Kind(decoders.registry, "mlp"),
    "likelihood": Kind(likelihoods.registry, "bernoulli"),
    "prior": Kind(priors.registry, "standard_normal"),
    "loss": Kind(losses.registry, "elbo"),
    "condition": Kind(conditions.registry, None),
}
MODEL_OPTIONS = ("input_shape", "latent_dim", *KINDS, "posterior")  # what `vaekit.create_vae` composes a model of

_OPTIONS_OF_THE_POSTERIOR = ("logvar_bound", "initial_logvar")  # of the encoder, in format 1

Spec = Mapping[str, Any]


def upgraded(config: Spec) -> dict[str, Any]:
    """A model's config of any earlier format, as the present format has it.

    Before format 2 the bound and the start of the log variance were options of the encoder; they are the posterior's.

    Example:
        >>> old = {"format": 1, "encoder": {"name": "mlp", "logvar_bound": 8.0, "posterior": "full_gaussian"}}
        >>> upgraded(old)["encoder"]
        {'name': 'mlp', 'posterior': {'name': 'full_gaussian', 'logvar_bound': 8.0}}
    """
    encoder = config.get("encoder")
    if config.get("format", 0) >= 2 or not isinstance(encoder, Mapping):
        return dict(config)
    moved = {option: encoder[option] for option in _OPTIONS_OF_THE_POSTERIOR if encoder.get(option) is not None}
    kept = {option: value for option, value in encoder.items() if option not in _OPTIONS_OF_THE_POSTERIOR}
    if moved:
        posterior = kept.get("posterior", "diagonal_gaussian")
        kept["posterior"] = {**({"name": posterior} if isinstance(posterior, str) else posterior), **moved}
    return {**config, "encoder": kept}


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
            f'put @{KINDS[kind].registry.group}.register("some-name") above it and make a new instance. '
            "torch.save(vae.state_dict(), path) stores the weights alone."
        )
    return {option: plain_value(kind, option, value) for option, value in spec.items()}


def plain_value(kind: str, option: str, value: Any) -> Any:
    """`value` as JSON has it: options may be tuples, paths, or registered objects such as schedules.

    Raises:
        ValueError: it is none of these; the message names the option.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # "inf", which JSON has no number for
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    if isinstance(value, Real):  # numpy's
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, (list, tuple)):
        return [plain_value(kind, option, v) for v in value]
    if isinstance(value, Schema):
        value = value.to_config()
    if isinstance(value, Mapping):
        return {str(k): plain_value(kind, option, v) for k, v in value.items()}
    nested = recorded_spec(value)
    if nested is None:
        raise ValueError(
            f"the {kind}'s option {option!r} is a {type(value).__name__}, which a config cannot hold; "
            "give it as numbers, strings, lists, mappings or a registered part"
        )
    return {k: plain_value(kind, option, v) for k, v in nested.items()}

"""What `create_vae(modalities={...})` composes: the specs of a likelihood, an encoder and a decoder for several modalities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vaekit.likelihoods.multimodal import Modalities

_OPTIONS = ("shape", "likelihood", "encoder", "decoder")


def specs_of(modalities: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The specs of the likelihood, the encoder and the decoder, with the shapes that each modality's networks need.

    Args:
        modalities: {modality: {"shape": ..., "likelihood": ..., "encoder": ..., "decoder": ...}}; all but the shape may be left
            out, for "bernoulli" and "mlp", and networks without a name are "mlp".

    Raises:
        TypeError, ValueError: something else; the message names the modality.

    Example:
        >>> specs_of({"a": {"shape": (3,)}})["decoder"]["decoders"]
        {'a': {'name': 'mlp', 'output_shape': (3,), 'parameters_per_element': 1}}
    """
    if not isinstance(modalities, Mapping) or not modalities:
        raise TypeError(f'modalities has to be {{name: {{"shape": ..., "likelihood": ...}}}}, got {modalities!r}')
    for name, given in modalities.items():
        if not isinstance(given, Mapping) or set(given) - set(_OPTIONS):
            raise TypeError(f"the modality {name!r} is a mapping with {', '.join(_OPTIONS)}, got {given!r}")
    parts = {name: {k: v for k, v in given.items() if k in ("shape", "likelihood")} for name, given in modalities.items()}
    likelihood = Modalities(parts)
    encoders, decoders = {}, {}
    for name, (parameters, *shape) in likelihood.outputs.items():
        read = likelihood.likelihood_of(name).encoder_input_shape(likelihood.shapes[name])
        encoders[name] = _network(modalities[name].get("encoder", "mlp"), input_shape=read)
        decoder = modalities[name].get("decoder", "mlp")
        decoders[name] = _network(decoder, output_shape=tuple(shape), parameters_per_element=parameters)
    return {
        "likelihood": {"name": "modalities", "parts": parts},
        "encoder": {"name": "modalities", "encoders": encoders},
        "decoder": {"name": "modalities", "decoders": decoders},
        "input_shape": (sum(map(math.prod, likelihood.shapes.values())),),
    }


def _network(spec: Any, **shapes: Any) -> Any:
    """A network's spec with its shapes; an object is left as it is."""
    spec = {"name": spec} if isinstance(spec, str) else spec
    return {"name": "mlp", **shapes, **spec} if isinstance(spec, Mapping) else spec

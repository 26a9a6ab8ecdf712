"""What fits what: the rules by which a model is composed, one function for each pair of parts."""

from __future__ import annotations

from typing import Any

from vaekit import specs
from vaekit.conditions.base import Condition
from vaekit.decoders.base import Decoder
from vaekit.encoders.base import Encoder
from vaekit.latents import LatentKind
from vaekit.likelihoods.base import Likelihood
from vaekit.losses.base import Loss
from vaekit.posteriors.family import registry as families
from vaekit.priors.base import Prior
from vaekit.registry import Registry


def data_shape(decoder: Decoder, likelihood: Likelihood) -> tuple[int, ...]:
    """The shape of one example: the likelihood's where it has one of its own, and the decoder's otherwise."""
    return decoder.output_shape if likelihood.data_shape is None else likelihood.data_shape


def check_kinds(parts: dict[str, Any]) -> None:
    """Refuse what is not an instance of its kind's base, a name for example."""
    for name, part in parts.items():
        kind = specs.KINDS[name]
        if not isinstance(part, kind.base) and not (part is None and kind.is_optional):
            raise TypeError(
                f"{name} has to be an instance of vaekit.{kind.base.__name__}, got {part!r}. To compose by names or specs use "
                f"vaekit.create_vae; to use a module of your own, let its class extend vaekit.{kind.base.__name__}."
            )


def _names(kind: str, latents: LatentKind) -> str:
    """The parts of a kind that are for latents of these kinds."""
    registry: Registry[Any] = families if kind == "posterior" else specs.KINDS[kind].registry
    return ", ".join(name for name, part in registry.parts().items() if part.latents & latents) or "there is none"


def check_encoder_and_likelihood(encoder: Encoder, likelihood: Likelihood, shape: tuple[int, ...]) -> None:
    """The encoder reads what the likelihood makes of an example for it: the example itself as a rule."""
    read = likelihood.encoder_input_shape(shape)
    if encoder.input_shape != read:
        hint = (
            f", of which {type(likelihood).__name__} shows the encoder {read}; make the encoder with "
            f"input_shape=likelihood.encoder_input_shape({shape})"
        )
        raise ValueError(
            f"the encoder reads data of shape {encoder.input_shape}, but the decoder describes {shape}"
            + (hint if read != shape else "")
        )


def check_encoder_and_decoder(encoder: Encoder, decoder: Decoder) -> None:
    """They have the shape of the latents in common."""
    if encoder.latent_shape != decoder.latent_shape:
        raise ValueError(
            f"the encoder's latents have the shape {encoder.latent_shape}, but the decoder takes {decoder.latent_shape}"
        )


def check_decoder_and_likelihood(decoder: Decoder, likelihood: Likelihood) -> None:
    """The decoder's output has the likelihood's layout, and as many parameters for each element."""
    shape = data_shape(decoder, likelihood)
    described = likelihood.decoder_output_shape(shape)
    if decoder.output_shape != described:
        raise ValueError(
            f"{type(likelihood).__name__} needs a decoder with output_shape={described} and parameters_per_element="
            f"{likelihood.parameters_per_element} for data of shape {shape}, but the decoder's output_shape is "
            f"{decoder.output_shape}; make it with output_shape=likelihood.decoder_output_shape({shape}). A model saved with "
            "another layout of the decoder's output cannot be loaded any more: train it anew"
        )
    if decoder.parameters_per_element != likelihood.parameters_per_element:
        raise ValueError(
            f"{type(likelihood).__name__} needs {likelihood.parameters_per_element} parameter(s) for each element, "
            f"but the decoder gives {decoder.parameters_per_element}; "
            f"make it with parameters_per_element={likelihood.parameters_per_element}"
        )


def check_networks_and_condition(encoder: Encoder, decoder: Decoder, condition: Condition | None) -> None:
    """The decoder takes the embedded condition, and the encoder takes it or does without."""
    dim = 0 if condition is None else condition.dim
    if decoder.condition_dim != dim or encoder.condition_dim not in (0, dim):
        takes = "nothing besides x" if condition is None else f"{dim} number(s) by {type(condition).__name__}"
        raise ValueError(
            f"the networks are told {takes}, but the encoder is made for condition_dim={encoder.condition_dim} and the "
            f"decoder for condition_dim={decoder.condition_dim}; make them with condition_dim={dim}"
        )


def check_latents_of(kind: str, part: Prior | Loss, encoder: Encoder) -> None:
    """A prior or an objective is for latents of the encoder's kind, vectors or codes, and of their shape."""
    family = encoder.family
    if not family.latents & part.latents:
        raise ValueError(
            f"{type(part).__name__} is a {kind} for latents that are {part.latents.words}, but those of the encoder's "
            f"{type(family).__name__} are {family.latents.words}; for those take another {kind}: "
            f"{_names(kind, family.latents)}; or another posterior: {_names('posterior', part.latents)}"
        )
    if part.latent_shape not in (None, encoder.latent_shape):
        raise ValueError(
            f"the {kind} is a {type(part).__name__} over latents of the shape {part.latent_shape}, but the encoder's have "
            f"{encoder.latent_shape}; make it with latent_shape={encoder.latent_shape}"
        )


def check_loss_and_rest(loss: Loss, condition: Condition | None, likelihood: Likelihood, encoder: Encoder) -> None:
    """What may be missing, a condition or modalities, needs an objective that is made for it, and the other way round."""
    infers = condition is not None and condition.infers
    if infers != loss.infers_condition:
        name = "no condition" if condition is None else f"the condition {type(condition).__name__}"
        raise ValueError(
            f"{type(loss).__name__} is an objective for models whose condition may be missing, and this one has {name}; take the "
            'condition "inferred_labels" for example'
            if loss.infers_condition
            else f"{name} may be missing for some examples, which the objective {type(loss).__name__} cannot do without; take "
            'the loss "semi_supervised" for example, or the condition "labels" where none is missing'
        )
    if loss.hides_modalities and not likelihood.modalities:
        raise ValueError(
            f"{type(loss).__name__} is an objective for models of several modalities, create_vae(modalities=...); this one's "
            "x is one tensor"
        )
    if condition is not None and condition.input_shape not in (None, encoder.input_shape):
        raise ValueError(
            f"the condition {type(condition).__name__} reads data of shape {condition.input_shape}, but the encoder "
            f"{encoder.input_shape}; make it with input_shape={encoder.input_shape}"
        )

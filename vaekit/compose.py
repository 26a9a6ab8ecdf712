"""`create_vae`: a model from a preset, from names and options, from objects, or from a mixture of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vaekit import presets, specs
from vaekit.conditions.base import Condition
from vaekit.decoders.base import Decoder
from vaekit.encoders.base import Encoder
from vaekit.likelihoods.base import Likelihood
from vaekit.losses.base import Loss
from vaekit.ops import make_key
from vaekit.posteriors.family import Family
from vaekit.priors.base import Prior
from vaekit.vae import VAE

_seeding = threading.Lock()  # torch's generator is one for all threads
_DEFAULTS: dict[str, Any] = {
    "encoder": "mlp",
    "decoder": "mlp",
    "likelihood": "bernoulli",
    "prior": "standard_normal",
    "loss": "elbo",
    "condition": None,
}


def create_vae(
    preset: str | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    latent_dim: int | None = None,
    encoder: str | Mapping[str, Any] | Encoder | None = None,
    decoder: str | Mapping[str, Any] | Decoder | None = None,
    likelihood: str | Mapping[str, Any] | Likelihood | None = None,
    prior: str | Mapping[str, Any] | Prior | None = None,
    loss: str | Mapping[str, Any] | Loss | None = None,
    condition: str | Mapping[str, Any] | Condition | None = None,
    posterior: str | Mapping[str, Any] | Family | None = None,
    seed: int | None = None,
) -> VAE:
    """Compose a model from a preset, from parts, or from a preset with other parts.

    Args:
        preset: a name from `vaekit.presets.names()`; what it leaves open, and everything without a preset, is an "mlp"
            encoder and decoder, a "bernoulli" likelihood, a "standard_normal" prior and the "elbo".
        input_shape: the shape of one example, without the batch. The encoder is made for what the likelihood shows it of such
            an example; where the likelihood names the columns of a table, they are counted.
        latent_dim: the number of latent dimensions; of latent channels for an encoder with spatial=True, whose latents' shape the
            decoder then gets.
        encoder, decoder, likelihood, prior, loss: a registered name, {"name": ..., option: ...}, or an object. A mapping without
            a name sets options of the preset's (or the default) part.
        condition: the same, what a conditional model is told of each example: {"name": "labels", "classes": 10} for example. The
            networks need the option condition_dim, which they get from it.
        posterior: the family of q(z | x), the same way; it is the encoder's option of that name, "diagonal_gaussian" by default.
        seed: fixes the initial weights, and leaves torch's global generator as it was; without one they come from there.

    Returns:
        the model, float32, on the CPU.

    Raises:
        UnknownNameError, TypeError, ValueError: a name, an option or shapes that do not exist or fit, by name.

    Example:
        >>> vae = create_vae(input_shape=(13,), latent_dim=3, encoder={"name": "mlp", "hidden": (64,)}, likelihood="gaussian")
        >>> vae.sample(5).shape
        torch.Size([5, 13])
        >>> create_vae("dense-mnist", latent_dim=10, loss={"beta": 4.0}).latent_shape
        (10,)
        >>> spatial = {"name": "conv", "spatial": True}
        >>> create_vae(input_shape=(3, 32, 32), latent_dim=4, encoder=spatial, decoder="conv").latent_shape
        (4, 8, 8)
    """
    if preset is not None and not isinstance(preset, str):
        raise TypeError(f"the preset has to be a name, one of {', '.join(presets.names())}; got {preset!r}")
    chosen = {} if preset is None else dict(presets.registry.create(preset))
    input_shape = chosen.get("input_shape") if input_shape is None else input_shape
    latent_dim = chosen.get("latent_dim") if latent_dim is None else latent_dim
    if isinstance(encoder, Encoder):
        latent_dim = encoder.latent_shape[0] if latent_dim is None else latent_dim
    _check_given("latent_dim", latent_dim, "2")

    given = {
        "encoder": encoder,
        "decoder": decoder,
        "likelihood": likelihood,
        "prior": prior,
        "loss": loss,
        "condition": condition,
    }
    if not isinstance(encoder, Encoder):
        posterior = _resolve("posterior", posterior, chosen.get("posterior"))
    chosen_specs = {kind: _resolve(kind, given[kind], chosen.get(kind, default)) for kind, default in _DEFAULTS.items()}

    def build(kind: str, context: Mapping[str, Any] = {}) -> Any:
        spec = chosen_specs[kind]
        return specs.build_part(kind, {**context, **spec}) if isinstance(spec, Mapping) else spec

    def told(kind: str, condition: Any) -> dict[str, int]:
        """What a network has to know of the condition."""
        spec = chosen_specs[kind]
        if condition is None or not isinstance(spec, Mapping):
            return {}
        if not specs.REGISTRIES[kind].takes(spec["name"], "condition_dim"):
            raise TypeError(
                f"the {kind} {spec['name']!r} cannot be conditional: it has no option condition_dim. Let its class take that "
                "option, give it to super().__init__, and take the embedded condition [batch, condition_dim] in forward"
            )
        return {"condition_dim": getattr(condition, "dim", 0)}  # VAE refuses what is no Condition

    def family() -> dict[str, Any]:
        """What the encoder has to know of the posterior."""
        spec = chosen_specs["encoder"]
        if posterior is None:
            return {}
        if not isinstance(spec, Mapping):
            raise TypeError(f"the encoder is an object, with a posterior already: make it with posterior={posterior!r} instead")
        if "posterior" in spec:
            whose = "the preset's" if posterior == chosen.get("posterior") else "that of posterior="
            raise TypeError(
                f"there are two posteriors, {whose} {posterior!r} and the encoder's {spec['posterior']!r}; give yours as "
                "posterior= alone"
            )
        if not specs.REGISTRIES["encoder"].takes(spec["name"], "posterior"):
            raise TypeError(
                f"the encoder {spec['name']!r} has a posterior of its own: it has no option posterior. Let its class take that "
                "option and make its last layer by `self.make_head(posterior, ...)`"
            )
        return {"posterior": posterior}

    def compose() -> VAE:
        built = {kind: build(kind) for kind in ("likelihood", "condition")}
        per_element = getattr(built["likelihood"], "parameters_per_element", 1)  # VAE refuses what is no Likelihood
        shown, described = _network_shapes(built["likelihood"], encoder, input_shape)
        encoder_context = {"input_shape": shown, "latent_dim": latent_dim, **told("encoder", built["condition"]), **family()}
        built["encoder"] = build("encoder", encoder_context)
        latent_shape: tuple[int, ...] = getattr(built["encoder"], "latent_shape", ())  # VAE refuses what is no Encoder
        is_spatial = len(latent_shape) > 1 and latent_shape[0] == latent_dim
        context = {
            "latent_dim": latent_shape if is_spatial else latent_dim,
            "output_shape": described,
            "parameters_per_element": per_element,
            **told("decoder", built["condition"]),
        }
        built["decoder"] = build("decoder", context)
        shapes = {"latent_shape": latent_shape, "input_shape": getattr(built["encoder"], "input_shape", ())}
        for kind in ("prior", "loss"):
            spec = chosen_specs[kind]
            takes = specs.REGISTRIES[kind].describe(spec["name"]).options if isinstance(spec, Mapping) else ()
            needed = [option for option in shapes if option in takes]
            built[kind] = build(kind, {option: shapes[option] for option in needed})
        return VAE(**built)

    if seed is None:
        return compose()
    make_key(seed)  # refuses what is not a 64-bit integer
    with _seeding, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every accelerator as well
        return compose()


def _check_given(option: str, value: Any, example: str) -> None:
    if value is None:
        raise TypeError(f"create_vae needs {option}, {option}={example} for example, or a preset: {', '.join(presets.names())}")


def _network_shapes(likelihood: Any, encoder: Any, input_shape: Sequence[int] | None) -> tuple[Sequence[int], Sequence[int]]:
    """The encoder's input_shape and the decoder's output_shape; the shape of an example is a part's where it was not given."""
    if not isinstance(likelihood, Likelihood):  # which VAE refuses
        return (1,), (1,)
    shape = likelihood.data_shape if input_shape is None else input_shape
    if shape is None and isinstance(encoder, Encoder):
        shape = encoder.input_shape
        if likelihood.encoder_input_shape(shape) != shape:
            raise TypeError(
                f"create_vae needs input_shape, the shape of one example: the encoder reads {shape}, but of data "
                f"{type(likelihood).__name__} shows it something of another shape"
            )
    _check_given("input_shape", shape, "(1, 28, 28)")
    assert shape is not None
    return likelihood.encoder_input_shape(shape), likelihood.decoder_output_shape(shape)


def _resolve(kind: str, given: Any, default: Any) -> Any:
    """What was given for a part, as a spec with a name or as an object; a mapping without a name amends the default."""
    default = {"name": default} if isinstance(default, str) else default
    if given is None:
        return default
    if isinstance(given, str):
        return {"name": given}
    if isinstance(given, Mapping) and "name" not in given:
        return {**(default or {}), **given}
    return given

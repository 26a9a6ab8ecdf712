"""`create_vae`: a model from a preset, from names and options, from objects, or from a mixture of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from vaekit import multimodal, presets, seeding
from vaekit.conditions.base import Condition
from vaekit.data.schema import Schema
from vaekit.decoders.base import Decoder
from vaekit.encoders.base import Encoder
from vaekit.likelihoods.base import Likelihood
from vaekit.losses.base import Loss
from vaekit.posteriors.family import Family
from vaekit.posteriors.family import registry as families
from vaekit.priors.base import Prior
from vaekit.specs import KINDS
from vaekit.vae import VAE

_CONDITIONAL = (
    "cannot be conditional: it has no option condition_dim. Let its class take that option, give it to super().__init__, and "
    "take the embedded condition [batch, condition_dim] in forward"
)
_POSTERIOR = (
    "has a posterior of its own: it has no option posterior. Let its class take that option and make its last layer by "
    "`self.make_head(posterior, ...)`"
)
# Options of an encoder or a decoder, and where create_vae has them from.
_FILLED_IN = {
    "input_shape": "its own input_shape= and the likelihood",
    "latent_dim": "its own latent_dim= and the encoder",
    "output_shape": "its own input_shape= and the likelihood",
    "parameters_per_element": "the likelihood",
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
    condition: str | Mapping[str, Any] | Condition | Sequence[str | Mapping[str, Any] | Condition] | None = None,
    posterior: str | Mapping[str, Any] | Family | None = None,
    schema: Schema | Mapping[str, Any] | None = None,
    modalities: Mapping[str, Mapping[str, Any]] | None = None,
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
        condition: the same, what a conditional model is told of each example: {"name": "labels", "classes": 10} for example, or a
            list of several. The networks need the option condition_dim, which they get from it;
            encoder={"condition_dim": 0} makes an encoder that is not told, as scVI's.
        posterior: the family of q(z | x), the same way; it is the encoder's option of that name, "diagonal_gaussian" by default.
        schema: of a table that the model is for, a `vaekit.data.Schema` or what its `to_config` gives: it chooses each column's
            likelihood and is kept with the model, so that `fit` and `evaluate` take such tables as they are.
            likelihood={"columns": {"income": "student_t"}} gives a column another one.
        modalities: of what x is several things, each of which may be missing: {name: {"shape": ..., "likelihood": ...,
            "encoder": ..., "decoder": ...}}, of which all but the shape may be left out. x is then {name: tensor}, and
            encoder={"fusion": "mixture_of_experts"} says how what the encoders find is put together.
        seed: fixes the initial weights, and leaves torch's global generator as it was; without one they come from there.

    Returns:
        the model, float32, on the CPU.

    Raises:
        UnknownNameError, TypeError, ValueError: a name, an option or shapes that do not exist or fit, by name.

    Example:
        >>> import vaekit
        >>> vae = create_vae(input_shape=(13,), latent_dim=3, encoder={"name": "mlp", "hidden": (64,)}, likelihood="gaussian")
        >>> vae.sample(5).shape
        torch.Size([5, 13])
        >>> create_vae("dense-mnist", latent_dim=10, loss={"beta": 4.0}).latent_shape
        (10,)
        >>> import pandas
        >>> frame = pandas.DataFrame({"age": [31, 45, 62], "smoker": ["no", "yes", "no"]})
        >>> create_vae("table", schema=vaekit.data.Schema.guess(frame)).likelihood.names
        ('age', 'smoker')
        >>> spatial = {"name": "conv", "spatial": True}
        >>> create_vae(input_shape=(3, 32, 32), latent_dim=4, encoder=spatial, decoder="conv").latent_shape
        (4, 8, 8)
    """
    if schema is not None:
        likelihood = likelihood_by(schema, likelihood)
    of_modalities = {} if modalities is None else multimodal.specs_of(modalities)
    given = {
        "encoder": encoder,
        "decoder": decoder,
        "likelihood": likelihood,
        "prior": prior,
        "loss": loss,
        "condition": {"name": "several", "parts": condition} if isinstance(condition, (list, tuple)) else condition,
    }
    chosen = _preset(preset)
    chosen = {**chosen, **of_modalities}
    specs = {name: _spec(name, given[name], chosen.get(name, kind.default)) for name, kind in KINDS.items()}
    latent_dim = chosen.get("latent_dim") if latent_dim is None else latent_dim
    if latent_dim is None and isinstance(encoder, Encoder):
        latent_dim = encoder.latent_shape[0]
    posterior_offer = _posterior_offer(specs["encoder"], posterior, chosen.get("posterior"))
    input_shape = chosen.get("input_shape") if input_shape is None else input_shape
    with nullcontext() if seed is None else seeding.drawing_from(seed):
        return _composed(specs, input_shape, _needed("latent_dim", latent_dim, "2"), posterior_offer)


def likelihood_by(schema: Schema | Mapping[str, Any], given: Any = None) -> dict[str, Any]:
    """The likelihood of a table by its schema, with what is given of it.

    Args:
        schema: a `vaekit.data.Schema`, or its config.
        given: options of `columns`, of which the columns are those that have another likelihood than the schema chooses.

    Raises:
        TypeError: something else than a schema, or another likelihood than `columns`.
        ValueError: a column that the schema does not have.

    Example:
        >>> import pandas
        >>> schema = Schema.guess(pandas.DataFrame({"age": [31.5, 45.0], "income": [3e4, 2e5]}))
        >>> likelihood_by(schema, {"columns": {"income": "student_t"}})["columns"]
        {'age': {'name': 'gaussian', 'variance': 'shared'}, 'income': 'student_t'}
    """
    if not isinstance(schema, (Schema, Mapping)):
        raise TypeError(
            f"schema is a vaekit.data.Schema or its config, got {schema!r}; vaekit.data.Schema.guess(frame) makes one, and the "
            "examples of vaekit.data.load(frame, schema='guess') have one"
        )
    schema = schema if isinstance(schema, Schema) else Schema.from_config(schema)
    chosen: dict[str, Any] = {**schema.likelihood(), "schema": schema.to_config()}
    if given is None or given == "columns":
        return chosen
    if not isinstance(given, Mapping) or given.get("name", "columns") != "columns":
        raise TypeError(f"a schema chooses the likelihood of each column, but likelihood={given!r} is one of all; leave one out")
    columns = given.get("columns", {})
    if not isinstance(columns, Mapping):
        return {**chosen, **given}
    if unknown := [name for name in columns if name not in schema.columns]:
        raise ValueError(f"the schema has no column {unknown[0]!r}; it has: {', '.join(schema.columns)}")
    return {**chosen, **given, "columns": {**chosen["columns"], **columns}}


def _composed(
    specs: Mapping[str, Any], input_shape: Sequence[int] | None, latent_dim: int, posterior_offer: Mapping[str, Any]
) -> VAE:
    def build(kind: str, offers: Mapping[str, Any] | None = None, **needed: Any) -> Any:
        spec = {"name": specs[kind]} if isinstance(specs[kind], str) else specs[kind]
        _check_filled_in(kind, spec, needed)
        return KINDS[kind].registry.build({**needed, **spec} if isinstance(spec, Mapping) else spec, offers)

    likelihood = build("likelihood")
    data_shape = _data_shape(likelihood, specs["encoder"], input_shape)
    read = {"input_shape": likelihood.encoder_input_shape(data_shape)}
    condition = None if specs["condition"] is None else build("condition", read)
    conditional = {} if condition is None else {"condition_dim": condition.dim}
    for kind in ("encoder", "decoder"):
        for option in conditional:
            _check_takes(kind, specs[kind], option, _CONDITIONAL)
    encoder = build(
        "encoder",
        **read,
        latent_dim=latent_dim,
        **posterior_offer,
        **conditional,
    )
    is_spatial = len(encoder.latent_shape) > 1 and encoder.latent_shape[0] == latent_dim
    path = encoder.family.path
    decoder = build(
        "decoder",
        {} if path is None else {"features_shape": path.features_shape},
        latent_dim=encoder.latent_shape if is_spatial else latent_dim,
        output_shape=likelihood.decoder_output_shape(data_shape),
        parameters_per_element=likelihood.parameters_per_element,
        **conditional,
    )
    shapes = {"latent_shape": encoder.latent_shape, "input_shape": encoder.input_shape}
    return VAE(
        encoder,
        decoder,
        likelihood=likelihood,
        prior=KINDS["prior"].registry.build(specs["prior"], offers=shapes),
        loss=KINDS["loss"].registry.build(specs["loss"], offers=shapes),
        condition=condition,
    )


def _preset(name: str | None) -> Mapping[str, Any]:
    """What a preset says; nothing without one."""
    if name is None:
        return {}
    if not isinstance(name, str):
        raise TypeError(f"the preset has to be a name, one of {', '.join(presets.names())}; got {name!r}")
    return presets.registry.create(name)


def _spec(name: str, given: Any, default: Any) -> Any:
    """What was given for a part, or its default; a mapping without a name amends the default.

    Raises:
        TypeError: what is neither a name, nor a mapping, nor an object of the kind.
    """
    kind = KINDS[name]
    spec = _amended(given, default)
    if not isinstance(spec, (str, Mapping, kind.base)) and not (spec is None and kind.is_optional):
        raise TypeError(
            f'{name} has to be a name, {{"name": ..., option: ...}}, or an instance of vaekit.{kind.base.__name__}, got {spec!r}'
        )
    return spec


def _amended(given: Any, default: Any) -> Any:
    if given is None:
        return default
    if isinstance(given, Mapping) and "name" not in given:
        return {**({"name": default} if isinstance(default, str) else default or {}), **given}
    return given


def _posterior_offer(encoder: Any, given: Any, preset: Any) -> dict[str, Any]:
    """The option by which the encoder gets the posterior that was asked for; nothing where none was.

    Raises:
        TypeError: an encoder that has a posterior already, or can have no other than its own.
    """
    if isinstance(encoder, Encoder) and given is None:
        return {}
    _check_options_of_the_posterior(encoder)
    posterior = _amended(given, "diagonal_gaussian" if isinstance(given, Mapping) and preset is None else preset)
    if posterior is None:
        return {}
    posterior = {"name": posterior} if isinstance(posterior, str) else posterior
    if isinstance(encoder, Encoder):
        raise TypeError(f"the encoder is an object, with a posterior already: make it with posterior={posterior!r} instead")
    if not isinstance(posterior, (Mapping, Family)):
        families.build(posterior)  # which says what it has to be
    if isinstance(encoder, Mapping) and "posterior" in encoder:
        whose = "the preset's" if posterior == preset else "that of posterior="
        raise TypeError(
            f"there are two posteriors, {whose} {posterior!r} and the encoder's {encoder['posterior']!r}; give yours as "
            "posterior= alone"
        )
    _check_takes("encoder", encoder, "posterior", _POSTERIOR)
    return {"posterior": posterior}


def _check_options_of_the_posterior(encoder: Any) -> None:
    """Refuse options that encoders had before they were the posterior's, with what to write instead."""
    options = encoder if isinstance(encoder, Mapping) else {}
    for option in ("logvar_bound", "initial_logvar"):
        if option in options and not KINDS["encoder"].registry.takes(options["name"], option):
            raise TypeError(
                f"{option} is an option of the posterior, not of the encoder {options['name']!r}: give it as "
                f"posterior={{{option!r}: {options[option]!r}}}"
            )


def _check_takes(kind: str, spec: Any, option: str, otherwise: str) -> None:
    """Refuse a part that does not take an option that it needs; of an object, `VAE` says what does not fit."""
    name = spec.get("name") if isinstance(spec, Mapping) else spec
    if isinstance(name, str) and not KINDS[kind].registry.takes(name, option):
        raise TypeError(f"the {kind} {name!r} {otherwise}")


def _check_filled_in(kind: str, spec: Any, filled_in: Mapping[str, Any]) -> None:
    """Refuse a part's option that is filled in from the model's own, and says something else."""
    for option, source in _FILLED_IN.items():
        if not isinstance(spec, Mapping) or option not in spec or option not in filled_in:
            continue
        own, value = (tuple(v) if isinstance(v, Sequence) else v for v in (spec[option], filled_in[option]))
        if own != value:
            raise ValueError(
                f"{option}={spec[option]!r} is given in {kind}=, but create_vae fills it in, {value!r} here, from {source}; "
                f"leave it out of {kind}="
            )


def _data_shape(likelihood: Likelihood, encoder: Any, input_shape: Sequence[int] | None) -> Sequence[int]:
    """The shape of one example: what was given, or else what the likelihood or an encoder that is an object knows of it."""
    shape = likelihood.data_shape if input_shape is None else input_shape
    if shape is None and isinstance(encoder, Encoder):
        shape = encoder.input_shape
        if likelihood.encoder_input_shape(shape) != shape:
            raise TypeError(
                f"create_vae needs input_shape, the shape of one example: the encoder reads {shape}, but of data "
                f"{type(likelihood).__name__} shows it something of another shape"
            )
    checked: Sequence[int] = _needed("input_shape", shape, "(1, 28, 28)")
    return checked


def _needed(option: str, value: Any, example: str) -> Any:
    if value is None:
        raise TypeError(f"create_vae needs {option}, {option}={example} for example, or a preset: {', '.join(presets.names())}")
    return value

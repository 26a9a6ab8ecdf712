"""Laws of saving and loading: what comes back is what was saved, and anything else is refused by name."""

import itertools
import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from helpers.densities import OF_SEVERAL, REQUIRED, data_in_support
from helpers.interrupts import InterruptedOS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

import vaekit
from vaekit import VAE, conditions, decoders, encoders, files, likelihoods, losses, priors, saving, schedules, specs
from vaekit.decoders import MLPDecoder
from vaekit.encoders import MLPEncoder
from vaekit.likelihoods import Bernoulli, Gaussian

IMAGE = (1, 8, 8)
SHAPES = {"conv1d": (2, 11), "conv": IMAGE, "conv3d": (1, 4, 5, 6)}  # of the parts that do not take every shape
SMALL = {
    "mlp": {"hidden": (6,)},
    **{name: {"channels": (2, 3), "hidden": (5,)} for name in SHAPES},
    "resnet": {"channels": (3, 3), "blocks": 1, "attention": True},
}
VARIANTS = {
    "gaussian": [{"variance": v} for v in ("fixed", "shared", "element")] + [{"sigma": 0.1}],
    "laplace": [{"scale": "shared", "b": 2.0, "missing": "ignore"}],
    "student_t": [{"scale": "element", "freedom": "shared", "df": 3.0}],
    **{name: [options] for name, options in REQUIRED.items()},
    "discretized_logistic": [{"components": 2, "levels": 16}],
    "negative_binomial": [{}, {"dispersion": "shared", "theta": 0.5}],
}
# Every pair of networks, and every variant of a likelihood; tests/test_grid.py has all pairs of parts.
COMBINATIONS = [
    *(
        (encoder, decoder, {"name": "gaussian"})
        for encoder, decoder in itertools.product(encoders.names(), decoders.names())
        if not OF_SEVERAL & {encoder, decoder}
        if len({part for part in (encoder, decoder) if part in SHAPES}) < 2
        and (encoder == "top_down" or decoder != "top_down")
        and (encoder != "top_down" or decoder in ("mlp", "top_down"))
    ),
    *(
        ("mlp", "mlp", {"name": name, **options})
        for name in likelihoods.names()
        if name not in OF_SEVERAL
        for options in VARIANTS.get(name, [{}])
    ),
]


def model(input_shape=IMAGE, latent_dim=2, hidden=(6,), seed=0, **parts) -> VAE:
    return vaekit.create_vae(
        **{"encoder": {"hidden": hidden}, "decoder": {"hidden": hidden}, **parts},
        input_shape=input_shape,
        latent_dim=latent_dim,
        seed=seed,
    )


def outputs(vae: VAE) -> dict[str, torch.Tensor]:
    """Everything a model computes from data in evaluation mode, with the noise fixed."""
    vae.eval()
    x = data_in_support(vae.likelihood, (3, *vae.input_shape), seed=1).to(next(vae.parameters()).dtype)
    key = vaekit.make_key(3)
    terms = vae(x, key=key, step=1)
    drawn = {f"sample draw={draw}": vae.sample(4, draw=draw, key=key) for draw in (False, True)}
    given = {name: value for name, value in terms._asdict().items() if isinstance(value, torch.Tensor)}  # some have no auxiliary
    return {**given, "reconstruct": vae.reconstruct(x), **drawn}


def assert_same_outputs(one: VAE, other: VAE) -> None:
    expected, got = outputs(one), outputs(other)
    for name in expected:
        assert got[name].dtype == expected[name].dtype, name
        assert torch.equal(got[name], expected[name]), name


@pytest.fixture
def saved(tmp_path) -> Path:
    """A saved model's model.safetensors."""
    return model().save(tmp_path / "saved") / "model.safetensors"


def rewrite(file: Path, *, tensors=None, change=lambda saved_config: None) -> None:
    """The file again, with other tensors or another config inside."""
    with safe_open(file, framework="pt") as opened:
        inside = json.loads(opened.metadata()["vaekit"])
    change(inside)
    save_file(load_file(file) if tensors is None else tensors, file, metadata={"vaekit": json.dumps(inside)})
    file.with_name("config.json").write_text(json.dumps(inside))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("encoder", "decoder", "likelihood"), COMBINATIONS, ids=lambda v: str(v).replace("'", ""))
def test_a_loaded_model_computes_exactly_what_the_saved_one_did(encoder, decoder, likelihood, dtype, tmp_path):
    vae = vaekit.create_vae(
        input_shape=(3,) if likelihood["name"] == "columns" else SHAPES.get(encoder) or SHAPES.get(decoder, IMAGE),
        latent_dim=3,
        encoder={"name": encoder, **SMALL.get(encoder, {})},
        decoder={"name": decoder, **SMALL.get(decoder, {})},
        likelihood=likelihood,
        loss={"beta": 4.0},
        seed=0,
    ).to(dtype)
    again = vaekit.load(vae.save(tmp_path))
    assert_same_outputs(vae, again)
    assert again.config() == vae.config()


@pytest.mark.parametrize("default", [torch.float32, torch.float64], ids=str)
def test_the_default_dtype_at_loading_does_not_matter(default, tmp_path):
    vae = model(likelihood={"name": "gaussian", "sigma": 0.1})
    vae.save(tmp_path)
    torch.set_default_dtype(default)
    try:
        again = vaekit.load(tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_outputs(vae, again)


def test_a_model_composed_under_a_float64_default_dtype_comes_back_the_same(tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        vae = model(likelihood={"name": "gaussian", "sigma": 0.1})
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_outputs(vae, vaekit.load(vae.save(tmp_path)))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    input_shape=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    latent_dim=st.integers(1, 5),
    hidden=st.lists(st.integers(1, 5), max_size=3).map(tuple),
)
def test_any_shape_survives(input_shape, latent_dim, hidden, tmp_path):
    vae = model(input_shape, latent_dim, hidden)
    again = vaekit.load(vae.save(tmp_path))
    assert (again.input_shape, again.latent_shape) == (input_shape, (latent_dim,))
    assert_same_outputs(vae, again)


def test_trained_weights_survive(tmp_path):
    vae = model()
    vaekit.fit(vae, torch.rand(16, *IMAGE), epochs=1, batch_size=8, progress=False, device="cpu")
    assert_same_outputs(vae, vaekit.load(vae.save(tmp_path)))


def test_save_returns_the_folder_and_load_takes_it_or_the_file(tmp_path):
    vae = model()
    folder = vae.save(str(tmp_path / "deep" / "folder"))
    assert folder == tmp_path / "deep" / "folder"
    assert {p.name for p in folder.iterdir()} == {"model.safetensors", "config.json"}
    assert_same_outputs(vaekit.load(folder), vaekit.load(str(folder / "model.safetensors")))


def test_saving_over_a_model_replaces_it(tmp_path):
    model(seed=0).save(tmp_path)
    second = model(latent_dim=4, seed=1)
    assert_same_outputs(second, vaekit.load(second.save(tmp_path)))


def test_loading_leaves_the_global_generator_alone(saved):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    vaekit.load(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_leaves_the_global_generator_alone(tmp_path):
    vae = model(prior={"name": "gaussian_mixture", "components": 3})
    before = torch.get_rng_state()
    vae.save(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loaded_model_is_in_evaluation_mode_and_a_saved_one_in_the_mode_that_it_was_in(tmp_path):
    vae = model(encoder={"hidden": (6,), "dropout": 0.5, "normalization": "batch"}, decoder={"hidden": (6,), "dropout": 0.5})
    folder = vae.save(tmp_path)
    assert all(module.training for module in vae.modules())
    again = vaekit.load(folder)
    assert not any(module.training for module in again.modules())
    x = torch.rand(4, *IMAGE)
    assert torch.equal(again.reconstruct(x), again.reconstruct(x))
    assert again.sample(1).isfinite().all()


@pytest.mark.parametrize("where", ["meta", "cpu"])
def test_a_model_is_loaded_onto_the_cpu_whatever_the_default_device(where, saved):
    expected = vaekit.load(saved)
    with torch.device(where):
        again = vaekit.load(saved)
    assert {tensor.device.type for tensor in again.state_dict().values()} == {"cpu"}
    assert_same_outputs(expected, again)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_dtype_of_the_weights_comes_back(dtype, tmp_path):
    vae = model(prior="diagonal_gaussian").to(dtype)
    again = vaekit.load(vae.save(tmp_path))
    for name, tensor in vae.state_dict().items():
        assert again.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(again.state_dict()[name], tensor)


def test_buffers_of_other_dtypes_keep_theirs(own_registries, tmp_path):
    @likelihoods.register("test-buffers")
    class WithBuffers(Bernoulli):
        def __init__(self):
            super().__init__()
            self.register_buffer("exact", torch.tensor([0.1, 0.2], dtype=torch.float64))
            self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
            self.register_buffer("not_saved", torch.arange(3.0).double(), persistent=False)

    vae = model(likelihood="test-buffers")
    vae.likelihood.exact.mul_(3.0)
    vae.likelihood.seen.add_(7)
    again = vaekit.load(vae.save(tmp_path)).likelihood
    for name in ("exact", "seen", "not_saved"):
        assert getattr(again, name).dtype == getattr(vae.likelihood, name).dtype
        assert torch.equal(getattr(again, name), getattr(vae.likelihood, name))


def test_parts_that_look_at_values_while_they_are_constructed_are_saved_and_loaded(own_registries, tmp_path):
    """They cannot be constructed without memory, on the device "meta"."""

    @decoders.register("test-values")
    class Values(MLPDecoder):
        def __init__(self, latent_dim, output_shape, parameters_per_element=1, scale=2.0):
            super().__init__(latent_dim, output_shape, parameters_per_element, hidden=(4,))
            orthogonal = torch.linalg.qr(torch.arange(9.0).reshape(3, 3) + torch.eye(3))[0]
            self.number = float(orthogonal.abs().sum()) * scale
            self.places = torch.ones(5).nonzero().numpy().tolist()
            self.register_buffer("_scale", torch.tensor(self.number), persistent=False)

        def forward(self, z):
            return super().forward(z) * self._scale

    vae = model(decoder={"name": "test-values", "scale": 0.5})
    again = vaekit.load(vae.save(tmp_path))
    assert (again.decoder.number, again.decoder.places) == (vae.decoder.number, vae.decoder.places)
    assert_same_outputs(vae, again)


# The config: the metadata is the authority, the copy is for people.


def test_config_json_is_a_copy_of_the_metadata(saved):
    with safe_open(saved, framework="pt") as opened:
        inside = json.loads(opened.metadata()["vaekit"])
    assert json.loads(saved.with_name("config.json").read_text()) == inside == vaekit.load(saved).config()


def test_the_config_names_every_part_and_its_options():
    written = model(hidden=(7, 6), loss={"beta": 2.0}).config()
    assert written["encoder"] == {"name": "mlp", "input_shape": [1, 8, 8], "latent_dim": 2, "hidden": [7, 6]}
    assert (written["loss"], written["prior"]) == ({"name": "elbo", "beta": 2.0}, {"name": "standard_normal"})
    assert (written["format"], written["vaekit"], written["dtype"]) == (2, vaekit.__version__, "float32")


def test_an_untouched_or_missing_copy_raises_no_warning(saved):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vaekit.load(saved)
        saved.with_name("config.json").unlink()
        vaekit.load(saved)


@pytest.mark.parametrize("edit", [lambda text: text.replace("mlp", "conv"), lambda text: text[:20], lambda text: ""])
def test_editing_the_copy_warns_and_changes_nothing(edit, saved):
    copy = saved.with_name("config.json")
    before = vaekit.load(saved)
    copy.write_text(edit(copy.read_text()))
    with pytest.warns(UserWarning, match=r"config\.json differs .*composed and saved anew") as caught:
        after = vaekit.load(saved)
    assert Path(caught[0].filename).name == Path(__file__).name, "the warning points at the caller's line"
    assert_same_outputs(before, after)


# Composed by objects.


def test_positional_arguments_and_schedule_objects_are_written_down(tmp_path):
    vae = VAE(
        MLPEncoder(IMAGE, 2, (6,), "tanh"),
        MLPDecoder(2, IMAGE, 2, [6]),
        likelihood=Gaussian("element"),
        loss=vaekit.Elbo(schedules.Linear(10, end=3.0)),
    )
    again = vaekit.load(vae.save(tmp_path))
    assert again.config() == vae.config()
    assert again.config()["loss"] == {"name": "elbo", "beta": {"name": "linear", "steps": 10, "end": 3.0}}
    assert [again.loss.beta(step) for step in (0, 5, None)] == [0.0, 1.5, 3.0]
    assert_same_outputs(vae, again)


@pytest.mark.parametrize(
    "beta",
    [
        0.5,
        schedules.Constant(0.5),
        schedules.Linear(7, 0.1, 0.9),
        schedules.Cyclic(8, 2, ramp=0.25),
        {"name": "linear", "steps": 7},
    ],
    ids=lambda beta: type(beta).__name__,
)
def test_every_way_to_write_a_schedule_comes_back_as_the_same_function(beta, tmp_path):
    vae = model(loss=vaekit.Elbo(beta))
    again = vaekit.load(vae.save(tmp_path))
    assert [again.loss.beta(s) for s in (*range(20), None)] == [vae.loss.beta(s) for s in (*range(20), None)]


def test_changing_a_list_after_it_was_given_does_not_change_what_is_written_down(tmp_path):
    hidden = [6]
    vae = VAE(MLPEncoder(IMAGE, 2, hidden), MLPDecoder(2, IMAGE, hidden=hidden), likelihood=Bernoulli())
    hidden.append(3)
    assert_same_outputs(vae, vaekit.load(vae.save(tmp_path)))


# Classes that are not registered.


class OwnEncoder(MLPEncoder):
    pass


class OwnDecoder(MLPDecoder):
    pass


class OwnLikelihood(Bernoulli):
    pass


class OwnPrior(vaekit.StandardNormal):
    pass


class OwnLoss(vaekit.Elbo):
    pass


OWN = {
    "encoder": lambda: OwnEncoder(IMAGE, 2, (4,)),
    "decoder": lambda: OwnDecoder(2, IMAGE, 1, (4,)),
    "likelihood": OwnLikelihood,
    "prior": OwnPrior,
    "loss": OwnLoss,
}


@pytest.mark.parametrize("kind", OWN)
def test_an_unregistered_class_trains_but_save_explains_how_to_register_it(kind, tmp_path):
    vae = model(**{kind: OWN[kind]()})
    history = vaekit.fit(vae, torch.rand(16, *IMAGE), epochs=1, batch_size=8, progress=False, device="cpu")
    assert history.epochs == 1
    room = {"loss": "losses"}.get(kind, f"{kind}s")
    with pytest.raises(ValueError, match=rf"{kind} .*Own{kind.title()} .*@vaekit\.{room}\.register\("):
        vae.save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_run_that_could_not_be_saved_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="Register its class"):
        vaekit.fit(model(encoder=OWN["encoder"]()), torch.rand(16, *IMAGE), progress=False, device="cpu", out=tmp_path)


def test_a_registered_subclass_saves_under_its_own_name(own_registries, tmp_path):
    @encoders.register("test-own")
    class Registered(MLPEncoder):
        def __init__(self, input_shape, latent_dim, scale=1.0):
            super().__init__(input_shape, latent_dim, hidden=(4,))
            self.scale = scale

        def forward(self, x):
            return super().forward(self.scale * x)

    vae = model(encoder={"name": "test-own", "scale": 0.5})
    assert vae.config()["encoder"] == {"name": "test-own", "input_shape": [1, 8, 8], "latent_dim": 2, "scale": 0.5}
    again = vaekit.load(vae.save(tmp_path))
    assert type(again.encoder) is Registered
    assert_same_outputs(vae, again)


def test_a_part_that_is_not_registered_here_is_named_when_loading(saved):
    rewrite(saved, change=lambda c: c["encoder"].update(name="conv-of-a-colleague"))
    with pytest.raises(vaekit.UnknownNameError, match=r"encoder 'conv-of-a-colleague'.*There are: .*mlp"):
        vaekit.load(saved)


def test_an_option_that_a_config_cannot_hold_is_named(own_registries, tmp_path):
    @encoders.register("test-module")
    class WithModule(MLPEncoder):
        def __init__(self, input_shape, latent_dim, layer):
            super().__init__(input_shape, latent_dim, hidden=())
            self.layer = layer

    with pytest.raises(ValueError, match=r"encoder's option 'layer' is a Linear.*numbers, strings, lists"):
        model(encoder={"name": "test-module", "layer": nn.Linear(2, 2)}).save(tmp_path)


def test_tied_weights_survive_and_stay_tied(own_registries, tmp_path):
    @decoders.register("test-tied")
    class Tied(vaekit.Decoder):
        def __init__(self, latent_dim, output_shape, parameters_per_element=1):
            super().__init__(latent_dim, output_shape, parameters_per_element)
            self.first, self.second = nn.Linear(latent_dim, 64), nn.Linear(64, 64)
            self.third = nn.Linear(64, 64)
            self.third.weight = self.second.weight

        def forward(self, z):
            return self.third(self.second(self.first(z))).reshape(len(z), 1, *self.output_shape)

    vae = model(decoder="test-tied")
    vaekit.fit(vae, torch.rand(8, *IMAGE), epochs=1, progress=False, device="cpu")
    again = vaekit.load(vae.save(tmp_path))
    assert again.decoder.third.weight is again.decoder.second.weight
    assert_same_outputs(vae, again)


# Wrapped and changed models: saved right, or refused in words.


@pytest.mark.compile
def test_a_compiled_model_and_compiled_parts_are_saved_as_what_they_wrap(tmp_path):
    vae = model()
    expected = {name: tensor.clone() for name, tensor in vae.state_dict().items()}

    def assert_saved(wrapped):
        for folder in (wrapped.save(tmp_path / "method"), saving.save(wrapped, tmp_path / "function")):
            loaded = vaekit.load(folder).state_dict()
            assert set(loaded) == set(expected)
            assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())

    assert_saved(torch.compile(vae, backend="eager"))
    vae.encoder = torch.compile(vae.encoder, backend="eager")
    vae.decoder.body = torch.compile(vae.decoder.body, backend="eager")
    assert_saved(vae)


class Adding(VAE):
    def decode(self, z, condition=None):
        return super().decode(z, condition) + 1.0


def with_module(name, make):
    """The model with another module in the place of the one called `name`."""

    def change(vae):
        vae.set_submodule(name, make(vae.get_submodule(name)))
        return vae

    return change


def with_buffer(value):
    def change(vae):
        vae.prior.register_buffer("own", value)
        return vae

    return change


class WithExtraState(nn.Flatten):
    def get_extra_state(self):
        return {"step": 3}


WRONG = [
    (nn.DataParallel, r"DataParallel.*module\.save"),
    (lambda vae: Adding(vae.encoder, vae.decoder, likelihood=vae.likelihood), "Adding"),
    (lambda vae: vae.encoder, "MLPEncoder"),
    (with_module("encoder", nn.DataParallel), "encoder .*DataParallel"),
    (with_module("encoder.body", nn.DataParallel), "encoder.body.module"),
    (with_module("decoder.head", lambda head: nn.Linear(6, 64, bias=False)), "decoder.head.bias is missing"),
    (with_module("encoder.body.0", lambda linear: nn.Linear(64, 7)), r"encoder.body.0.weight is float32 \(7, 64\)"),
    (with_module("encoder.body.0", lambda linear: nn.LazyLinear(6)), "encoder.body.0.weight .*Uninitialized"),
    (with_module("encoder.body.1", lambda activation: WithExtraState()), "_extra_state is a dict"),
    (with_module("encoder.head", nn.utils.parametrizations.weight_norm), "parametrizations.weight"),
    (with_module("encoder.head", lambda head: prune.l1_unstructured(head, "weight", 0.5)), "head.weight_mask"),
    (lambda vae: vae.to("meta"), r"(encoder|decoder)\..*'meta'"),
    (with_buffer(torch.ones(2)), "prior.own is not part"),
    (with_buffer(torch.eye(3).to_sparse()), "prior.own is sparse_coo"),
    (with_buffer(torch.ones(2, dtype=torch.complex128)), "prior.own .*complex128"),
    (lambda vae: vae.to(torch.float8_e5m2), "float8_e5m2"),
    (with_module("encoder", lambda encoder: encoder.double()), "float32, float64"),
]


@pytest.mark.parametrize(("change", "reason"), WRONG)
def test_a_model_that_would_not_come_back_is_refused_by_what_is_wrong_before_anything_is_written(change, reason, tmp_path):
    wrong = change(model())
    with pytest.raises(ValueError, match=reason):
        saving.save(wrong, tmp_path / "folder")
    with pytest.raises(ValueError, match=reason):
        saving.config_of(wrong)
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("view", [lambda w: w.t().contiguous().t(), lambda w: torch.cat([w, w])[: len(w)]])
def test_weights_that_are_views_survive(view, tmp_path):
    vae = model()
    vae.encoder.head.weight = nn.Parameter(view(vae.encoder.head.weight.detach()))
    again = vaekit.load(vae.save(tmp_path))
    assert torch.equal(again.encoder.head.weight, vae.encoder.head.weight)


# Files that are not what they should be.


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.floats(0.0, 1.0, exclude_max=True))
def test_a_file_cut_short_anywhere_is_refused(kept, tmp_path):
    file = model(seed=0).save(tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a complete safetensors file .*copy it again"):
        vaekit.load(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, -1])
def test_a_file_cut_at_its_seams_is_refused(length, saved):
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        vaekit.load(saved)


def test_a_file_of_something_else_is_refused(saved):
    saved.write_bytes(b"PK\x03\x04 a pickle in a zip archive" * 20)
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        vaekit.load(saved)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_foreign_safetensors_file_is_refused(metadata, tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match="was not written by vaekit"):
        vaekit.load(tmp_path)


@pytest.mark.parametrize("inside", ["", "not json", "[]", "3"])
def test_metadata_that_is_no_config_is_refused_by_file(inside, tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors", metadata={"vaekit": inside})
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        vaekit.load(tmp_path)


def test_a_newer_format_says_to_upgrade(saved):
    rewrite(saved, change=lambda c: c.update(format=saving.FORMAT + 1, vaekit="9.9.9"))
    with pytest.raises(
        ValueError, match=rf"format {saving.FORMAT + 1}, written by vaekit 9\.9\.9.*{vaekit.__version__}.*upgrade"
    ):
        vaekit.load(saved)


@pytest.mark.parametrize("kind", [name for name, kind in specs.KINDS.items() if not kind.is_optional])
def test_a_part_missing_in_the_config_is_named(kind, saved):
    rewrite(saved, change=lambda c: c.pop(kind))
    with pytest.raises(ValueError, match=f"says nothing of: {kind}$"):
        vaekit.load(saved)


def test_a_spec_without_a_name_says_what_a_spec_is(saved):
    rewrite(saved, change=lambda c: c["decoder"].pop("name"))
    with pytest.raises(ValueError, match=r'model\.safetensors .*decoder .*no "name"'):
        vaekit.load(saved)


WEIGHTS = sorted(model().state_dict())


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_missing_weight_is_named(name, saved):
    tensors = load_file(saved)
    del tensors[name]
    rewrite(saved, tensors=tensors)
    with pytest.raises(ValueError, match=f"{name} is missing$"):
        vaekit.load(saved)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_renamed_weight_is_named_by_both_names(name, saved):
    tensors = load_file(saved)
    tensors["old.name"] = tensors.pop(name)
    rewrite(saved, tensors=tensors)
    with pytest.raises(ValueError, match=rf"{name} is missing; old\.name is not part of the model$"):
        vaekit.load(saved)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_reshaped_weight_is_named_with_both_shapes(name, saved):
    tensors = load_file(saved)
    shape = tuple(tensors[name].shape)
    tensors[name] = tensors[name][None].contiguous()
    rewrite(saved, tensors=tensors)
    with pytest.raises(ValueError) as caught:
        vaekit.load(saved)
    assert f"{name} is float32 {(1, *shape)}, the model has float32 {shape}" in str(caught.value)


def test_many_differences_are_counted(saved):
    rewrite(saved, tensors={"other": torch.zeros(1)}, change=lambda c: c["encoder"].update(hidden=[6, 6, 6]))
    with pytest.raises(ValueError, match=r"and [0-9]+ more$"):
        vaekit.load(saved)


def test_a_missing_file_says_what_the_folder_holds(tmp_path):
    (tmp_path / "weights.pt").touch()
    with pytest.raises(FileNotFoundError, match=r"no model at .*model\.safetensors; .* holds: weights\.pt"):
        vaekit.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model at .*other\.safetensors; .* holds: weights\.pt"):
        vaekit.load(tmp_path / "other.safetensors")


def test_an_empty_or_missing_folder_holds_nothing(tmp_path):
    for folder in (tmp_path, tmp_path / "not" / "there"):
        with pytest.raises(FileNotFoundError, match="holds: nothing"):
            vaekit.load(folder)


def test_what_a_plugin_allocates_when_it_is_imported_is_not_the_files_affair(own_registries, saved, tmp_path, monkeypatch):
    source = (
        "import torch, vaekit\ntables = [torch.ones(1) for _ in range(20_000)]\nclass Plugged(vaekit.encoders.MLPEncoder): ..."
    )
    (tmp_path / "vaekit_plugged.py").write_text(source)
    information = tmp_path / "vaekit_plugged-0.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: vaekit-plugged\nVersion: 0.1\n")
    (information / "entry_points.txt").write_text("[vaekit.encoders]\ntest-plugged = vaekit_plugged:Plugged\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(encoders.registry, "_pending", None)
    monkeypatch.setattr(encoders.registry, "_failures", {})
    rewrite(saved, change=lambda c: c["encoder"].update(name="test-plugged"))
    assert type(vaekit.load(saved).encoder).__name__ == "Plugged"


# Writing.


@pytest.mark.parametrize("below", ["", "folder", "deep/folder"])
def test_a_folder_that_cannot_be_made_is_refused_by_name(below, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"cannot write into the folder .*choose another one") as caught:
        model().save(tmp_path / "file" / below)
    assert str(tmp_path / "file") in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_stopped_at_any_call_a_model_is_the_earlier_one_or_the_new_one(after, tmp_path, monkeypatch):
    old, new = model(seed=0), model(latent_dim=5, seed=1)
    counting = InterruptedOS()
    monkeypatch.setattr(files, "os", counting)
    old.save(tmp_path / "first")
    ends = []
    for chosen in range(counting.calls):
        folder = tmp_path / str(chosen)
        monkeypatch.setattr(files, "os", os)
        old.save(folder)
        monkeypatch.setattr(files, "os", InterruptedOS(chosen, after=after))
        with pytest.raises(KeyboardInterrupt):
            new.save(folder)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            again = vaekit.load(folder)
        ends.append(again.latent_shape)
        assert_same_outputs(new if again.latent_shape == (5,) else old, again)
        is_copy = json.loads((folder / "config.json").read_text()) == again.config()
        assert len(caught) == (not is_copy), "a copy that says something else is said to"
    assert ends == sorted(ends), "the new one from some call on"
    assert len(set(ends)) == 2


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_crash_during_the_write_leaves_the_old_files_whole(call, tmp_path, monkeypatch):
    old = model(seed=0)
    old.save(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def crash(*args):
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, crash)
        with pytest.raises(OSError, match="the disk is full"):
            model(seed=1).save(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert_same_outputs(old, vaekit.load(tmp_path))


def test_a_crash_between_the_two_files_still_loads_what_the_weights_say(tmp_path, monkeypatch):
    model(seed=0).save(tmp_path)
    second, replace = model(latent_dim=5, seed=1), os.replace

    def crash(source, target):
        if Path(target).name == "config.json":
            raise OSError("pulled the plug")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", crash)
        with pytest.raises(OSError, match="pulled the plug"):
            second.save(tmp_path)
    with pytest.warns(UserWarning, match="differs"):
        assert_same_outputs(second, vaekit.load(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_every_kind_of_part_has_the_registry_of_its_room():
    rooms = {"encoder": encoders, "decoder": decoders, "likelihood": likelihoods, "prior": priors, "loss": losses}
    rooms["condition"] = conditions
    assert {kind: room.registry for kind, room in rooms.items()} == {name: kind.registry for name, kind in specs.KINDS.items()}

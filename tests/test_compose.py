"""Laws of `create_vae`: what is given wins over the preset, and nothing else changes."""

import threading

import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vaekit
from vaekit import create_vae, presets
from vaekit.decoders import ConvDecoder, MLPDecoder
from vaekit.encoders import ConvEncoder, MLPEncoder
from vaekit.likelihoods import Gaussian

SMALL = {"input_shape": (4,), "latent_dim": 2, "encoder": {"hidden": (5,)}, "decoder": {"hidden": (5,)}}
TINY = {"encoder": {"hidden": (5,)}, "decoder": {"hidden": (5,)}}


def weights(vae):
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


# Overrides.


def test_an_override_changes_only_what_it_names():
    plain = create_vae("dense-mnist", **TINY).config()
    changed = create_vae("dense-mnist", **TINY, latent_dim=7, likelihood="gaussian").config()
    assert changed["encoder"] == {**plain["encoder"], "latent_dim": 7}
    assert changed["decoder"] == {**plain["decoder"], "latent_dim": 7}
    assert changed["likelihood"] == {"name": "gaussian"}
    assert (changed["prior"], changed["loss"]) == (plain["prior"], plain["loss"])


def test_input_shape_overrides_the_presets():
    assert create_vae("dense-mnist", **TINY, input_shape=(3, 8, 8)).input_shape == (3, 8, 8)


def test_a_mapping_without_a_name_amends_the_presets_part():
    encoder = create_vae("conv-mnist", encoder={"hidden": (5,)}, decoder={"hidden": (3,)}).config()["encoder"]
    assert encoder == {"name": "conv", "input_shape": [1, 28, 28], "latent_dim": 2, "channels": [32, 64], "hidden": [5]}


def test_a_mapping_with_a_name_replaces_the_presets_part():
    encoder = create_vae("conv-mnist", encoder={"name": "conv", "channels": (2,)}).config()["encoder"]
    assert encoder == {"name": "conv", "input_shape": [1, 28, 28], "latent_dim": 2, "channels": [2]}, (
        "hidden is the default again"
    )


def test_a_name_replaces_the_presets_part():
    assert (
        create_vae("conv-mnist", encoder="mlp").config()["encoder"]
        == create_vae(input_shape=(1, 28, 28), latent_dim=2).config()["encoder"]
    )


def test_amending_leaves_the_preset_and_the_mapping_as_they_were():
    given_encoder = {"hidden": (5,)}
    create_vae("conv-mnist", encoder=given_encoder)
    assert given_encoder == {"hidden": (5,)}
    assert create_vae("conv-mnist").config()["encoder"]["hidden"] == [256]


def test_without_a_preset_a_mapping_without_a_name_amends_the_default():
    parts = create_vae(**SMALL, loss={"beta": 4.0}).config()
    assert parts["loss"] == {"name": "elbo", "beta": 4.0}
    assert [parts[k]["name"] for k in ("encoder", "decoder", "likelihood", "prior")] == [
        "mlp",
        "mlp",
        "bernoulli",
        "standard_normal",
    ]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"encoder": {"input_shape": (9,)}}, r"input_shape=\(9,\) is given in encoder=.*\(4,\) here, from its own input_shape="),
        ({"encoder": {"latent_dim": 3}}, "latent_dim=3 is given in encoder=.* 2 here, from its own latent_dim="),
        ({"decoder": {"latent_dim": 3}}, "latent_dim=3 is given in decoder="),
        ({"decoder": {"output_shape": [2, 2]}}, r"output_shape=\[2, 2\] is given in decoder="),
        (
            {"decoder": {"parameters_per_element": 2}},
            "parameters_per_element=2 is given in decoder=.* 1 here, from the likelihood",
        ),
    ],
)
def test_an_option_that_create_vae_fills_in_is_refused_where_it_is_given(parts, words):
    with pytest.raises(ValueError, match=words):
        create_vae(input_shape=(4,), latent_dim=2, **parts)
    config = create_vae(input_shape=(4,), latent_dim=2).config()
    assert create_vae(input_shape=(4,), latent_dim=2, encoder=config["encoder"], decoder=config["decoder"]).config() == config


def test_objects_pass_through():
    parts = {
        "encoder": MLPEncoder((4,), 3, (5,)),
        "decoder": MLPDecoder(3, (4,), 2, (5,)),
        "likelihood": Gaussian("element"),
        "prior": vaekit.StandardNormal(),
        "loss": vaekit.Elbo(),
    }
    vae = create_vae(**parts)
    assert all(getattr(vae, kind) is part for kind, part in parts.items())


def test_the_decoder_is_made_for_an_encoder_object():
    assert create_vae(encoder=ConvEncoder((1, 6, 6), 3, (2,), ()), decoder={"hidden": ()}).decoder.output_shape == (1, 6, 6)


@pytest.mark.parametrize(("likelihood", "per_element"), [("bernoulli", 1), ("gaussian", 1), (Gaussian("element"), 2)])
def test_the_decoder_gives_what_the_likelihood_needs(likelihood, per_element):
    assert create_vae(**{**SMALL, "likelihood": likelihood}).decoder.parameters_per_element == per_element


@settings(max_examples=20, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    latent_dim=st.integers(1, 5),
    hidden=st.lists(st.integers(1, 6), max_size=2),
    container=st.sampled_from([tuple, list, torch.Size]),
)
def test_any_shape_composes(shape, latent_dim, hidden, container):
    vae = create_vae(input_shape=container(shape), latent_dim=latent_dim, encoder={"hidden": hidden}, decoder={"hidden": hidden})
    assert vae.sample(2).shape == (2, *shape)
    assert vae.latent_shape == (latent_dim,)


# Weights.


def test_a_seed_fixes_the_weights_whatever_happened_before():
    torch.manual_seed(1)
    one = weights(create_vae(**SMALL, seed=5))
    torch.manual_seed(2)
    assert torch.equal(weights(create_vae(**SMALL, seed=5)), one)
    assert not torch.equal(weights(create_vae(**SMALL, seed=6)), one)


def test_a_seed_leaves_the_global_generator_untouched():
    before = torch.get_rng_state()
    create_vae(**SMALL, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_refused_composition_with_a_seed_leaves_the_global_generator_untouched():
    decoder = ConvDecoder(2, (1, 4, 4), channels=(2,))
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="but the decoder describes"):
        create_vae(**{**SMALL, "decoder": decoder}, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_the_weights_come_from_the_global_generator():
    torch.manual_seed(1)
    one, other = weights(create_vae(**SMALL)), weights(create_vae(**SMALL))
    assert not torch.equal(one, other)
    torch.manual_seed(1)
    assert torch.equal(weights(create_vae(**SMALL)), one)


# Mistakes.


@pytest.mark.parametrize("missing", ["input_shape", "latent_dim"])
def test_a_missing_size_is_asked_for_with_an_example(missing):
    options = {key: value for key, value in SMALL.items() if key != missing}
    with pytest.raises(TypeError, match=rf"{missing}=.*preset.*dense-mnist"):
        create_vae(**options)


@pytest.mark.parametrize("latent_dim", [0, -1, 2.0, True, "2"])
def test_a_latent_dim_that_is_no_positive_whole_number_is_refused(latent_dim):
    with pytest.raises(ValueError, match=rf"latent_dim.*whole number.*{latent_dim!r}"):
        create_vae(input_shape=(4,), latent_dim=latent_dim)


@pytest.mark.parametrize("input_shape", [(), (0,), (4, -1), (2.5,), "48", 13])
def test_an_input_shape_that_is_none_is_refused(input_shape):
    with pytest.raises(ValueError, match="input_shape"):
        create_vae(input_shape=input_shape, latent_dim=2)


@pytest.mark.parametrize("kind", ["encoder", "decoder", "likelihood", "prior", "loss"])
@pytest.mark.parametrize("spec", [lambda n: n, lambda n: {"name": n}], ids=["name", "spec"])
def test_an_unknown_name_is_refused_with_what_there_is(kind, spec):
    registered = vaekit.specs.KINDS[kind].registry.names()
    with pytest.raises(vaekit.UnknownNameError) as caught:
        create_vae(**{**SMALL, kind: spec(registered[0][:-1])})
    assert f"unknown {kind} {registered[0][:-1]!r}" in str(caught.value)
    assert f"Did you mean {registered[0]!r}" in str(caught.value)
    assert ", ".join(registered) in str(caught.value)


def test_an_unknown_preset_is_refused_with_what_there_is():
    with pytest.raises(vaekit.UnknownNameError, match=r"'dense-mnits'.*'dense-mnist'"):
        create_vae("dense-mnits")


@pytest.mark.parametrize("kind", ["encoder", "decoder", "likelihood", "prior", "loss"])
def test_an_unknown_option_is_refused_by_name(kind):
    with pytest.raises(TypeError, match=rf"{kind} '\w+'.*'colour'.*It takes: "):
        create_vae(**{**SMALL, kind: {"colour": 3}})


def test_a_near_option_is_suggested():
    with pytest.raises(TypeError, match=r"'hiden'.*'hidden'"):
        create_vae(**{**SMALL, "encoder": {"hiden": (3,)}})


def test_an_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match="latent_dims"):
        create_vae("dense-mnist", latent_dims=3)


@pytest.mark.parametrize("kind", ["encoder", "decoder", "likelihood", "prior", "loss"])
def test_an_object_of_another_kind_is_refused(kind):
    with pytest.raises(TypeError, match=f"{kind} .*vaekit.{kind.capitalize()}"):
        create_vae(**{**SMALL, kind: torch.nn.Identity()})


def test_objects_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"latents.*\(3,\).*decoder.*\(2,\)"):
        create_vae(**{**SMALL, "encoder": MLPEncoder((4,), 3)})


def test_a_seed_fixes_the_weights_in_every_thread():
    from concurrent.futures import ThreadPoolExecutor

    def total(_):
        return sum(float(p.sum()) for p in create_vae(input_shape=(50,), latent_dim=2, seed=3).parameters())

    torch.manual_seed(1)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(total, range(16)))) == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_fixes_the_weights_beside_a_thread_that_draws():
    expected, drawn, composed = create_vae(**SMALL, seed=5).state_dict(), [], threading.Event()

    def draw():
        while not composed.is_set():
            drawn.append(torch.rand(64))

    beside = threading.Thread(target=draw)
    beside.start()
    try:
        for _ in range(20):
            for name, weight in create_vae(**SMALL, seed=5).state_dict().items():
                assert torch.equal(weight, expected[name])
    finally:
        composed.set()
        beside.join()
    torch.manual_seed(0)  # and the other thread had the generator to itself
    assert torch.equal(torch.stack(drawn), torch.stack([torch.rand(64) for _ in drawn]))


@pytest.mark.parametrize("name", presets.names())
def test_a_seed_gives_the_weights_that_manual_seed_gives(name):
    torch.manual_seed(3)
    expected = create_vae(name).state_dict()
    for weight, tensor in create_vae(name, seed=3).state_dict().items():
        assert torch.equal(tensor, expected[weight]), weight


def test_a_seed_on_the_meta_device_makes_shapes_alone():
    with torch.device("meta"):
        assert create_vae(**SMALL, seed=0).device.type == "meta"


def test_a_second_posterior_is_told_whose_the_first_is():
    with pytest.raises(TypeError, match="two posteriors.*posterior="):
        create_vae("vq-mnist", encoder={"posterior": {"name": "vector_quantized", "codes": 16}})
    assert create_vae("vq-mnist", posterior={"codes": 16}).encoder.family.codes == 16


def test_an_objective_with_any_options_gets_only_those_that_it_names(own_registries):
    @vaekit.losses.register("any-options")
    class AnyOptions(vaekit.Elbo):
        def __init__(self, **options):
            super().__init__()
            self.options = options

    assert create_vae(**SMALL, loss={"name": "any-options", "mine": 3}).loss.options == {"mine": 3}


# A table by its schema


FRAME = pandas.DataFrame({"age": [31.5, 45.0, 62.5] * 4, "smoker": ["no", "yes", None] * 4, "visits": [0, 9, 1] * 4})


@pytest.mark.parametrize("plain", [False, True])
def test_a_schema_chooses_the_likelihoods_and_is_saved_with_the_model(plain, tmp_path):
    schema = vaekit.data.Schema.guess(FRAME)
    vae = vaekit.create_vae(latent_dim=2, schema=schema.to_config() if plain else schema, encoder={"hidden": (8,)}, seed=0)
    assert [type(one).__name__ for one in vae.likelihood.likelihoods] == ["Gaussian", "Categorical", "NegativeBinomial"]
    assert vae.input_shape == (3,)
    vaekit.fit(vae, FRAME, epochs=1, progress=False)  # a frame as it is
    vae.save(tmp_path / "model")
    again = vaekit.load(tmp_path / "model")
    assert again.likelihood.schema == schema
    made = again.likelihood.schema.decode(again.sample(50, draw=True))
    assert dict(made.dtypes) == dict(FRAME.dtypes)
    assert set(made["smoker"]) <= {"no", "yes"}


def test_a_column_can_have_another_likelihood_than_the_schema_chooses():
    schema = vaekit.data.Schema.guess(FRAME)
    vae = vaekit.create_vae("table", schema=schema, likelihood={"columns": {"age": "student_t"}})
    assert [type(one).__name__ for one in vae.likelihood.likelihoods] == ["StudentT", "Categorical", "NegativeBinomial"]
    assert vae.likelihood.missing == "ignore"
    assert vae.likelihood.schema == schema


def test_what_does_not_go_with_a_schema_is_refused():
    schema = vaekit.data.Schema.guess(FRAME)
    with pytest.raises(TypeError, match="likelihood='gaussian' is one of all; leave one out"):
        vaekit.create_vae("table", schema=schema, likelihood="gaussian")
    with pytest.raises(ValueError, match="no column 'agee'; it has: age, smoker, visits"):
        vaekit.create_vae("table", schema=schema, likelihood={"columns": {"agee": "student_t"}})
    with pytest.raises(TypeError, match=r"Schema.guess\(frame\) makes one"):
        vaekit.create_vae("table", schema="guess")
    with pytest.raises(ValueError, match="3 column"):
        vaekit.create_vae("table", schema=schema, input_shape=(4,))

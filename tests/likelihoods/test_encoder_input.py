"""Laws of what an encoder sees of data: counts' logarithms, one-hot classes, 0 where something is missing."""

import math

import numpy as np
import pytest
import torch
from helpers.densities import OF_SEVERAL, REQUIRED, data_in_support
from hypothesis import given
from hypothesis import strategies as st

import vaekit
from vaekit import likelihoods
from vaekit.decoders import MLPDecoder
from vaekit.encoders import MLPEncoder
from vaekit.likelihoods import Categorical, Poisson

NAN = math.nan
COUNTS = ["poisson", "negative_binomial", "zero_inflated_negative_binomial", "library_size"]
NAMES = [n for n in likelihoods.names() if n not in {"columns", *OF_SEVERAL}]  # which are made of the others
SHOWN_AS_THEY_ARE = [n for n in NAMES if n not in (*COUNTS, "categorical")]
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def made(name, missing="refuse"):
    return likelihoods.create(name, missing=missing, **REQUIRED.get(name, {}))


def one_hot(x, classes):
    """[B, C, *S] -> [B, C K, *S] by torch's function, which puts the classes last."""
    return torch.nn.functional.one_hot(x.long(), classes).movedim(-1, 2).flatten(1, 2)


@pytest.mark.parametrize("name", SHOWN_AS_THEY_ARE)
@given(shape=shapes)
def test_most_data_is_shown_as_it_is(name, shape):
    likelihood = made(name)
    x = data_in_support(likelihood, (3, *shape))
    assert torch.equal(likelihood.encoder_input(x), x)
    assert likelihood.encoder_input_shape(shape) == shape


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_are_shown_as_the_logarithm_of_one_more(name, dtype):
    x = torch.tensor([[[0.0, 1.0, 9.0, 1e6]]], dtype=dtype)
    seen = made(name).encoder_input(x)
    np.testing.assert_allclose(seen.numpy(), np.log1p(x.double().numpy()), rtol=1e-6 if dtype == torch.float32 else 1e-15)
    assert seen.dtype == dtype
    assert made(name).encoder_input_shape((1, 4)) == (1, 4)


@given(shape=shapes, classes=st.integers(2, 6), batch=st.integers(0, 3), seed=st.integers(0, 99))
def test_classes_are_shown_one_hot_along_the_first_axis(shape, classes, batch, seed):
    likelihood = Categorical(classes)
    x = torch.randint(classes, (batch, *shape), generator=torch.Generator().manual_seed(seed)).double()
    seen = likelihood.encoder_input(x)
    assert torch.equal(seen, one_hot(x, classes).double())
    assert seen.dtype == x.dtype
    assert seen.shape[1:] == likelihood.encoder_input_shape(shape) == (classes * shape[0], *shape[1:])


def test_a_table_shows_the_classes_of_one_column_after_the_other():
    seen = Categorical(3).encoder_input(torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
    assert seen.tolist() == [[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 0]]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_shown_as_0_and_changes_nothing_else(name):
    likelihood = made(name, "ignore")
    x = data_in_support(likelihood, (4, 3, 2))
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    complete, holey = likelihood.encoder_input(x), likelihood.encoder_input(x.masked_fill(missing, NAN))
    gone = missing.repeat_interleave(complete.shape[1] // 3, 1)
    assert torch.equal(holey, complete.masked_fill(gone, 0.0))
    assert gone.any()
    refusing = made(name, "refuse").encoder_input(x.masked_fill(missing, NAN))
    assert torch.equal(refusing.isnan(), gone)


@pytest.mark.parametrize("name", NAMES)
def test_marked_one_feature_more_says_of_each_element_whether_it_is_shown(name):
    plain, marked = made(name, "ignore"), made(name, {"mark": True})
    x = data_in_support(plain, (4, 3, 2))
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    holey = x.masked_fill(missing, NAN)
    seen = marked.encoder_input(holey).unflatten(1, (3, -1))
    assert torch.equal(seen[:, :, :-1].flatten(1, 2), plain.encoder_input(holey))
    assert torch.equal(seen[:, :, -1], (~missing).to(x.dtype))
    assert marked.encoder_input_shape((3, 2)) == marked.encoder_input(holey).shape[1:]
    assert marked.missing == "ignore"


@pytest.mark.parametrize("name", NAMES)
def test_hidden_elements_are_to_the_encoder_what_missing_ones_are_and_in_training_alone(name):
    plain, hiding = made(name, {"mark": True}), made(name, {"mark": True, "hide": 0.5})
    x = data_in_support(plain, (4000, 3))
    x[:, 2] = NAN
    torch.manual_seed(0)
    seen = hiding.encoder_input(x)
    marks = seen.unflatten(1, (3, -1))[:, :, -1]
    assert torch.equal(seen, plain.encoder_input(x.masked_fill(marks == 0, NAN)))
    hidden = 1 - marks[:, :2]
    np.testing.assert_allclose(hidden.mean(), 0.25, atol=0.02)  # a share between 0 and a half
    # Elements of an example have its share: var(u) / (mean(u) (1 - mean(u))) of u, uniform on [0, 1/2].
    np.testing.assert_allclose(np.corrcoef(hidden.T.numpy())[0, 1], (0.25 / 12) / (0.25 * 0.75), atol=0.04)
    assert not torch.equal(seen, hiding.encoder_input(x))  # drawn anew
    hiding.eval()
    assert torch.equal(hiding.encoder_input(x), plain.encoder_input(x))


def test_a_table_hides_its_columns_together():
    columns = {"a": "gaussian", "b": {"name": "categorical", "classes": 3}, "c": "gaussian"}
    tables = [likelihoods.create("columns", columns=columns, missing=m) for m in ({"mark": True}, {"mark": True, "hide": 1.0})]
    x = torch.tensor([[0.5, 2.0, NAN]]).repeat(4000, 1)
    assert tables[0].encoder_input(x)[0].tolist() == [0.5, 1, 0, 0, 1, 1, 0, 0]
    assert tables[0].encoder_input_shape((3,)) == (8,)
    missing = {"mark": True, "hide": 1.0}
    vae = vaekit.create_vae(latent_dim=2, likelihood={"name": "columns", "columns": columns, "missing": missing}, seed=0)
    assert vae.impute(x[:2]).x.isfinite().all()
    torch.manual_seed(0)
    seen = tables[1].encoder_input(x)
    marks = seen[:, [1, 5]]
    assert torch.equal(seen[:, 0], 0.5 * marks[:, 0])
    assert torch.equal(seen[:, 4], marks[:, 1])
    np.testing.assert_allclose(np.corrcoef(marks.T.numpy())[0, 1], 1 / 3, atol=0.04)  # of one share for all columns
    assert all(group.likelihood.gaps.hide == 0 for group in tables[1].groups)


def test_what_is_hidden_is_still_learned():
    """The objective is that of all that is there: only the encoder sees less."""
    spec = {"name": "gaussian", "missing": {"hide": 1.0}}
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, likelihood=spec, seed=0)
    x = torch.randn(200, 4)
    torch.manual_seed(0)
    terms = vae(x, key=vaekit.make_key(0), step=0)
    torch.manual_seed(0)
    seen = vae.likelihood.encoder_input(x)
    z, _ = vae.encoder(seen).rsample_kl(vae.prior, key=vaekit.make_key(0))
    assert (seen == 0).any()
    torch.testing.assert_close(terms.reconstruction, vae.likelihood.nll(vae.decoder(z), x))


@pytest.mark.parametrize(
    ("missing", "error", "message"),
    [
        ({"name": "refuse", "mark": True}, ValueError, "nothing to mark"),
        ({"marks": True}, TypeError, "not 'marks'"),
        ({"hide": 1.5}, ValueError, "hide"),
        ({"mark": 1}, TypeError, "mark has to be True or False"),
        ("ignor", ValueError, "did you mean 'ignore'"),
    ],
)
def test_other_options_of_missing_are_named(missing, error, message):
    with pytest.raises(error, match=message):
        made("gaussian", missing)


def test_a_model_that_marks_and_hides_is_saved_with_both(tmp_path):
    spec = {"name": "gaussian", "missing": {"mark": True, "hide": 0.4}}
    vae = vaekit.create_vae(input_shape=(3,), latent_dim=2, likelihood=spec, seed=0)
    x = torch.tensor([[0.5, NAN, 1.0]])
    vae.save(tmp_path / "model")
    again = vaekit.load(tmp_path / "model")
    assert again.likelihood.gaps == vae.likelihood.gaps == (("ignore", True, 0.4))
    assert torch.equal(again.impute(x).x, vae.impute(x).x)


@pytest.mark.parametrize("missing", ["refuse", "ignore"])
@pytest.mark.parametrize("value", [-1.0, 3.0, 0.5, math.inf])
def test_what_is_no_class_is_shown_as_none_and_not_as_a_missing_one(missing, value):
    seen = Categorical(3, missing=missing).encoder_input(torch.tensor([[1.0, value]]))
    assert seen[0, :3].tolist() == [0, 1, 0]
    assert seen[0, 3:].isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_the_encoder_of_a_model_is_given_it(name):
    vae = vaekit.create_vae(input_shape=(2, 3), latent_dim=2, likelihood={"name": name, **REQUIRED.get(name, {})}, seed=0)
    x = data_in_support(vae.likelihood, (5, 2, 3))
    assert vae.input_shape == vae.decoder.output_shape == (2, 3)
    assert vae.encoder.input_shape == vae.likelihood.encoder_input_shape((2, 3))
    assert torch.equal(vae.encode(x).mean, vae.encoder(vae.likelihood.encoder_input(x)).mean)


def test_images_of_classes_pass_through_convolutions():
    vae = vaekit.create_vae(
        input_shape=(1, 8, 6), latent_dim=2, encoder="conv", decoder="conv", likelihood={"name": "categorical", "classes": 4}
    )
    assert vae.encoder.input_shape == (4, 8, 6)
    assert vae.reconstruct(torch.full((3, 1, 8, 6), 2.0)).shape == (3, 1, 8, 6)


def test_an_encoder_for_something_else_is_refused_with_the_way_to_make_it():
    likelihood, decoder = Categorical(3), MLPDecoder(2, (4,), 3)
    with pytest.raises(
        ValueError,
        match=r"reads data of shape \(4,\), but the decoder describes \(4,\), of which Categorical shows the encoder \(12,\); "
        r"make the encoder with input_shape=likelihood\.encoder_input_shape\(\(4,\)\)$",
    ):
        vaekit.VAE(MLPEncoder((4,), 2), decoder, likelihood=likelihood)
    vae = vaekit.VAE(MLPEncoder(likelihood.encoder_input_shape((4,)), 2), decoder, likelihood=likelihood)
    with pytest.raises(ValueError, match=r"x has to have the shape \[batch, 4\], got \(2, 12\)"):
        vae.encode(torch.zeros(2, 12))


def test_the_shape_of_the_data_is_read_from_an_encoder_only_where_it_is_the_same():
    assert vaekit.create_vae(encoder=MLPEncoder((4,), 2), likelihood=Poisson()).input_shape == (4,)
    encoder, classes = MLPEncoder((12,), 2), {"name": "categorical", "classes": 3}
    with pytest.raises(TypeError, match=r"needs input_shape, .* the encoder reads \(12,\), but .* Categorical shows it"):
        vaekit.create_vae(encoder=encoder, likelihood=classes)
    assert vaekit.create_vae(encoder=encoder, likelihood=classes, input_shape=(4,)).input_shape == (4,)


def test_a_batch_outside_of_the_classes_is_refused_by_fit_as_such():
    vae = vaekit.create_vae(input_shape=(2,), latent_dim=2, likelihood={"name": "categorical", "classes": 3})
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    for data in (x, [x]):  # whole, and a loader's, which is looked at when its loss is
        with pytest.raises(ValueError, match="class numbers 0 to 2, but the data ranges from 0 to 3"):
            vaekit.fit(vae, data, epochs=1, progress=False)


def test_the_nll_of_what_is_no_class_is_nan():
    x = torch.tensor([[-1.0], [3.0], [0.5], [NAN], [math.inf], [2.0]])
    nll = Categorical(3).nll(torch.zeros(6, 3, 1), x)
    assert nll[:5].isnan().all()
    assert nll[5] == pytest.approx(math.log(3))

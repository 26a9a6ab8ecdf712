"""Missing values: NaN in x, which a likelihood refuses, or leaves out of its nll, of every gradient and of every figure."""

import math

import pytest
import torch
from helpers.densities import CASES, REQUIRED, data_in_support
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

import vaekit
from vaekit import likelihoods
from vaekit.inputs import check_values
from vaekit.likelihoods import Bernoulli, Gaussian, Likelihood
from vaekit.losses import Batch

NAMES = list(CASES)  # for columns see test_columns.py
NAN = math.nan


def made(name, missing="ignore"):
    return likelihoods.create(name, missing=missing, **REQUIRED.get(name, {}))


def small(likelihood, columns=5, **options):
    return vaekit.create_vae(
        input_shape=(columns,), latent_dim=2, encoder={"hidden": (6,)}, decoder={"hidden": (6,)}, likelihood=likelihood, seed=0
    )


def with_holes(x, share=0.3, seed=0):
    """A copy in which about that share is missing, in every row something and nowhere everything, and where."""
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share
    missing[:, 0], missing[:, 1] = True, False
    return x.masked_fill(missing, NAN), missing


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_the_nll_is_that_of_the_observed_elements_alone(name, data):
    likelihood = made(name)
    columns = data.draw(st.integers(1, 5))
    missing = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=columns, max_size=columns), min_size=1, max_size=3))
    )
    x = data_in_support(likelihood, missing.shape, seed=data.draw(st.integers(0, 99))).double()
    parameters = torch.randn(len(x), likelihood.parameters_per_element, columns, dtype=torch.float64)
    nll = likelihood.nll(parameters, x.masked_fill(missing, NAN))
    for row, gone in enumerate(missing):
        alone = made(name, "refuse").nll(parameters[row : row + 1, :, ~gone], x[row : row + 1, ~gone])
        torch.testing.assert_close(nll[row : row + 1], alone)
        assert gone.any() or torch.equal(nll[row : row + 1], alone)
        assert not gone.all() or nll[row] == 0


@pytest.mark.parametrize("name", NAMES)
def test_missing_elements_have_no_gradient_and_spoil_no_other_even_at_extreme_parameters(name):
    likelihood, case = made(name), CASES[name]
    # Past float32's range as well: what is not looked at may be anything.
    rows = [*case.ordinary, *case.extreme, (1e4,) * len(case.ordinary[0]), (-1e4,) * len(case.ordinary[0])]
    rows = [row[: likelihood.parameters_per_element] if len(row) > likelihood.parameters_per_element else row for row in rows]
    width = likelihood.parameters_per_element
    parameters = torch.tensor([(row * width)[:width] for row in rows])[:, :, None].repeat(1, 1, 2)
    parameters[:, :, 1] = torch.tensor((case.ordinary[0] * width)[:width])
    parameters.requires_grad_()
    x = data_in_support(likelihood, (len(rows), 2))
    x[:, 0] = NAN
    likelihood.nll(parameters, x).sum().backward()
    assert (parameters.grad[:, :, 0] == 0).all()
    observed = parameters.detach()[:, :, 1:].requires_grad_()
    made(name, "refuse").nll(observed, x[:, 1:]).sum().backward()
    torch.testing.assert_close(parameters.grad[:, :, 1:], observed.grad)


@pytest.mark.parametrize("name", NAMES)
def test_without_holes_ignoring_changes_no_bit(name):
    parameters = torch.randn(4, made(name).parameters_per_element, 6)
    x = data_in_support(made(name), (4, 6))
    assert torch.equal(made(name).nll(parameters, x), made(name, "refuse").nll(parameters, x))


@pytest.mark.parametrize("name", NAMES)
def test_a_table_with_holes_trains_and_is_evaluated_by_what_was_observed(name, tmp_path):
    vae = small(made(name))
    x, missing = with_holes(data_in_support(vae.likelihood, (40, 5)))
    x[7] = NAN
    before = [p.clone() for p in vae.parameters()]
    history = vaekit.fit(vae, x, validation=x, epochs=2, batch_size=16, progress=False, out=tmp_path)
    assert all(map(math.isfinite, history["loss"] + history["val_reconstruction"]))
    assert all(p.isfinite().all() and not torch.equal(p, b) for p, b in zip(vae.parameters(), before, strict=True))

    figures = vaekit.evaluate(vae, x, seed=3)
    key = vaekit.fold_in(vaekit.make_key(3), 2)
    filled = vae.likelihood.encoder_input(x)
    z, _ = vae.encoder(filled).rsample_kl(vae.prior, key=key)
    with torch.no_grad():
        elements = vae.likelihood.element_nll(vae.decoder(z), x.masked_fill(x.isnan(), vae.likelihood.support.filler))
    expected = sum(float(elements[row][~x[row].isnan()].sum()) for row in range(len(x))) / len(x)
    assert math.isclose(figures["reconstruction"], expected, rel_tol=1e-5)

    again = vaekit.load(tmp_path / "last")
    assert again.likelihood.missing == "ignore"
    imputed = again.reconstruct(x)
    assert imputed.isfinite().all()
    assert torch.equal(imputed, vae.decode(vae.encoder(filled).mean))


def test_no_gradient_is_nan_nor_depends_on_what_is_not_there():
    vae = small({"name": "gaussian", "missing": "ignore"})
    x, missing = with_holes(torch.randn(8, 5))
    vae(x, key=vaekit.make_key(0)).total.backward()
    assert all(p.grad.isfinite().all() for p in vae.parameters())
    first = next(p for n, p in vae.encoder.named_parameters() if n.endswith("weight"))
    assert (first.grad[:, 0] == 0).all()  # the first column is missing everywhere
    assert first.grad[:, 1].abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_by_default_the_sample_with_a_missing_value_is_named_and_the_option_too(name):
    vae = small(made(name, "refuse"))
    x = data_in_support(vae.likelihood, (9, 5))
    x[4, 2] = NAN
    with pytest.raises(ValueError, match=r'train: sample 4 holds NaN .* fill them first, or leave .* option missing="ignore"'):
        vaekit.fit(vae, x, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"data: sample 4 holds NaN"):
        vaekit.evaluate(vae, x)
    with pytest.raises(ValueError, match=r'given 1 missing value\(s\) \(NaN\) in 45; fill them, or .* missing="ignore"'):
        vae.likelihood.check(x)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_is_refused_beside_missing_values(value):
    vae = small({"name": "gaussian", "missing": "ignore"})
    x = torch.randn(9, 5)
    x[2, 0], x[4, 2], x[4, 3] = NAN, value, NAN
    with pytest.raises(
        ValueError, match=r"train: sample 4 holds infinity \(1 such sample\(s\) of 9 looked at\); remove or fill them first$"
    ):
        check_values(vae, Batch(x), "train")


def test_loaders_with_holes_are_taken_and_checked():
    vae = small({"name": "gaussian", "missing": "ignore"})
    x, _ = with_holes(torch.randn(40, 5))
    loader = DataLoader(TensorDataset(x), batch_size=10)
    vaekit.fit(vae, loader, epochs=1, progress=False)
    assert math.isfinite(vaekit.evaluate(vae, loader)["loss"])
    with pytest.raises(ValueError, match="batch 0: sample 0 holds NaN"):
        vaekit.evaluate(small("gaussian"), loader)


@pytest.mark.parametrize("name", [n for n in NAMES if made(n).support.lowest > -math.inf])
def test_values_that_are_there_still_have_to_lie_in_the_support(name):
    likelihood = made(name)
    likelihood.check(torch.full((2, 3), NAN))
    x = data_in_support(likelihood, (2, 3))
    x[0, 0] = NAN
    likelihood.check(x)
    x[1, 1] = -2.0
    with pytest.raises(ValueError, match="ranges from -2 to"):
        likelihood.check(x)


def test_another_word_for_missing_is_refused():
    for name in NAMES:
        with pytest.raises(ValueError, match="missing.* 'refuse', 'ignore', got 'skip'"):
            made(name, "skip")


def test_the_encoder_sees_nan_where_nothing_is_to_be_ignored():
    assert small("gaussian").encode(torch.full((1, 5), NAN)).mean.isnan().all()


class Own(Likelihood):
    """Somebody's likelihood from before there were element-wise ones."""

    def __init__(self):
        super().__init__()

    def nll(self, parameters, x):
        return (parameters[:, 0] - x).square().flatten(1).sum(-1)

    def mean(self, parameters):
        return parameters[:, 0]

    def sample(self, parameters, *, key, row_start=0):
        return parameters[:, 0]


def test_a_likelihood_that_defines_nll_itself_works_as_before():
    vae, x = small(Own()), torch.randn(8, 5)
    vaekit.fit(vae, x, epochs=1, progress=False)
    x[3, 0] = NAN
    with pytest.raises(ValueError, match="sample 3 holds NaN"):
        vaekit.evaluate(vae, x)


def test_a_likelihood_without_a_density_says_what_to_define():
    class Empty(Own):
        nll = Likelihood.nll

    with pytest.raises(NotImplementedError, match="Empty has to define element_nll, or nll itself"):
        Empty().nll(torch.zeros(1, 1, 2), torch.zeros(1, 2))


def test_pictures_of_examples_with_holes_are_drawn():
    vae = small({"name": "gaussian", "missing": "ignore"})
    x, _ = with_holes(torch.randn(4, 5))
    (axes, *_) = vaekit.plots.reconstructions(vae, x).axes
    assert all(map(math.isfinite, axes.get_ylim()))


# What lies outside a support


@pytest.mark.parametrize(
    ("name", "options", "value", "message"),
    [
        ("poisson", {}, 0.5, r"Poisson models counts 0, 1, 2, ..., but the data holds 0.5\. Counts have to be given as they are"),
        ("negative_binomial", {}, -1.0, r"NegativeBinomial models counts 0, 1, 2, ..., but the data ranges from -1 to 2\."),
        ("zero_inflated_negative_binomial", {}, 1.25, r"but the data holds 1.25\."),
        (
            "categorical",
            {"classes": 3},
            3.0,
            r"class numbers 0 to 2, but the data ranges from 1 to 3\. Number the classes from 0",
        ),
        ("categorical", {"classes": 3}, 0.5, r"class numbers 0 to 2, but the data holds 0.5\."),
        ("beta", {}, 0.0, r"values in \(0, 1\), without 0 and 1, but the data ranges from 0 to .*\(x \* \(n - 1\) \+ 0.5\) / n"),
        ("beta", {}, 1.0, r"without 0 and 1, but the data ranges from .* to 1\."),
        ("continuous_bernoulli", {}, 1.5, r"values in \[0, 1\], but the data ranges from .* to 1.5\."),
        ("discretized_logistic", {}, 0.5, r"256 equally spaced levels in \[0, 1\], but the data holds 0.5 between two of them\."),
        (
            "discretized_logistic",
            {"levels": 16},
            1 / 255,
            r"16 equally spaced levels .* holds 0.00392157 between .* 0 to 15 by 15",
        ),
        ("discretized_logistic", {}, 255.0, r"but the data ranges from .* to 255\. Divide whole numbers 0 to 255 by 255"),
    ],
)
def test_data_outside_the_support_is_refused_with_what_was_seen_and_what_to_do(name, options, value, message):
    likelihood = likelihoods.create(name, **options)
    inside = 0.2 if name == "beta" else 1.0 if not likelihood.support.whole else 2.0
    x = torch.tensor([[inside, 1.0 if name != "beta" else 0.5, value]])
    with pytest.raises(ValueError, match=message):
        likelihood.check(x)


@pytest.mark.parametrize("levels", [2, 16, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_pass_however_they_were_rounded(levels, dtype):
    likelihood = likelihoods.DiscretizedLogistic(levels=levels)
    numbers = torch.arange(levels)
    likelihood.check((numbers / (levels - 1)).to(dtype)[None])
    likelihood.check((numbers.to(dtype) * (1 / (levels - 1)))[None].clamp(max=1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("laplace", {"scale": "both"}, "scale .*'fixed', 'shared', 'feature', 'element'.* 'both'"),
        ("laplace", {"b": 0.0}, r"b .* got 0\.0"),
        ("laplace", {"scale": "element", "b": 1.0}, 'with scale="element" the decoder gives every scale; leave b out'),
        ("student_t", {"freedom": "none"}, "freedom has to be"),
        ("student_t", {"df": math.inf}, "df .* finite .* got inf"),
        ("student_t", {"freedom": "element", "df": 3.0}, "leave df out"),
        ("negative_binomial", {"theta": 1.0}, 'with dispersion="element" .* leave theta out'),
        ("zero_inflated_negative_binomial", {"dispersion": "gene"}, "dispersion .* 'gene'"),
        ("categorical", {"classes": 1}, "classes has to be .* at least 2, got 1"),
        ("categorical", {"classes": 2.0}, "classes has to be a whole number"),
        ("discretized_logistic", {"components": 0}, "components has to be a whole number of at least 1"),
        ("discretized_logistic", {"levels": 1}, "levels has to be .* at least 2, got 1"),
    ],
)
def test_options_that_make_no_density_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        likelihoods.create(name, **options)


def test_a_value_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="df has to be a number, got '3'"):
        likelihoods.create("student_t", df="3")
    with pytest.raises(TypeError, match="needs the option 'classes'"):
        likelihoods.create("categorical")


def test_half_precision_parts_learn_from_tables_with_holes():
    for likelihood in (Bernoulli("ignore"), Gaussian(missing="ignore")):
        parameters = torch.zeros(2, 1, 3, dtype=torch.bfloat16)
        x = torch.tensor([[0.0, NAN, 1.0], [NAN, NAN, NAN]], dtype=torch.bfloat16)
        assert likelihood.nll(parameters, x).dtype == torch.float32
        assert likelihood.nll(parameters, x)[1] == 0

"""Laws of tables with a likelihood for each column: each column is what its own likelihood makes of it, and no other matters."""

import itertools
import json
import math

import numpy as np
import pytest
import scipy.stats
import torch
from helpers.densities import data_in_support
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vaekit
from vaekit import likelihoods, make_key, plots
from vaekit.likelihoods import Columns, Gaussian

F64 = torch.float64
NAN = math.nan
E = math.exp
MIXED = {
    "height": "gaussian",
    "visits": "poisson",
    "blood": {"name": "categorical", "classes": 4},
    "weight": {"name": "gaussian", "variance": "element"},
    "calls": "poisson",
    "share": "beta",
    "noise": {"name": "gaussian", "variance": "shared", "sigma": 2.0},
    "cells": "negative_binomial",
    "error": {"name": "gaussian", "variance": "shared", "sigma": 2.0},
    "drift": "gaussian",
}
# The distribution of each column under its parameters, in scipy and torch.
DISTRIBUTIONS = {
    "height": lambda p: scipy.stats.norm(p[0], 1.0),
    "visits": lambda p: scipy.stats.poisson(E(p[0])),
    "blood": lambda p: torch.distributions.Categorical(logits=torch.tensor(p, dtype=F64)),
    "weight": lambda p: scipy.stats.norm(p[0], E(p[1] / 2)),
    "calls": lambda p: scipy.stats.poisson(E(p[0])),
    "share": lambda p: scipy.stats.beta(E(p[0]), E(p[1])),
    "noise": lambda p: scipy.stats.norm(p[0], 2.0),
    "cells": lambda p: scipy.stats.nbinom(E(p[1]), 1 / (1 + E(p[0] - p[1]))),
    "error": lambda p: scipy.stats.norm(p[0], 2.0),
    "drift": lambda p: scipy.stats.norm(p[0], 1.0),
}
FEATURES = {"blood": 4}
WIDTHS = {"blood": 4, "weight": 2, "share": 2, "cells": 2}  # of parameters; one for each of the other columns
ENDS = dict(zip(MIXED, itertools.accumulate(WIDTHS.get(name, 1) for name in MIXED), strict=True))
TOTAL = ENDS["drift"]  # 16


def mixed(missing="refuse"):
    return Columns(MIXED, missing=missing).double()


def parameters_and_x(n=6, seed=0):
    likelihood = mixed()
    parameters = torch.randn(n, 1, TOTAL, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return parameters, data_in_support(likelihood, (n, len(MIXED)), seed).double()


def of_column(parameters, name):
    """A column's own parameters in a row of all columns': [..., 1, TOTAL] -> [..., P]."""
    return parameters[..., 0, ENDS[name] - WIDTHS.get(name, 1) : ENDS[name]]


def log_density(name, parameters, value):
    """log p(value) of one column, parameters [P]."""
    distribution = DISTRIBUTIONS[name](parameters.tolist())
    if isinstance(distribution, torch.distributions.Distribution):
        return float(distribution.log_prob(torch.tensor(value)))
    return float(distribution.logpmf(value) if hasattr(distribution.dist, "pmf") else distribution.logpdf(value))


def test_the_nll_is_the_sum_of_scipys_and_torchs_densities():
    parameters, x = parameters_and_x()
    expected = [
        -sum(log_density(name, of_column(parameters[row], name), x[row, column].item()) for column, name in enumerate(MIXED))
        for row in range(len(x))
    ]
    np.testing.assert_allclose(mixed().nll(parameters, x).detach().numpy(), expected, rtol=1e-10)


def test_each_column_is_its_own_likelihood_in_value_mean_and_gradient():
    parameters, x = parameters_and_x()
    parameters.requires_grad_()
    likelihood = mixed()
    total, mean = likelihood.nll(parameters, x), likelihood.mean(parameters)
    (gradient,) = torch.autograd.grad(total.sum(), parameters)
    alone = []
    for column, (name, spec) in enumerate(MIXED.items()):
        options = {"name": spec} if isinstance(spec, str) else dict(spec)
        own = likelihoods.create(options.pop("name"), **options).double()
        used = of_column(parameters, name)[..., None].detach().requires_grad_()
        nll = own.nll(used, x[:, column : column + 1])
        alone.append(nll)
        assert torch.equal(mean[:, column], own.mean(used)[:, 0]), name
        (own_gradient,) = torch.autograd.grad(nll.sum(), used)
        torch.testing.assert_close(of_column(gradient, name), own_gradient[..., 0])
    torch.testing.assert_close(total, torch.stack(alone).sum(0))


def test_a_decoder_gives_as_many_numbers_as_the_columns_need_in_all():
    assert mixed().decoder_output_shape((len(MIXED),)) == (TOTAL,) == (16,)
    assert Columns(["gaussian", "bernoulli"]).decoder_output_shape((2,)) == (2,)
    assert Columns(["gaussian", "student_t", "zero_inflated_negative_binomial"]).decoder_output_shape((3,)) == (1 + 1 + 3,)
    assert mixed().parameters_per_element == 1
    vae = vaekit.create_vae(latent_dim=2, likelihood=mixed().float())
    assert vae.decoder(torch.zeros(3, 2)).shape == (3, 1, TOTAL)
    assert vae.input_shape == (len(MIXED),)


class Elements(TorchDispatchMode):
    """Counts the elements that operations give, all together."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.count += sum(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))
        return out


def elements_of(columns, rows=8):
    """What a step costs: the elements that its operations give."""
    vae = vaekit.create_vae(
        latent_dim=2, likelihood={"name": "columns", "columns": columns}, seed=0, encoder={"hidden": ()}, decoder={"hidden": ()}
    )
    x = data_in_support(vae.likelihood, (rows, len(columns)))
    with Elements() as elements:
        vae(x, key=make_key(0)).total.backward()
        vae.initialize_output_bias(x)
    return elements.count


def test_a_wide_column_costs_what_it_needs_and_not_that_for_every_column():
    numbers, classes = ["gaussian"] * 30, [{"name": "categorical", "classes": 10_000}]
    one, beside = elements_of(["bernoulli", *classes]), elements_of(numbers + classes)  # of a table of one kind nothing is split
    assert beside < 1.02 * one + elements_of(numbers)
    sizes = [{"name": "categorical", "classes": n} for n in range(2, 12)]  # each a group, whose gradients are as wide as itself
    assert elements_of(sizes + classes) < 1.02 * one + elements_of(sizes)


def test_a_model_saved_with_the_layout_of_before_is_refused_by_name():
    likelihood = mixed().float()
    encoder = vaekit.encoders.create("mlp", latent_dim=2, input_shape=likelihood.encoder_input_shape((len(MIXED),)))
    decoder = vaekit.decoders.create("mlp", latent_dim=2, output_shape=(len(MIXED),), parameters_per_element=4)
    with pytest.raises(
        ValueError, match=r"Columns .*output_shape=\(16,\) and parameters_per_element=1 .* is \(10,\).* cannot be"
    ):
        vaekit.VAE(encoder, decoder, likelihood=likelihood)


def test_equal_columns_are_computed_together_and_what_is_learned_is_each_columns_own():
    likelihood = mixed()
    assert [group.numbers for group in likelihood.groups] == [[0, 9], [1, 4], [2], [3], [5], [6, 8], [7]]
    (logvar,) = likelihood.parameters()  # of noise and error
    parameters, x = parameters_and_x()
    with torch.no_grad():
        logvar.copy_(torch.tensor([0.5, -1.0]))
    nll = likelihood.nll(parameters, x)
    (gradient,) = torch.autograd.grad(nll.sum(), logvar)
    others = Columns({name: spec for name, spec in MIXED.items() if name not in ("noise", "error")}).double()
    kept = [column for column, name in enumerate(MIXED) if name not in ("noise", "error")]
    rest = torch.cat([of_column(parameters, name) for name in others.names], 1)[:, None]
    expected, slopes = others.nll(rest, x[:, kept]), []
    for name, own in zip(("noise", "error"), logvar.tolist(), strict=True):
        mean, value = of_column(parameters, name)[:, 0], x[:, list(MIXED).index(name)]
        expected = expected - torch.distributions.Normal(mean, E(own / 2)).log_prob(value)
        slopes.append((0.5 - 0.5 * (value - mean) ** 2 / E(own)).sum())
    torch.testing.assert_close(nll, expected)
    torch.testing.assert_close(gradient, torch.stack(slopes))
    drawn = likelihood.sample(parameters[:1].expand(4000, -1, -1), key=make_key(0)).detach()
    for name, own in zip(("noise", "error"), logvar.tolist(), strict=True):
        variance = drawn[:, list(MIXED).index(name)].var()
        assert abs(variance / E(own) - 1) < 4 * math.sqrt(2 / 4000)


def test_the_order_of_the_columns_is_only_an_order():
    parameters, x = parameters_and_x()
    order = torch.randperm(len(MIXED), generator=torch.Generator().manual_seed(3))
    names = list(MIXED)
    other = Columns({names[i]: MIXED[names[i]] for i in order.tolist()}).double()
    reordered = torch.cat([of_column(parameters, names[i]) for i in order.tolist()], 1)[:, None]
    torch.testing.assert_close(other.nll(reordered, x[:, order]), mixed().nll(parameters, x))
    assert torch.equal(other.mean(reordered), mixed().mean(parameters)[:, order])


def test_the_encoder_sees_one_column_after_the_other():
    _, x = parameters_and_x()
    seen = []
    for column, name in enumerate(MIXED):
        values = x[:, column]
        if name == "blood":
            seen.append(torch.nn.functional.one_hot(values.long(), 4).double())
        else:
            seen.append((values.log1p() if name in ("visits", "calls", "cells") else values)[:, None])
    assert torch.equal(mixed().encoder_input(x), torch.cat(seen, 1))
    assert mixed().encoder_input_shape((len(MIXED),)) == (13,)


# Missing values


def test_missing_values_change_nothing_but_themselves():
    parameters, x = parameters_and_x(n=40)
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    missing[7] = True
    missing[8] = False
    parameters.requires_grad_()
    likelihood = mixed("ignore")
    nll = likelihood.nll(parameters, x.masked_fill(missing, NAN))
    for row, gone in enumerate(missing):
        observed = [
            -log_density(name, of_column(parameters[row], name).detach(), x[row, column].item())
            for column, name in enumerate(MIXED)
            if not gone[column]
        ]
        assert nll[row].item() == pytest.approx(sum(observed), rel=1e-6)
    assert nll[7] == 0
    (gradient,) = torch.autograd.grad(nll.sum(), parameters)
    (whole,) = torch.autograd.grad(mixed().nll(parameters, x).sum(), parameters)
    unseen = missing.repeat_interleave(torch.tensor([WIDTHS.get(name, 1) for name in MIXED]), 1)
    torch.testing.assert_close(gradient, whole.masked_fill(unseen[:, None], 0.0))
    gone = missing.repeat_interleave(torch.tensor([FEATURES.get(name, 1) for name in MIXED]), 1)
    assert torch.equal(likelihood.encoder_input(x.masked_fill(missing, NAN)), likelihood.encoder_input(x).masked_fill(gone, 0.0))
    likelihood.check(x.masked_fill(missing, NAN))


def test_a_mixed_table_with_holes_trains_is_saved_and_loads_again(tmp_path):
    vae = vaekit.create_vae(latent_dim=2, likelihood={"name": "columns", "columns": MIXED, "missing": "ignore"}, seed=0)
    assert vae.input_shape == (len(MIXED),)
    x = data_in_support(vae.likelihood, (60, len(MIXED)))
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.3] = NAN
    history = vaekit.fit(vae, x, validation=x, epochs=3, batch_size=16, learning_rate=1e-2, progress=False, out=tmp_path)
    assert history["val_loss"][-1] < history["val_loss"][0]
    again = vaekit.load(tmp_path / "last")
    assert again.likelihood.names == tuple(MIXED)
    assert json.loads((tmp_path / "last" / "config.json").read_text())["likelihood"]["columns"] == MIXED
    assert torch.equal(again.reconstruct(x), vae.reconstruct(x))
    assert again.reconstruct(x).isfinite().all()
    assert vaekit.evaluate(again, x) == vaekit.evaluate(vae, x)
    again.likelihood.check(again.sample(50, draw=True, key=make_key(0)))
    for figure in (plots.reconstructions(again, x[:3]), plots.samples(again, 3, draw=True), plots.traversals(again, steps=3)):
        assert all(map(math.isfinite, figure.axes[0].get_ylim()))


# Draws


def test_draws_of_each_column_follow_its_own_distribution_alone():
    n = 20_000
    parameters, _ = parameters_and_x(n=1, seed=5)
    drawn = mixed().sample(parameters.expand(n, -1, -1), key=make_key(1)).detach().numpy()
    for column, name in enumerate(MIXED):
        distribution, values = DISTRIBUTIONS[name](of_column(parameters[0], name).tolist()), drawn[:, column]
        if name == "blood":
            expected = distribution.probs.numpy() * n
            assert scipy.stats.chisquare(np.bincount(values.astype(int), minlength=4), expected).pvalue > 1e-3
            continue
        mean, variance = distribution.mean(), distribution.var()
        squares = (values - mean) ** 2
        assert abs(values.mean() - mean) <= 4 * math.sqrt(variance / n), name
        assert abs(squares.mean() - variance) <= 4 * squares.std() / math.sqrt(n), name
    correlations = np.corrcoef(drawn.T)[np.triu_indices(len(MIXED), 1)]
    assert np.abs(correlations).max() < 4.5 / math.sqrt(n)  # of 45 pairs, equal columns among them


def test_draws_repeat_with_the_key_and_keep_the_dtype():
    parameters, _ = parameters_and_x()
    one = mixed().sample(parameters, key=make_key(3))
    assert torch.equal(one, mixed().sample(parameters, key=make_key(3)))
    torch.testing.assert_close(mixed().sample(parameters[1:], key=make_key(3), row_start=1), one[1:], rtol=1e-12, atol=1e-14)
    assert not torch.equal(one, mixed().sample(parameters, key=make_key(4)))
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert Columns(MIXED).sample(parameters.to(dtype), key=make_key(3)).dtype == dtype
        assert Columns(MIXED).mean(parameters.to(dtype)).dtype == dtype
        assert Columns(MIXED).nll(parameters.to(dtype), one.to(dtype)).dtype == torch.float32


@pytest.mark.compile
def test_it_compiles_in_one_graph():
    likelihood = mixed("ignore")
    parameters, x = parameters_and_x()
    x[2, 3] = NAN
    torch._dynamo.reset()
    compiled = torch.compile(lambda p, x: (likelihood.nll(p, x), likelihood.encoder_input(x)), backend="eager", fullgraph=True)
    nll, seen = compiled(parameters, x)
    torch.testing.assert_close(nll, likelihood.nll(parameters, x))
    assert torch.equal(seen, likelihood.encoder_input(x))


# Mistakes


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("blood", 4.0, r"column 'blood': Categorical models class numbers 0 to 3, but the data ranges from .* to 4\. Number the"),
        ("calls", -1.0, r"column 'calls': Poisson models counts .*, but the data ranges from -1 to"),
        ("visits", 0.5, r"column 'visits': Poisson models counts .*, but the data holds 0\.5"),
        ("share", 1.0, r"column 'share': Beta models values in \(0, 1\)"),
        ("drift", NAN, r"column 'drift': Gaussian was given 1 missing value\(s\) \(NaN\) in 6; .* the option missing=\"ignore\""),
    ],
)
def test_check_names_the_column_and_what_was_seen(name, value, message):
    _, x = parameters_and_x()
    mixed().check(x)
    x[3, list(MIXED).index(name)] = value
    with pytest.raises(ValueError, match=message):
        mixed().check(x)
    if value == value:
        with pytest.raises(ValueError, match=f"train: {message}"):
            vaekit.fit(vaekit.create_vae(latent_dim=2, likelihood=mixed().float()), x.float(), epochs=1, progress=False)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"a": "gausian"}, vaekit.UnknownNameError, "column 'a': unknown likelihood 'gausian'. Did you mean 'gaussian'"),
        ({"a": {"name": "gaussian", "colour": 3}}, TypeError, "column 'a': likelihood 'gaussian' takes no option 'colour'"),
        (["gaussian", "categorical"], TypeError, "column '1': likelihood 'categorical' needs the option 'classes'"),
        ({"a": {"name": "gaussian", "sigma": -1.0}}, ValueError, r"column 'a': sigma .* got -1\.0"),
        ({"a": {"name": "gaussian", "missing": "ignore"}}, ValueError, "missing is one option for all columns, here 'refuse'"),
        ({"a": {"name": "columns", "columns": ["gaussian"]}}, ValueError, "column 'a' is given columns of its own"),
        ({"a": {"sigma": 1.0}}, TypeError, r'column \'a\' has to be a string, .* \{"name": ..., option: ...\}, got'),
        ({"a": Gaussian()}, TypeError, r"column 'a' .* got Gaussian\(\)"),
        ({1: "gaussian"}, TypeError, "column 1 has to be a string"),
        ({}, ValueError, "at least one column"),
        ([], ValueError, "at least one column"),
        ("gaussian", TypeError, r"columns has to be \{column: likelihood, ...\} or a list of likelihoods"),
        (3, TypeError, "columns has to be .* got 3"),
    ],
)
def test_what_names_no_columns_is_refused_by_name(columns, error, message):
    with pytest.raises(error, match=message):
        Columns(columns)


def test_missing_may_be_said_again_but_not_otherwise():
    Columns({"a": {"name": "gaussian", "missing": "ignore"}}, missing="ignore")
    with pytest.raises(ValueError, match="column 'a' has missing='refuse', but .* here 'ignore'"):
        Columns({"a": {"name": "gaussian", "missing": "refuse"}}, missing="ignore")


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 1), (1, 2, 2)])
def test_a_table_with_other_columns_is_refused_when_the_model_is_composed(shape):
    spec = {"name": "columns", "columns": {"age": "gaussian", "visits": "poisson"}}
    expected = r"describes tables with 2 column\(s\) \(age, visits\), but an example here has the shape \("
    with pytest.raises(ValueError, match=expected):
        vaekit.create_vae(input_shape=shape, latent_dim=2, likelihood=spec)
    likelihood = Columns(spec["columns"])
    decoder = vaekit.decoders.create("mlp", latent_dim=2, output_shape=shape)
    encoder = vaekit.encoders.create("mlp", latent_dim=2, input_shape=shape)
    with pytest.raises(ValueError, match=r"Columns needs a decoder with output_shape=\(2,\)"):
        vaekit.VAE(encoder, decoder, likelihood=likelihood)
    x = torch.zeros(2, *shape)
    for call in (
        likelihood.check,
        likelihood.encoder_input,
        likelihood.statistics,
        lambda x: likelihood.nll(torch.zeros(2, 1, 2), x),
    ):
        with pytest.raises(ValueError, match=expected):
            call(x)


def test_a_likelihood_whose_elements_depend_on_each_other_is_not_shared_by_columns(own_registries):
    class Own(vaekit.Likelihood):
        """The largest error of all elements."""

        def nll(self, parameters, x):
            return (parameters[:, 0] - x).abs().flatten(1).amax(-1)

        def mean(self, parameters):
            return parameters[:, 0]

        def sample(self, parameters, *, key, row_start=0):
            return parameters[:, 0]

    likelihoods.register("largest-error")(Own)
    own = Columns(["largest-error", "largest-error"])
    assert own.nll(torch.zeros(1, 1, 2), torch.tensor([[3.0, -4.0]])) == 7.0

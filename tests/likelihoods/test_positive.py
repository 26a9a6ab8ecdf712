"""Laws of the positive parameters beside a location: where they start, in which dtype, and what is saved of them."""

import math

import pytest
import torch

import vaekit
from vaekit import likelihoods

SHARED = {  # the option, what holds the logarithm, the value, and its logarithm
    "gaussian": ("variance", "logvar", {"sigma": 0.3}, 2 * math.log(0.3)),
    "laplace": ("scale", "log_scale", {"b": 0.3}, math.log(0.3)),
    "student_t": ("freedom", "log_df", {"df": 3.0}, math.log(3.0)),
    "negative_binomial": ("dispersion", "log_theta", {"theta": 0.7}, math.log(0.7)),
    "zero_inflated_negative_binomial": ("dispersion", "log_theta", {"theta": 0.7}, math.log(0.7)),
}
CASTS = {
    "double": lambda module: module.double(),
    "through half": lambda module: module.half().double(),
    "to a device and dtype": lambda module: module.to(torch.bfloat16).to("cpu", torch.float64),
    "inside a model": lambda module: torch.nn.Sequential(module).double()[0],
}


def made(name):
    option, _, value, _ = SHARED[name]
    return likelihoods.create(name, **{option: "shared"}, **value)


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("name", SHARED)
def test_a_new_likelihood_made_double_starts_from_the_float64_number(name, cast):
    _, parameter, _, start = SHARED[name]
    assert getattr(made(name), parameter).dtype == torch.float32
    assert getattr(CASTS[cast](made(name)), parameter).item() == start


@pytest.mark.parametrize("name", SHARED)
def test_columns_start_from_it_too(name):
    option, _, value, start = SHARED[name]
    table = likelihoods.Columns([{"name": name, option: "shared", **value}] * 3).double()
    assert [parameter.tolist() for parameter in table.parameters()] == [[start] * 3]


@pytest.mark.parametrize("name", SHARED)
def test_what_has_been_learned_is_only_cast(name):
    likelihood, parameter = made(name), SHARED[name][1]
    with torch.no_grad():
        getattr(likelihood, parameter).add_(0.25)
    learned = getattr(likelihood, parameter).item()
    assert getattr(likelihood.double(), parameter).item() == learned


@pytest.mark.parametrize("name", SHARED)
def test_fixed_and_shared_are_one_density_in_float64(name):
    option, _, value, _ = SHARED[name]
    fixed = likelihoods.create(name, **{option: "fixed"}, **value)
    parameters = torch.randn(4, fixed.parameters_per_element, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.tensor([[0.0, 1.0, 5.0]] * 4, dtype=torch.float64)
    assert torch.equal(made(name).double().nll(parameters, x), fixed.nll(parameters, x))


@pytest.mark.parametrize("name", SHARED)
def test_what_is_learned_keeps_the_name_under_which_it_has_been_saved(name):
    option, parameter, _, _ = SHARED[name]
    assert list(made(name).state_dict()) == [parameter]
    spec = {"name": "columns", "columns": [{"name": name, option: "shared"}, "bernoulli"]}
    state = vaekit.create_vae(latent_dim=2, likelihood=spec).state_dict()
    assert state[f"likelihood.groups.0.likelihood.{parameter}"].shape == ()


def test_under_meta_there_is_nothing_to_start():
    with torch.device("meta"):
        likelihood = made("gaussian")
    assert likelihood.double().logvar.is_meta

"""What becomes a schedule, what is refused, and which values a schedule may give in the middle of a run."""

import math
import re
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vaekit
from vaekit import losses, schedules
from vaekit.registry import recorded_spec
from vaekit.schedules import (
    Constant,
    Cosine,
    Cyclic,
    Linear,
    OneCycle,
    Plateau,
    Schedule,
    Sigmoid,
    StepDecay,
    WarmupCosine,
    as_schedule,
    checked_schedule,
)

weights = st.floats(-10, 10)


@given(weights, st.one_of(st.none(), st.integers(0, 100)))
def test_constant_is_constant(value, step):
    assert Constant(value)(step) == as_schedule(value)(step) == value


def test_a_spec_makes_the_schedule():
    assert as_schedule({"name": "linear", "steps": 4})(1) == 0.25
    assert schedules.names() == [
        "constant",
        "cosine",
        "cyclic",
        "linear",
        "one_cycle",
        "plateau",
        "sigmoid",
        "step",
        "warmup_cosine",
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0), "steps has to be a whole number"),
        (lambda: Linear(1.5), "steps has to be a whole number"),
        (lambda: Linear(3, end=math.nan), "end has to be a finite number"),
        (lambda: Cyclic(10, ramp=0.0), r"has to be in \(0, 1\]"),
        (lambda: Cyclic(10, cycles=0), "cycles has to be a whole number"),
        (lambda: Cosine(0), "steps has to be a whole number"),
        (lambda: Sigmoid(3, steepness=0.0), "steepness has to be positive, got 0.0"),
        (lambda: checked_schedule("beta", -1), "beta has to be at least 0, got -1.0"),
        (
            lambda: checked_schedule("beta", Linear(3, end=2.0), highest=1.0),
            "beta has to be between 0 and 1, got 2.0; the schedule 'linear' gave it as its final value",
        ),
        (lambda: Constant(math.inf), "value has to be a finite number"),
    ],
)
def test_numbers_that_make_no_schedule_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: losses.create("beta_tc", gamma="x"), TypeError, "gamma: expected a number, a Schedule or"),
        (lambda: losses.create("elbo", beta=math.nan), ValueError, "beta: value has to be a finite number"),
        (
            lambda: losses.create("capacity", gamma={"name": "linear"}),
            TypeError,
            "gamma: schedule 'linear' needs .*'steps'",
        ),
        (lambda: losses.create("info_vae", alpha="x"), TypeError, "alpha: expected a number, a Schedule or"),
        (lambda: Linear(3, start="a"), TypeError, "start has to be a number, got 'a'"),
        (lambda: Cyclic(3, ramp="a"), TypeError, "ramp has to be a number, got 'a'"),
    ],
)
def test_a_weight_that_is_none_is_named(make, error, said):
    with pytest.raises(error, match=said):
        make()


class Turns(Schedule):
    """Well at first and in the end, and something else at step 3."""

    def __init__(self, into):
        self.into = into

    def __call__(self, step):
        return self.into if step == 3 else 1.0


@pytest.mark.parametrize(
    ("into", "error", "said"),
    [
        (None, TypeError, "beta has to be a number, got None; the schedule 'Turns' gave it at step 3"),
        ("1", TypeError, "beta has to be a number, got '1'; the schedule 'Turns' gave it at step 3"),
        (math.nan, ValueError, "beta has to be finite and at least 0, got nan; the schedule 'Turns' gave it at step 3"),
        (math.inf, ValueError, "beta has to be finite and at least 0, got inf; the schedule 'Turns' gave it at step 3"),
        (-0.5, ValueError, "beta has to be at least 0, got -0.5; the schedule 'Turns' gave it at step 3"),
        (-1, ValueError, "beta has to be at least 0, got -1; the schedule 'Turns' gave it at step 3"),
    ],
)
def test_a_value_in_the_middle_that_is_no_weight_is_refused_there(into, error, said):
    vae = vaekit.create_vae(input_shape=(3,), latent_dim=1, loss={"name": "elbo", "beta": Turns(into)}, seed=0)
    x, key = torch.rand(2, 3), vaekit.make_key(0)
    vae(x, key=key, step=2)
    with pytest.raises(error, match=re.escape(said)):
        vae(x, key=key, step=3)


@pytest.mark.parametrize("value", [2, torch.tensor(2.0).numpy()[()]], ids=["int", "float32"])
def test_every_kind_of_number_is_a_weight(value):
    checked = checked_schedule("beta", Turns(value), highest=2.0)
    assert [checked(step) for step in (0, 3, None)] == [1.0, 2.0, 1.0]
    assert type(checked(3)) is float


def test_the_weight_of_one_objective_can_be_given_to_another():
    weight = losses.create("elbo", beta={"name": "linear", "steps": 4}).beta
    again = losses.create("vector_quantized", beta=weight).beta
    assert recorded_spec(weight) == recorded_spec(again) == {"name": "linear", "steps": 4}
    assert again(1) == 0.25
    with pytest.raises(ValueError, match="tau has to be between 0 and 0.5, got 1.0"):  # its own range, not the first one's
        checked_schedule("tau", weight, highest=0.5)


EXAMPLES = [
    Constant(0.5),
    Linear(4),
    Cosine(4),
    Sigmoid(4),
    Cyclic(4),
    WarmupCosine(9, 1.0, 3),
    OneCycle(9, 1.0),
    StepDecay(1.0, milestones=(2, 4)),
    Plateau(1.0),
]


def test_every_schedule_is_constructed_by_what_it_recorded():
    assert sorted(recorded_spec(schedule)["name"] for schedule in EXAMPLES) == schedules.names()
    for schedule in EXAMPLES:
        again = as_schedule(recorded_spec(schedule))
        assert [again(step) for step in (*range(12), None)] == [schedule(step) for step in (*range(12), None)]


@pytest.mark.compile
@pytest.mark.parametrize("schedule", EXAMPLES[1:-1], ids=lambda schedule: type(schedule).__name__)
def test_a_weight_can_be_traced_at_any_step(schedule):
    torch.compiler.reset()
    weight = checked_schedule("beta", schedule)
    traced = torch.compile(lambda x, step: x * weight(step), backend="eager", fullgraph=True)
    for step in (None, 0, 2, 5):
        assert traced(torch.ones(1), step).item() == pytest.approx(schedule(step))


PAGES = schedules.names()


@pytest.mark.parametrize("name", PAGES)
def test_the_page_of_a_schedule_says_what_it_is_for_and_how_it_is_called(name):
    page = schedules.describe(name).documentation
    assert re.search(r"\b[Uu]se ", page)
    assert ">>> " in page
    assert name in ("constant", "plateau") or re.search(r"arXiv:\d{4}\.\d{4}", page)


def test_the_number_of_steps_may_come_from_the_run():
    assert as_schedule({"name": "cosine"}, offers={"steps": 10})(10) == 1.0
    assert as_schedule({"name": "cosine", "steps": 20}, offers={"steps": 10})(10) == pytest.approx(0.5)
    assert as_schedule({"name": "step", "start": 1.0, "every": 3}, offers={"steps": 10})(3) == pytest.approx(0.1)


# Training without a step.

SCHEDULED = {"name": "elbo", "beta": {"name": "linear", "steps": 5}}
ANNEALED = {
    "name": "beta_tc",
    "dataset_size": 9,
    "alpha": {"name": "linear", "steps": 5},
    "gamma": {"name": "cosine", "steps": 5},
}


def model(loss=SCHEDULED):
    return vaekit.create_vae(
        input_shape=(4,), latent_dim=2, encoder={"hidden": (3,)}, decoder={"hidden": (3,)}, loss=loss, seed=0
    )


@pytest.mark.parametrize(
    ("loss", "named"),
    [(SCHEDULED, "weight beta"), ({"name": "capacity"}, "weight capacity"), (ANNEALED, "weights alpha and gamma")],
)
def test_training_without_a_step_warns_once_of_the_weights_that_are_final(loss, named):
    vae, x = model(loss), torch.rand(3, 4)
    with pytest.warns(UserWarning, match=named) as caught:
        vae(x).total.backward()
    assert [warning.filename for warning in caught] == [__file__]
    assert "step=step" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae(x)
    vae.loss = vaekit.losses.create("elbo", beta=SCHEDULED["beta"])  # another objective
    with pytest.warns(UserWarning, match="beta"):
        vae(x)


def test_nothing_warns_where_nothing_is_forgotten():
    vae, x = model(), torch.rand(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae(x, step=0)
        model("elbo")(x)
        with torch.no_grad():
            vae(x)
        vae.eval()(x)
        vaekit.evaluate(vae.train(), x)
        vaekit.fit(vae, torch.rand(9, 4), validation=x, epochs=3, batch_size=4, device="cpu", progress=False)


def test_fit_does_not_warn_of_its_own_trial_of_a_batch_of_one():
    encoder = {"hidden": (3,), "normalization": "batch"}
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder=encoder, loss=SCHEDULED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="batch_size=4"):
            vaekit.fit(vae, torch.rand(9, 4), epochs=2, batch_size=4, device="cpu", progress=False)


@pytest.mark.compile
def test_a_compiled_model_warns_when_it_is_traced_and_stays_one_graph():
    vae, x = model(), torch.rand(3, 4)
    expected = vae.eval()(x, key=vaekit.make_key(0)).total
    vae, key = model(), vaekit.make_key(0)
    compiled = torch.compile(vae, backend="eager", fullgraph=True)
    with pytest.warns(UserWarning, match="beta"):
        assert torch.equal(compiled(x, key=key).total, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(x, key=key)

"""Learning rates that fall, against torch's own schedulers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from vaekit.schedules import Cosine, Linear, OneCycle, StepDecay, WarmupCosine

peaks = st.floats(1e-4, 1.0)


def of_torch(make, start, steps):
    """The rates of a scheduler of torch's, step by step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=start)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def close(schedule, rates):
    return all(math.isclose(schedule(step), rate, rel_tol=1e-9, abs_tol=1e-12) for step, rate in enumerate(rates))


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 20), peaks, st.floats(0.0, 1e-5))
def test_warmup_cosine_is_torchs_line_and_then_torchs_cosine(fall, warmup, peak, end):
    def make(optimizer):
        cosine = lr_scheduler.CosineAnnealingLR(optimizer, fall, eta_min=end)
        if not warmup:
            return cosine
        line = lr_scheduler.LinearLR(optimizer, 0.25, 1.0, warmup)
        return lr_scheduler.SequentialLR(optimizer, [line, cosine], [warmup])

    schedule = WarmupCosine(warmup + fall, peak, warmup, start=0.25 * peak, end=end)
    assert close(schedule, of_torch(make, peak, warmup + fall))
    assert schedule(warmup + fall) == schedule(warmup + fall + 9) == schedule(None) == end


@settings(max_examples=20)
@given(st.integers(10, 80), peaks, st.floats(0.15, 0.85), st.sampled_from(["cosine", "linear"]), st.booleans())
def test_one_cycle_is_torchs(steps, peak, rise, shape, usual):
    factors = {} if usual else {"div_factor": 10.0, "final_div_factor": 100.0}
    own = {} if usual else {"start": peak / 10.0, "end": peak / 1000.0}
    schedule = OneCycle(steps, peak, rise, shape=shape, **own)

    def make(optimizer):
        anneal = {"cosine": "cos", "linear": "linear"}[shape]
        return lr_scheduler.OneCycleLR(
            optimizer, peak, steps, pct_start=rise, anneal_strategy=anneal, cycle_momentum=False, **factors
        )

    rates = of_torch(make, peak, steps - 1)
    assert close(schedule, rates)
    assert schedule(steps - 1) == schedule(steps) == schedule(None) == schedule.end
    assert max(rates) <= peak * (1 + 1e-9)


@given(st.integers(1, 5), peaks, st.floats(0.0, 1.0, exclude_min=True))
def test_one_cycle_of_few_steps_stays_within_its_range(steps, peak, rise):
    schedule = OneCycle(steps, peak, min(rise, 0.99))
    assert all(0.0 <= schedule(step) <= peak for step in range(steps + 2))
    assert schedule(steps - 1) == schedule.end


@settings(max_examples=20)
@given(peaks, st.floats(0.1, 1.0), st.sets(st.integers(1, 30), min_size=1), st.integers(1, 12))
def test_steps_down_are_torchs(start, gamma, milestones, every):
    ascending = sorted(milestones)
    by_milestones = StepDecay(start, gamma, milestones=ascending)
    assert close(by_milestones, of_torch(lambda o: lr_scheduler.MultiStepLR(o, ascending, gamma), start, 35))
    assert by_milestones(None) == by_milestones(ascending[-1])
    assert close(StepDecay(start, gamma, every=every), of_torch(lambda o: lr_scheduler.StepLR(o, every, gamma), start, 35))


@settings(max_examples=20)
@given(st.integers(1, 40), peaks, st.floats(0.0, 1e-5))
def test_a_line_and_a_cosine_down_are_torchs(steps, start, end):
    cosine = of_torch(lambda o: lr_scheduler.CosineAnnealingLR(o, steps, eta_min=end), start, steps)
    line = of_torch(lambda o: lr_scheduler.LinearLR(o, 1.0, end / start, steps), start, steps + 5)
    assert close(Cosine(steps, start, end), cosine)
    assert close(Linear(steps, start, end), line)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: WarmupCosine(100, 1e-3, 100), "warmup has to be less than the 100 steps of the whole, got 100"),
        (lambda: WarmupCosine(100, -1e-3, 10), "peak has to be a finite number of at least 0"),
        (lambda: WarmupCosine(100, 1e-3, -1), "warmup has to be a whole number"),
        (lambda: OneCycle(100, 1e-3, rise=1.0), "rise has to be a finite number above 0 and below 1"),
        (lambda: OneCycle(100, 1e-3, shape="cos"), "shape has to be one of 'cosine', 'linear', got 'cos'; did you mean 'cosine'"),
        (lambda: OneCycle(100, math.nan), "peak has to be a finite number"),
        (lambda: StepDecay(0.1), "needs milestones, .* or every"),
        (lambda: StepDecay(0.1, milestones=[3], every=2), "needs milestones, .* or every"),
        (lambda: StepDecay(0.1, milestones=[3, 2]), r"milestones have to be steps in ascending order.*got \[3, 2\]"),
        (lambda: StepDecay(0.1, milestones=[3, 3]), "milestones have to be steps in ascending order"),
        (lambda: StepDecay(0.1, milestones=[]), "milestones have to be steps in ascending order"),
        (lambda: StepDecay(0.1, every=0), "every has to be a whole number"),
        (lambda: StepDecay(0.1, gamma=1.5, every=3), "gamma has to be a finite number above 0 and at most 1"),
    ],
)
def test_options_that_make_no_rate_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()

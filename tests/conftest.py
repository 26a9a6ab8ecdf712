"""Hypothesis profiles (HYPOTHESIS_PROFILE=ci, the default, or deep), one torch thread, and a clean state for each test."""

import gc
import os

import pytest
import torch
from hypothesis import HealthCheck, settings

import vaekit

_SLOW_OK = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60, print_blob=True, suppress_health_check=_SLOW_OK)
settings.register_profile("deep", deadline=None, max_examples=3000, print_blob=True, suppress_health_check=_SLOW_OK)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure() -> None:
    """What tests start has one thread too, where nobody says otherwise."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_report_header() -> list[str]:
    profile = os.environ.get("HYPOTHESIS_PROFILE", "ci")
    seed = "derandomised: every run draws the same examples" if profile == "ci" else "random: --hypothesis-seed=N repeats a run"
    return [
        f"hypothesis profile {profile} ({seed}); torch {torch.__version__}",
        f"vaekit from {vaekit.__path__[0]}; cpu kernel: {vaekit.build_info()['cpu kernel']}",
    ]


def pytest_collection() -> None:
    """What collecting makes, half a million objects, stays to the end: looking for garbage among them takes seconds."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _only_marked_tests_compile(request, monkeypatch):
    """So that `pytest -m "not compile and not slow"` is quick: a compilation takes as long as a hundred other tests."""
    if request.node.get_closest_marker("compile") is None:

        def refused(*arguments, **options):
            pytest.fail("this test calls torch.compile: mark it with @pytest.mark.compile")

        monkeypatch.setattr(torch, "compile", refused)


@pytest.fixture(autouse=True)
def _one_thread_and_a_fixed_seed():
    """Two workers with two torch threads each would wait for each other's cores."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def own_registries(monkeypatch):
    """What a test registers is gone after it."""
    for registry in [kind.registry for kind in vaekit.specs.KINDS.values()]:
        monkeypatch.setattr(registry, "_parts", dict(registry._parts))

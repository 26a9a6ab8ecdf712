"""A run that is compiled: the same results from few programs, none of them broken by what cannot be traced."""

import functools

import pytest
import torch
from helpers.small_runs import X, fit, model, weights
from torch._dynamo.utils import counters


@pytest.mark.compile
def test_a_compiled_run_is_the_run_to_rounding(monkeypatch):
    """Without machine code, which takes a minute; test_perceptual.py compiles a run to it."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    parts = {"loss": {"name": "elbo", "beta": {"name": "linear", "steps": 5}}}
    options = {"validation": X[:7], "ema": 0.9, "learning_rate": {"name": "cosine", "start": 0.01, "end": 1e-3}, "epochs": 3}
    vae, compiled = model(**parts), model(**parts)
    torch.compiler.reset()
    counters.clear()
    history = fit(compiled, compile=True, **options)
    expected = fit(vae, **options)
    assert not counters["graph_break"]
    assert 0 < counters["stats"]["unique_graphs"] <= 4  # a batch of another size at the end of an epoch, and numbers that change
    torch.testing.assert_close(weights(compiled), weights(vae), rtol=1e-4, atol=1e-6)
    for name in expected:
        assert history[name] == pytest.approx(expected[name], rel=1e-5), name

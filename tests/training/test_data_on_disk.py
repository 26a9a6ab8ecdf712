"""Training on examples that stay on disk: their values are checked as they come, and each is read once an epoch."""

from collections import Counter

import numpy as np
import pytest
import torch
from helpers.small_runs import X, fit, model, weights

from vaekit import inputs
from vaekit.data import Examples, MappedArray


class Counted(np.ndarray):
    """An array that notes the rows that are read of it."""

    def __getitem__(self, index):
        READ.extend(np.arange(len(self))[index].reshape(-1).tolist())
        return np.asarray(self)[index]


READ = []


@pytest.fixture(autouse=True)
def _large(monkeypatch):
    """The examples are too many to be read twice."""
    monkeypatch.setattr(inputs, "_ELEMENTS_READ_TWICE", 0)
    READ.clear()


def on_disk(x=X):
    return Examples(MappedArray(x.numpy().copy().view(Counted)))


def test_examples_on_disk_train_the_same_model_and_are_read_once_an_epoch():
    one, other = model(), model()
    fit(one)
    fit(other, on_disk())
    assert torch.equal(weights(one), weights(other))
    assert sorted(READ) == sorted([*range(50)] * 2)


def test_the_output_bias_takes_one_more_reading_and_no_other_check():
    fit(vae := model(), on_disk(), initialize_output_bias=True)
    counts = Counter(READ)  # twice in training, once for the bias; and the first batch for the warning of averages
    assert set(counts.values()) == {3, 4}
    assert len(counts) == 50
    assert counts.total() == 3 * 50 + 16
    fit(again := model(), initialize_output_bias=True)
    assert torch.equal(weights(vae), weights(again))


def test_the_reading_for_the_output_bias_checks_the_values(monkeypatch):
    x = X.clone()
    x[23, 4] = np.inf
    with pytest.raises(ValueError, match="sample 23 holds infinity"):
        fit(model(), on_disk(x), initialize_output_bias=True)
    checks = []
    monkeypatch.setattr(inputs, "check_values", lambda vae, batch, *_: checks.append(len(batch.x)))
    fit(model(), on_disk(), initialize_output_bias=True)
    assert checks == [16, 16, 16, 2]


@pytest.mark.parametrize("value", [2.0, np.inf, np.nan])
def test_a_value_that_no_model_should_see_ends_the_first_epoch_with_finite_weights(value):
    x = X.clone()
    x[23, 4] = value
    vae = model()
    with pytest.raises(ValueError, match="train, the batch of step [0-3]: (sample 23 holds|Bernoulli)"):
        fit(vae, on_disk(x))
    assert weights(vae).isfinite().all()


def test_values_are_checked_in_the_first_epoch_and_not_again(monkeypatch):
    checks = []
    monkeypatch.setattr(inputs, "check_values", lambda vae, batch, *_: checks.append(len(batch.x)))
    fit(model(), on_disk(), epochs=3, validation=on_disk(X[:20]))
    assert sorted(checks) == [2, 4, 16, 16, 16, 16]

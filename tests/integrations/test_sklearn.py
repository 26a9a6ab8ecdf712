"""The estimator keeps scikit-learn's contract."""

import io

import joblib
import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from vaekit.integrations.sklearn import VAEEstimator


def small(**options):
    return VAEEstimator(**{"latent_dim": 2, "hidden": (8,), "epochs": 2, "samples": 5, "random_state": 0, **options})


NOISE = "the noise of the bound is each row's own, by its number"
FAILING = {"check_methods_subset_invariance": NOISE, "check_methods_sample_order_invariance": NOISE}


@parametrize_with_checks([small()], expected_failed_checks=lambda _: FAILING)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture
def numbers():
    generator = np.random.default_rng(0)
    z = generator.normal(size=(300, 1))
    return z @ [[1.0, -2.0, 0.5]] + 0.1 * generator.normal(size=(300, 3)) + [100.0, 0.0, -5.0]


def test_it_learns_goes_both_ways_and_scores(numbers):
    model = small(epochs=120, hidden=(32,), learning_rate=3e-3, beta=0.2, samples=50).fit(numbers)
    back = model.inverse_transform(model.transform(numbers))
    assert np.corrcoef(back[:, 1], numbers[:, 1])[0, 1] > 0.95
    odd = numbers.copy()
    odd[:, 0] = numbers[::-1, 0]
    assert model.score(odd) < model.score(numbers) - 1
    assert model.sample(7).shape == (7, 3)


def test_pipelines_searches_clones_and_files(numbers):
    search = GridSearchCV(small(), {"beta": [0.5, 2.0]}, cv=2).fit(numbers)
    assert search.best_params_["beta"] in (0.5, 2.0)
    pipeline = make_pipeline(StandardScaler(), clone(small())).fit(numbers)
    file = io.BytesIO()
    joblib.dump(pipeline, file)
    file.seek(0)
    assert np.array_equal(joblib.load(file).transform(numbers), pipeline.transform(numbers))


def test_a_frame_of_mixed_columns_and_missing_values():
    frame = pandas.DataFrame({"age": [31.0, 45, np.nan, 28] * 20, "smoker": ["no", "yes", None, "no"] * 20})
    model = small().fit(frame)
    assert list(model.feature_names_in_) == ["age", "smoker"]
    assert isinstance(model.inverse_transform(model.transform(frame)), pandas.DataFrame)
    with pytest.raises(NotFittedError):
        small().transform(frame)

"""What fit holds out by itself: the rows that load would, again when a run goes on, and said in its run.json."""

import json

import pandas
import pytest
import torch
from torch.utils.data import DataLoader

import vaekit
from vaekit.data import Examples, as_examples, load
from vaekit.data.splits import Marks

X = torch.linspace(-1, 1, 120).reshape(40, 3)
LABELS = ["rome", "london", "oslo", "london"] * 10
OPTIONS = {"epochs": 2, "batch_size": 10, "progress": False, "device": "cpu"}


def model(**options):
    return vaekit.create_vae(input_shape=(3,), latent_dim=2, likelihood="gaussian", seed=0, **options)


def losses(train, validation, seed=0, **options):
    return vaekit.fit(model(**options), train, validation=validation, seed=seed, **OPTIONS)["val_loss"]


@pytest.mark.parametrize("seed", [0, 7])
def test_a_fraction_is_what_load_holds_out(seed):
    train, test = load((X, LABELS), validation=0.25, seed=seed)
    assert losses((X, LABELS), 0.25, seed) == losses(train, test, seed)
    assert losses((X, LABELS), 0.25, seed) != losses(train, X[:10], seed)


def test_groups_and_a_column_are_held_out_as_load_does():
    frame = pandas.DataFrame(X.numpy(), columns=["a", "b", "c"]).assign(part=["train", "test"] * 20)
    train, test = load(frame, validation="part")
    assert losses(frame, "part") == losses(train, test) == losses(as_examples(frame, held_out="part"), None)
    grouped = Examples(X, marks=Marks(groups=torch.arange(40) // 8))
    train, test = load(grouped, validation=0.2)
    assert len(test.marks.groups.unique()) == 1
    assert losses(grouped, 0.2) == losses(train, test)


def test_a_run_says_what_it_holds_out_and_goes_on_with_the_same_rows(tmp_path):
    whole = vaekit.fit(model(), (X, LABELS), validation=0.25, out=tmp_path / "whole", seed=3, **{**OPTIONS, "epochs": 3})
    vaekit.fit(model(), (X, LABELS), validation=0.25, out=tmp_path / "part", seed=3, **OPTIONS)
    assert json.loads((tmp_path / "part" / "run.json").read_text())["validation"] == 0.25
    with pytest.raises(ValueError, match="validation: the number of examples was 10 and is 20"):
        vaekit.resume(tmp_path / "part", (X, LABELS), validation=0.5, epochs=3, progress=False)
    history = vaekit.resume(tmp_path / "part", (X, LABELS), validation=0.25, epochs=3, progress=False)
    assert history["val_loss"] == whole["val_loss"]


def test_a_fraction_of_a_loader_is_refused():
    with pytest.raises(TypeError, match="validation=0.25 is a fraction of whole examples; of a loader, give"):
        losses(DataLoader(X, batch_size=10), 0.25)
    with pytest.raises(ValueError, match="validation has to be a finite number above 0 and below 1, got 2"):
        losses(X, 2)


def test_labels_have_the_numbers_of_the_models_classes():
    names = ["oslo", "rome", "london"]
    condition = {"name": "labels", "classes": 3, "names": names}
    numbers = torch.tensor([names.index(label) for label in LABELS])
    assert losses((X, LABELS), (X, LABELS), condition=condition) == losses((X, numbers), (X, numbers), condition=condition)
    with pytest.raises(ValueError, match="the labels 'paris' are not among those trained on, 'oslo', 'rome', 'london'"):
        losses((X[:2], ["paris", "rome"]), None, condition=condition)


def test_real_numbers_are_a_vector_condition_or_left_alone():
    y = torch.linspace(0.1, 0.9, 40).numpy()
    told = losses((X, y), 0.25, condition={"name": "vector", "size": 1})
    assert told != losses((X, y), 0.25) == losses(X, 0.25)


def test_a_model_with_a_schema_takes_the_table_as_it_is(tmp_path):
    frame = pandas.DataFrame(X.numpy(), columns=["a", "b", "c"]).assign(town=LABELS, kind=["x", "y"] * 20)
    train, test = load(frame, label="kind", schema="guess", validation=0.25)
    condition = {"name": "labels", "classes": 2, "names": train.label_names, "column": "kind"}
    likelihood = {**train.schema.likelihood(), "schema": train.schema.to_config()}

    def fitted(train, validation, **options):
        vae = vaekit.create_vae(latent_dim=2, likelihood=likelihood, condition=condition, seed=0)
        return vaekit.fit(vae, train, validation=validation, **OPTIONS, **options)["val_loss"]

    assert fitted(train, test) == fitted(frame, 0.25, out=tmp_path)
    vae = vaekit.load(tmp_path / "best")
    assert vae.likelihood.schema == train.schema
    assert vaekit.evaluate(vae, frame) == vaekit.evaluate(vae, as_examples(frame, label="kind", schema=train.schema))
    other = as_examples(frame, label="kind", schema={"a": {"transform": "none"}})
    with pytest.raises(ValueError, match="train: the table was encoded by another schema than the model's"):
        fitted(other, None)
    with pytest.raises(ValueError, match="the schema's columns are a, b, c, town, the likelihood's a; they have to be the same"):
        vaekit.likelihoods.create("columns", columns={"a": "gaussian"}, schema=train.schema)

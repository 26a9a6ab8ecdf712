"""The card is one that huggingface_hub reads, says what is known, and nothing else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaekit.sharing.card import Card
from vaekit.sharing.estimates import Estimate

huggingface_hub = pytest.importorskip("huggingface_hub")

NUMBERS = [
    Estimate("loss, nats", "loss", 152.4, 1.25, 500),
    Estimate("error of reconstructions, rmse", "rmse", 0.2, None, 500),
]


def read(card):
    """As the hub's own tools read it, with its results."""
    return huggingface_hub.ModelCard(card.text(), ignore_metadata_errors=False)


def test_what_is_known_is_in_the_header_as_the_hub_has_it():
    card = read(Card("me/digits", license="mit", tags=("digits", "vae"), trained_on="mnist5k", estimates=NUMBERS))
    assert card.data.license == "mit"
    assert card.data.library_name == "vaekit"
    assert card.data.tags == ["variational-autoencoder", "vae", "pytorch", "digits"]
    assert card.data.datasets == ["ylecun/mnist"]
    assert card.data.metrics == ["loss", "rmse"]
    assert card.data.model_name == "digits"
    results = {(each.metric_type, each.metric_value, each.dataset_name, each.dataset_split) for each in card.data.eval_results}
    assert results == {("loss", 152.4, "mnist5k", "held out"), ("rmse", 0.2, "mnist5k", "held out")}


def test_what_is_not_known_is_left_out():
    card = read(Card("me/digits"))
    assert set(card.data.to_dict()) == {"library_name", "tags"}
    headings = [line for line in card.text.splitlines() if line.startswith("#")]
    assert headings == ["# digits", "## Use"]


def test_data_of_an_unknown_name_are_no_data_of_the_hub():
    card = read(Card("me/people", trained_on="people.csv", estimates=NUMBERS))
    assert card.data.datasets is None
    assert card.data.eval_results[0].dataset_type == "people.csv"


def test_numbers_have_their_standard_errors():
    lines = Card("me/digits", estimates=NUMBERS).text().splitlines()
    assert "| loss, nats | 152.4 | 1.2 |" in lines
    assert "| error of reconstructions, rmse | 0.2 |  |" in lines
    assert "Means over 500 held-out examples." in lines


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, 'vae = vaekit.load("hf://me/digits")'),
        ({"revision": "v1"}, 'vae = vaekit.load("hf://me/digits@v1")'),
        ({"revision": "a/b"}, 'vae = vaekit.load("hf://me/digits@a%2Fb")'),
        ({"is_table": True}, 'table = vaekit.Table.load("hf://me/digits")'),
    ],
)
def test_it_says_how_to_load_it(options, line):
    assert line in Card("me/digits", **options).text().splitlines()


@given(st.text(), st.text())
def test_no_text_of_a_file_acts_on_the_card(name, value):
    """Whatever columns and paths are called, the header stays the header, and a row a row without a tag or a link."""
    rows = [(name, value)]
    text = Card("me/x", trained_on=value, estimates=NUMBERS, data=rows, schema=value, command=value, warnings=[value]).text()
    card = huggingface_hub.ModelCard(text)
    assert card.data.library_name == "vaekit"
    section = text.partition("## Data\n")[2].splitlines()
    assert len(section[3].replace("\\\\", "").replace("\\|", "").split("|")) == 4
    assert not set("<>") & set(section[3])
    assert text.count("```") % 2 == 0
    header = text.split("---\n")[1]
    index = next(line for line in header.splitlines() if line.startswith("model-index"))
    assert json.loads(index.partition(": ")[2])[0]["results"][0]["metrics"][0]["value"] == 152.4

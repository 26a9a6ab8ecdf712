"""A history is a mapping that survives a file with every digit."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaekit import History

rows = st.lists(st.fixed_dictionaries({"loss": st.floats(allow_nan=False), "val_loss": st.floats(allow_nan=False)}), min_size=1)


@given(rows)
def test_every_digit_survives_the_file(tmp_path_factory, rows):
    history = History()
    for row in rows:
        history.append(row, seconds=1.0)
    file = history.to_csv(tmp_path_factory.mktemp("history") / "history.csv")
    assert dict(History.from_csv(file)) == dict(history)
    assert history["val_loss"][history.best_epoch] == min(row["val_loss"] for row in rows)


def test_a_term_that_comes_or_goes_is_nan_where_it_is_not():
    history = History()
    history.append({"loss": 1.0}, 0.1)
    history.append({"loss": 2.0, "extra": 3.0}, 0.1)
    history.append({"extra": 4.0}, 0.1)
    assert math.isnan(history["extra"][0])
    assert math.isnan(history["loss"][2])
    assert history.epochs == 3
    assert history.best_epoch == 0


def test_an_unknown_term_says_what_there_is():
    history = History()
    history.append({"loss": 1.0}, 0.1)
    with pytest.raises(KeyError, match="has no 'val_loss'; it has: loss"):
        history["val_loss"]
    with pytest.raises(ValueError, match="no epoch"):
        History().best_epoch  # noqa: B018


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a history: its first column is not 'epoch'"),
        (b"a,b\n1,2\n", "not a history: its first column is not 'epoch'"),
        (b"loss,epoch\n2.0,1\n", "not a history: its first column is not 'epoch'"),
        (b"epoch,loss\n1,\xff\n", "not a history: .*utf-8"),
        (b'epoch,loss\n1,"2.0\n', "not a history: unexpected end of data"),
        (b"epoch,loss,loss\n1,2.0,3.0\n", "a column occurs twice among epoch, loss, loss"),
        (b"epoch,loss,kl\n1,3.0,1.0\n2,2.0\n", r"row for epoch 2: it has 2 value\(s\) for 3 column"),
        (b"epoch,loss\n1,3.0,1.0\n", r"row for epoch 1: it has 3 value\(s\) for 2 column"),
        (b"epoch,loss\n1,3.0\n3,2.0\n", "row for epoch 2: epochs are numbered from 1 on"),
        (b"epoch,loss\n1,3.0\n2,low\n", "row for epoch 2: loss is no number, but 'low'"),
        (b"epoch,loss\n1,\n", "row for epoch 1: loss is no number, but ''"),
        (b"epoch,loss\n1,\x00\n", "loss is no number|NUL"),
        (b"epoch,loss,is_settled\n1,2.0,2\n", "row for epoch 1: is_settled is 0 or 1, not '2'"),
    ],
)
def test_a_file_that_is_no_history_or_damaged_is_refused_with_what_is_wrong(tmp_path, content, words):
    file = tmp_path / "other.csv"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"other.csv is .*({words})"):
        History.from_csv(file)

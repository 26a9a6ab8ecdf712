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


def test_a_file_that_is_no_history_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not a history"):
        History.from_csv(tmp_path / "other.csv")

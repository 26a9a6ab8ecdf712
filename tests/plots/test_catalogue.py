"""Laws of the catalogue: which pictures fit a model, and which examples they show."""

import numpy as np
import pytest
import torch
from helpers.pictures import model
from hypothesis import given
from hypothesis import strategies as st

import vaekit
from vaekit.data import as_examples
from vaekit.plots import catalogue, pictures
from vaekit.plots.catalogue import CATALOGUE, Subject, spread_rows

CODEBOOK = {"posterior": {"name": "vector_quantized", "codes": 8}, "prior": "codes", "loss": "vector_quantized"}
SPATIAL = {
    "encoder": {"name": "conv", "channels": (4,), "hidden": (), "spatial": True},
    "decoder": {"name": "conv", "channels": (4,)},
}


def subject(vae, n=6, y=None, history=None) -> Subject:
    x = torch.rand(n, *vae.input_shape, generator=torch.Generator().manual_seed(0))
    return Subject(vae, as_examples(x if y is None else (x, y)), history)


@pytest.mark.parametrize(
    ("shape", "latent_dim", "parts", "fits"),
    [
        ((1, 8, 8), 2, {}, {"latent_space", "latent_grid"}),
        ((3, 8, 8), 2, {}, {"latent_space", "latent_grid"}),
        ((2, 8, 8), 2, {}, {"latent_space", "traversals"}),
        ((1, 8, 8), 3, {}, {"latent_space", "traversals"}),
        ((6,), 2, {}, {"latent_space", "traversals"}),
        ((2, 9), 1, {}, {"latent_space", "traversals"}),
        ((1, 1, 9), 2, {}, {"latent_space", "traversals"}),
        ((1, 8, 8), 2, CODEBOOK, {"latent_space"}),
        ((1, 8, 8), 3, CODEBOOK, {"latent_space"}),
        ((1, 8, 8), 3, SPATIAL, set()),
        ((1, 8, 8), 2, {"posterior": "full_gaussian"}, {"latent_space", "latent_grid"}),
        ((1, 8, 8), 3, {"posterior": "ladder", "prior": "top_down"}, {"latent_space", "traversals", "levels"}),
        ((1, 8, 8), 3, {"posterior": "ladder"}, {"latent_space", "traversals"}),
    ],
)
def test_the_pictures_that_fit_a_model(shape, latent_dim, parts, fits):
    subject_ = subject(model(shape, latent_dim, **parts))
    assert {name for name, entry in CATALOGUE.items() if entry.fits(subject_)} == fits | {"reconstructions", "samples"}


@pytest.mark.parametrize("history", [None, {}, vaekit.History(), {"loss": [1.0]}])
def test_curves_fit_where_there_is_a_history(history):
    assert CATALOGUE["loss"].fits(subject(model(), history=history)) is bool(history)


@pytest.mark.parametrize("parts", [{}, CODEBOOK, {"condition": {"name": "labels", "classes": 3}}], ids=["", "codes", "labels"])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3,)], ids=str)
def test_what_fits_can_be_drawn(shape, parts):
    y = torch.arange(6) % 3
    drawn = dict(catalogue.fitting(subject(model(shape, **parts), y=y, history={"loss": [2.0, 1.0]})))
    assert {"loss", "reconstructions", "samples", "latent_space"} <= set(drawn)
    assert all(figure.axes for figure in drawn.values())


@pytest.mark.parametrize(
    ("condition", "y", "rows"),
    [
        (None, None, None),
        ({"name": "labels", "classes": 30}, torch.arange(60) % 30, None),
        ({"name": "labels", "classes": 31}, torch.arange(60) % 31, [0, 12, 24, 5, 17]),
        ({"name": "vector", "size": 1}, torch.arange(60.0)[:, None], [[0.0], [12.0], [24.0], [36.0], [48.0]]),
    ],
    ids=["unconditional", "30 labels", "31 labels", "vectors"],
)
def test_samples_have_a_row_for_each_condition_or_where_those_are_many_for_a_few(condition, y, rows, monkeypatch):
    asked = []
    monkeypatch.setattr(pictures, "samples", lambda vae, condition=None, limits=None: asked.append(condition))
    vae = model((4,)) if condition is None else model((4,), condition=condition)
    CATALOGUE["samples"].draw(subject(vae, n=60, y=y))
    (given_,) = asked
    assert given_ is None if rows is None else given_.tolist() == rows


TABLES = {"marginals", "pairs", "associations", "column_reconstructions", "column_traversals"}


@pytest.mark.parametrize("missing", [False, True])
def test_a_table_whose_columns_have_names_is_drawn_by_column(missing):
    x = torch.rand(9, 3)
    x[3, 1] = torch.nan if missing else 0.5
    examples = vaekit.data.Examples(x, columns=["a", "b", "c"])
    subject_ = Subject(model((3,), likelihood={"name": "gaussian", "missing": "ignore"}), examples)
    fits = TABLES | {"latent_space"} | ({"missingness"} if missing else set())
    assert set(dict(catalogue.fitting(subject_))) == fits
    one = Subject(model((1,)), vaekit.data.Examples(x[:, :1], columns=["a"]))
    assert {name for name, entry in CATALOGUE.items() if entry.fits(one)} == fits - {"pairs", "associations", "missingness"}


def test_a_latent_space_shows_at_most_5000_points():
    figure = CATALOGUE["latent_space"].draw(subject(model((1,)), n=7001, y=torch.arange(7001) % 2))
    assert sum(len(points.get_offsets()) for points in figure.axes[0].collections) == 5000
    assert "5,000 of 7,001 examples" in figure.axes[0].get_title()


@given(st.integers(1, 200), st.data())
def test_rows_are_spread_evenly(total, draw):
    count = draw.draw(st.integers(1, total))
    rows = spread_rows(as_examples(torch.zeros(total, 1)), count).tolist()
    assert rows == [int(total * i // count) for i in range(count)]
    gaps = np.diff([*rows, total])
    assert gaps.min() >= total // count
    assert gaps.max() <= -(-total // count)


def test_more_rows_than_there_are_examples_are_refused():
    with pytest.raises(ValueError, match="4 held-out.*5"):
        spread_rows(as_examples(torch.zeros(4, 1)), 5)

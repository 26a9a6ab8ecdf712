"""Laws of the pictures of tables: the numbers that are drawn are the data's, by name and in their units, and none is lost."""

import numpy as np
import pandas
import pytest
import torch
from helpers.pictures import assert_draws, model
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.dates import num2date
from scipy import stats

import vaekit
from vaekit import plots
from vaekit.data import Schema, as_examples
from vaekit.plots import association, panels
from vaekit.plots.units import Named, Values

PICTURES = ("marginals", "pairs", "associations", "column_reconstructions", "column_traversals", "missingness")
RANDOM = np.random.default_rng(0)


def people(n=120) -> pandas.DataFrame:
    """Numbers, positive ones, levels, booleans, counts and dates, with missing values, and a column that does not vary."""
    random = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "age": random.normal(45, 12, n).round(),
            "income": np.exp(random.normal(9, 2, n)).round(2),
            "education": random.choice(["school", "college", "none"], n),
            "smoker": random.random(n) < 0.3,
            "visits": random.poisson(4, n),
            "joined": pandas.Timestamp("2015-03-01") + pandas.to_timedelta(random.integers(0, 3000, n), unit="D"),
            "same": 7.5,
        }
    )
    frame.loc[::7, "age"] = np.nan
    frame.loc[::7, "education"] = None
    frame.loc[3::10, "education"] = None
    return frame


def model_of(frame, seed=0, settings=None, **parts) -> vaekit.VAE:
    schema = Schema.guess(frame, settings)
    likelihood = {**schema.likelihood(), "schema": schema, "missing": "ignore"}
    return vaekit.create_vae("table", likelihood=likelihood, latent_dim=3, seed=seed, **parts)


FRAME = people()
VAE = model_of(FRAME)


def panel(figure, name):
    """The panel of a column, by the name above it."""
    return next(axes for axes in figure.axes if axes.get_title(loc="left") == name)


def shares(axes) -> list[list[float]]:
    """What the bars or the steps of a panel say, for held-out rows and for samples."""
    if axes.containers:
        return [[bar.get_width() for bar in bars] for bars in axes.containers]
    return [patch.get_data().values.tolist() for patch in axes.patches]


def edges(axes) -> np.ndarray:
    return axes.patches[0].get_data().edges


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_renders_and_is_the_same_each_time(name):
    figure, other = (getattr(plots, name)(VAE, FRAME) for _ in range(2))
    assert_draws(figure)
    for one, same in zip(figure.axes, other.axes, strict=True):
        assert [c.get_offsets().tolist() for c in one.collections] == [c.get_offsets().tolist() for c in same.collections]
        assert shares(one) == shares(same) or one.images


@pytest.mark.parametrize("name", PICTURES)
def test_drawing_leaves_the_model_and_the_generator_alone(name):
    vae = model_of(FRAME).train()
    before = torch.get_rng_state()
    getattr(plots, name)(vae, FRAME)
    assert all(module.training for module in vae.modules())
    assert torch.equal(torch.get_rng_state(), before)


def test_bars_and_histograms_are_the_shares_of_what_is_observed_in_its_own_unit():
    figure = plots.marginals(VAE, FRAME)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(FRAME.columns)
    synthetic = VAE.likelihood.schema.decode(VAE.sample(len(FRAME), draw=True, key=vaekit.make_key(0)))
    for name in ("education", "smoker"):
        axes = panel(figure, name)
        levels = [label.get_text() for label in axes.get_yticklabels()]
        for side, drawn in zip((FRAME, synthetic), shares(axes), strict=True):
            expected = side[name].astype("string").value_counts(normalize=True).reindex(levels, fill_value=0.0)
            np.testing.assert_allclose(drawn, expected.to_numpy(), atol=1e-12)
    for name in ("age", "income", "visits"):
        axes = panel(figure, name)
        for side, drawn in zip((FRAME, synthetic), shares(axes), strict=True):
            observed = side[name].dropna().to_numpy(dtype=float)
            expected = np.histogram(observed, edges(axes))[0] / len(observed)
            np.testing.assert_allclose(drawn, expected, atol=1.5 / len(observed))
            assert sum(drawn) == pytest.approx(1.0)
    assert panel(figure, "income").get_xscale() == "log"
    assert "120 held-out rows and as many samples" in figure.get_suptitle()


def test_dates_are_dates():
    axes = panel(plots.marginals(VAE, FRAME), "joined")
    first, last = (num2date(edge).replace(tzinfo=None) for edge in edges(axes)[[0, -1]])
    assert abs(first - FRAME["joined"].min()) <= pandas.Timedelta("1D")
    assert abs(last - FRAME["joined"].max()) <= pandas.Timedelta("1D")
    axes.figure.canvas.draw()
    assert any(text.get_text().startswith("20") for text in axes.get_xticklabels())


@pytest.mark.parametrize("unit", ["days", "hours", "seconds"])
def test_durations_have_a_unit_in_which_the_longest_is_at_least_one(unit):
    lengths = pandas.to_timedelta(np.linspace(0, 40, 30), unit={"days": "D", "hours": "min", "seconds": "s"}[unit])
    lengths = lengths * (2 if unit == "hours" else 1)
    frame = pandas.DataFrame({"length": lengths})
    axes = panel(plots.marginals(model_of(frame), frame), "length")
    assert axes.get_xlabel() == unit
    assert edges(axes)[-1] == pytest.approx(
        lengths.max() / pandas.Timedelta(1, unit=unit[:-1] if unit != "days" else "D"), rel=1e-3
    )


def test_what_is_missing_is_told_in_the_panel():
    figure = plots.marginals(VAE, FRAME)
    for name in FRAME:
        label = panel(figure, name).get_xlabel()
        share = FRAME[name].isna().mean()
        assert label == (f"missing: {panels.percent(share)} / 0 %" if share else "")


def test_values_beyond_the_range_that_was_trained_on_are_drawn_where_they_are():
    frame = pandas.DataFrame({"x": np.linspace(0.0, 1.0, 50), "y": np.arange(50) * 100})
    vae = model_of(frame)
    further = frame * 2 + 1
    for name in frame:
        axes = panel(plots.marginals(vae, further), name)
        assert edges(axes)[-1] == pytest.approx(further[name].max(), rel=1e-4)
    values = Named.of(vae).values(as_examples(further, schema=vae.likelihood.schema).x)
    np.testing.assert_allclose(values[0].numbers, further["x"], rtol=1e-4)
    np.testing.assert_array_equal(values[1].numbers, further["y"])


@settings(max_examples=30)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60), st.integers(0, 3))
def test_no_value_leaves_a_histogram_in_silence(numbers, far):
    column = Values("x", np.array([*numbers * 5, *[1e9] * far]))
    scale = panels.Scale.of(column)
    counts, _ = np.histogram(column.observed, scale.edges(column.observed))
    assert counts.sum() == round((1 - scale.beyond(column)) * len(column.observed))
    assert scale.beyond(column) <= 0.02 + far / len(column.observed)


def test_what_lies_far_out_is_counted_below_the_panel():
    frame = pandas.DataFrame({"x": np.append(np.linspace(-1, 1, 999), 1e6)})
    axes = panel(plots.marginals(model_of(frame, settings={"x": {"transform": "none"}}), frame), "x")
    assert "beyond the axis: 0.1 % / " in axes.get_xlabel()
    assert axes.get_xlim()[1] < 3


def test_of_many_levels_the_rare_ones_are_one_bar():
    levels = np.repeat([f"level {k}" for k in range(20)], np.arange(20, 0, -1))
    frame = pandas.DataFrame({"level": levels})
    axes = panel(plots.marginals(model_of(frame), frame), "level")
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [*sorted(f"level {k}" for k in range(9)), "11 others"]
    assert sum(shares(axes)[0]) == pytest.approx(1.0)
    assert shares(axes)[0][-1] == pytest.approx(sum(range(1, 12)) / 210)


def test_of_many_columns_those_that_differ_most_are_drawn_and_the_title_says_so():
    vae = vaekit.create_vae(input_shape=(40,), latent_dim=2, encoder="mlp", decoder="mlp", likelihood="gaussian")
    x = torch.randn(200, 40)
    x[:, 17] += 9.0
    figure = plots.marginals(vae, x)
    assert len(figure.axes) == 12
    assert figure.axes[0].get_title(loc="left") == "x17"
    assert "the 12 of 40 columns that differ most" in figure.get_suptitle()
    told = [float(axes.get_title(loc="right")) for axes in figure.axes]
    assert told == sorted(told, reverse=True)
    assert "the 12 of 40 columns that vary most" in plots.column_reconstructions(vae, x).get_suptitle()
    assert "30 of 40 columns" in plots.associations(vae, x).get_suptitle()
    assert len(plots.marginals(vae, x, columns=["x3", "x1"]).axes) == 2


def test_pairs_show_held_out_rows_below_and_samples_above_where_they_are():
    figure = plots.pairs(VAE, FRAME, columns=["age", "visits", "education"])
    grid = np.array(figure.axes[:9]).reshape(3, 3)
    synthetic = VAE.likelihood.schema.decode(VAE.sample(len(FRAME), draw=True, key=vaekit.make_key(0)))
    for (row, place), frame in (((1, 0), FRAME), ((0, 1), synthetic)):
        names = ["age", "visits"]
        both = frame[["age", "visits"]].dropna()
        (points,) = grid[row, place].collections
        expected = both[[names[place], names[row]]].to_numpy(dtype=float)
        np.testing.assert_allclose(points.get_offsets(), expected, atol=1e-6)
    (points,) = grid[2, 1].collections
    there = FRAME["education"].dropna()
    levels = sorted(there.unique())
    assert [levels[round(height)] for height in points.get_offsets()[:, 1]] == there.tolist()
    assert [axes.get_title() for axes in grid[0]] == ["age", "visits", "education"]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["age", "visits", "education"]


def test_associations_are_those_of_both_tables_and_their_difference():
    figure = plots.associations(VAE, FRAME, columns=["age", "visits", "income"])
    held_out, samples, change = (np.array(axes.images[0].get_array().filled(np.nan)) for axes in figure.axes[:3])
    np.testing.assert_allclose(held_out, FRAME[["age", "visits", "income"]].corr("spearman"), atol=1e-3)
    np.testing.assert_allclose(change, samples - held_out)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["age", "visits", "income"]
    assert figure.axes[0].images[0].get_clim() == (-1.0, 1.0)


@settings(max_examples=40)
@given(st.integers(2, 60), st.integers(0, 10**6))
def test_the_association_of_two_columns_is_scipys(n, seed):
    random = np.random.default_rng(seed)
    x, y = random.integers(0, 9, n).astype(float), random.normal(size=n)
    kind, other = random.integers(0, 3, n).astype(float), random.integers(0, 2, n).astype(float)
    numbers, more = Values("x", x), Values("y", y)
    levels, further = Values("kind", kind, ("a", "b", "c")), Values("other", other, ("d", "e"))
    if len(np.unique(x)) > 1:
        assert association.association(numbers, more) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    if len(np.unique(kind)) > 1:
        groups = [stats.rankdata(y)[kind == level] for level in np.unique(kind)]
        kruskal = stats.kruskal(*groups).statistic / (n - 1)  # is the squared ratio, where no ranks are tied
        assert association.association(levels, more) == pytest.approx(np.sqrt(max(kruskal, 0)), abs=1e-7)
    if len(np.unique(kind)) > 1 and len(np.unique(other)) > 1:
        table = pandas.crosstab(kind, other).to_numpy()
        expected = stats.contingency.association(table, method="cramer")
        assert association.association(levels, further) == pytest.approx(expected)
    assert association.association(numbers, more) == pytest.approx(association.association(more, numbers), nan_ok=True)
    assert association.difference(numbers, more) == pytest.approx(stats.ks_2samp(x, y).statistic)
    assert np.isnan(association.association(numbers, Values("one", np.ones(n))))


def test_a_matrix_has_the_association_of_each_pair():
    random = np.random.default_rng(1)
    holes = np.where(random.random(50) < 0.2, np.nan, random.normal(size=50))
    columns = [Values(f"x{place}", random.integers(0, 5, 50).astype(float)) for place in range(3)]
    columns += [Values("holes", holes), Values("kind", random.integers(0, 3, 50).astype(float), ("a", "b", "c"))]
    columns += [Values("one", np.ones(50))]
    expected = [[association.association(one, other) for other in columns] for one in columns]
    np.testing.assert_allclose(association.associations_of(columns), expected, atol=1e-12)


def test_the_columns_that_have_to_do_with_each_other_are_chosen():
    random = np.random.default_rng(0)
    columns = [Values(f"x{place}", random.normal(size=300)) for place in range(80)]
    columns[71] = Values("x71", columns[5].numbers + 0.1 * random.normal(size=300))
    columns[40] = Values("x40", columns[5].numbers - 0.5 * random.normal(size=300))
    assert association.most_associated(columns, 3) == [5, 40, 71]
    assert association.most_associated(columns[:2], 3) == [0, 1]


def test_reconstructions_are_drawn_against_their_originals_in_the_columns_units():
    figure = plots.column_reconstructions(VAE, FRAME)
    x = as_examples(FRAME, schema=VAE.likelihood.schema).x
    made = VAE.likelihood.schema.decode(VAE.reconstruct(x))
    observed = FRAME["age"].notna()
    (points,) = panel(figure, "age").collections
    np.testing.assert_allclose(points.get_offsets(), np.stack([FRAME["age"], made["age"]], 1)[observed], atol=1e-6)
    error = np.sqrt(((FRAME["age"] - made["age"]) ** 2).mean())
    assert panel(figure, "age").get_xlabel() == f"off by {error:.3g}; missing: {panels.percent(1 - observed.mean())}"
    levels = sorted(FRAME["education"].dropna().unique())
    shown = np.array(panel(figure, "education").images[0].get_array())
    expected = pandas.crosstab(made["education"], FRAME["education"], normalize="columns").reindex(levels, fill_value=0.0)
    np.testing.assert_allclose(shown, expected[levels])
    right = (made["education"] == FRAME["education"])[FRAME["education"].notna()].mean()
    assert panel(figure, "education").get_xlabel().startswith(f"{panels.percent(right)} right")


def test_lines_are_what_is_decoded_while_one_latent_moves_in_the_columns_units():
    figure = plots.column_traversals(VAE, columns=["income", "education"])
    z = torch.zeros(21, 3)
    z[:, 1] = torch.linspace(-2.5, 2.5, 21)
    expected = VAE.likelihood.schema.decode(VAE.decode(z).detach())
    line = panel(figure, "income").lines[1]
    np.testing.assert_allclose(line.get_xdata(), z[:, 1])
    np.testing.assert_allclose(line.get_ydata(), expected["income"])
    levels = sorted(FRAME["education"].dropna().unique())
    assert [levels[int(place)] for place in panel(figure, "education").lines[1].get_ydata()] == expected["education"].tolist()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["$z_{1}$", "$z_{2}$", "$z_{3}$"]
    assert len({line.get_color() for line in panel(figure, "income").lines}) == 3


def test_the_dimensions_that_move_the_columns_are_drawn_of_many():
    vae = vaekit.create_vae(input_shape=(40,), latent_dim=20, encoder="mlp", decoder="mlp", likelihood="gaussian")
    with torch.no_grad():
        next(vae.decoder.parameters())[:, [3, 17]] *= 30
    figure = plots.column_traversals(vae)
    assert len(figure.axes) == 12
    assert "12 of 40 columns, the 8 of 20 dimensions that move most" in figure.get_suptitle()
    assert {"$z_{4}$", "$z_{18}$"} <= {text.get_text() for text in figure.legends[0].get_texts()}


def test_missing_values_are_counted_by_column_and_together():
    figure = plots.missingness(VAE, FRAME)
    left, right = figure.axes[:2]
    names = ["age", "education"]
    assert [label.get_text() for label in left.get_yticklabels()] == names
    np.testing.assert_allclose(shares(left), [FRAME[names].isna().mean()])
    np.testing.assert_allclose(right.images[0].get_array(), FRAME[names].isna().corr())
    assert "2 of 7 columns miss values" in figure.get_suptitle()


def test_a_column_that_is_missing_throughout_and_a_single_row_are_drawn():
    frame = FRAME.assign(age=np.nan)
    for name in PICTURES:
        getattr(plots, name)(VAE, frame)
        assert_draws(getattr(plots, name)(VAE, FRAME[:1]))
    assert "no values" in panel(plots.column_reconstructions(VAE, frame), "age").get_xlabel()
    assert "missing: 100 % / 0 %" in panel(plots.marginals(VAE, frame), "age").get_xlabel()


def test_samples_have_the_conditions_of_the_rows():
    frame = FRAME[["age", "visits"]]
    vae = model_of(frame, condition={"name": "labels", "classes": 2, "names": ["f", "m"]})
    y = np.arange(len(frame)) % 2
    figure = plots.pairs(vae, (as_examples(frame, schema=vae.likelihood.schema).x, y))
    synthetic = vae.likelihood.schema.decode(vae.sample(len(frame), torch.tensor(y), draw=True, key=vaekit.make_key(0)))
    (points,) = figure.axes[1].collections
    np.testing.assert_allclose(points.get_offsets(), synthetic[["visits", "age"]].to_numpy(dtype=float), atol=1e-6)


def test_samples_of_cells_have_the_library_sizes_of_the_cells():
    counts = np.random.default_rng(0).poisson(np.linspace(1, 40, 60)[:, None] * np.ones(5)).astype(np.float32)
    likelihood = {"name": "library_size", "counts": "poisson", "features": [f"gene {g}" for g in range(5)]}
    vae = vaekit.create_vae(input_shape=(5,), latent_dim=2, encoder="mlp", decoder="mlp", likelihood=likelihood)
    named = Named.of(vae)
    with torch.no_grad():
        drawn = named.drawn(as_examples(counts), vaekit.make_key(0)).numpy()
    assert stats.spearmanr(drawn.sum(1), counts.sum(1)).statistic > 0.95
    assert abs(drawn.sum() / counts.sum() - 1) < 0.1
    assert panel(plots.marginals(vae, counts), "gene 3").get_xlabel() == ""


@pytest.mark.parametrize(
    ("draw", "fact"),
    [
        (lambda: plots.marginals(VAE, FRAME, columns=["agee"]), "no column 'agee'; did you mean 'age'.*'age', 'income'"),
        (lambda: plots.marginals(VAE, FRAME, columns=[]), "columns names no column"),
        (lambda: plots.pairs(VAE, FRAME, columns=["age"]), "two columns.*got 1"),
        (lambda: plots.pairs(model((1,), likelihood="gaussian"), torch.rand(5, 1)), "two columns.*got 1"),
        (
            lambda: plots.missingness(VAE, FRAME[["income", "smoker"]].assign(**{n: FRAME[n].dropna().iloc[0] for n in FRAME})),
            "0",
        ),
        (lambda: plots.marginals(model(), torch.rand(3, 1, 6, 5)), r"\(1, 6, 5\).*samples"),
        (lambda: plots.marginals(VAE, FRAME.drop(columns="age")), "age"),
        (lambda: plots.marginals(VAE, FRAME[:0]), "no rows"),
        (lambda: plots.marginals(model((40,)), torch.rand(9, 40), columns=[f"x{i}" for i in range(31)]), "at most 30.*31"),
    ],
)
def test_what_cannot_be_drawn_is_named(draw, fact):
    with pytest.raises(ValueError, match=f"(?s){fact}"):
        draw()


def test_something_that_is_not_a_model_or_a_loader_is_refused():
    with pytest.raises(TypeError, match="marginals takes a vaekit.VAE"):
        plots.marginals(FRAME, VAE)
    loader = torch.utils.data.DataLoader(torch.rand(8, 3), batch_size=4)
    with pytest.raises(TypeError, match="held whole"):
        plots.marginals(model((3,)), loader)

"""A table: fitted, sampled, conditioned, imputed, scored, saved."""

import pickle

import numpy as np
import pandas
import polars
import pytest
import torch
from helpers.frames import assert_same
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st
from scipy import stats

import vaekit
from vaekit import Table
from vaekit.evaluation.terms import evaluation_key
from vaekit.plots.panels import percent

ROWS = 600


def people() -> pandas.DataFrame:
    """Two groups that differ in age and income, of which one seldom says its income."""
    generator = np.random.default_rng(0)
    group = generator.random(ROWS) < 0.4
    income = np.round(generator.lognormal(10 + group, 0.3))
    return pandas.DataFrame(
        {
            "age": generator.integers(20, 40, ROWS) + 30 * group,
            "income": np.where(generator.random(ROWS) < np.where(group, 0.6, 0.05), np.nan, income),
            "group": np.where(group, "old", "young"),
            "since": pandas.Timestamp("2020-01-01") + pandas.to_timedelta(generator.integers(0, 400, ROWS), unit="D"),
            "member": generator.random(ROWS) < np.where(group, 0.9, 0.2),
        }
    )


@pytest.fixture(scope="module")
def frame():
    return people()


@pytest.fixture(scope="module")
def table(frame):
    torch.set_num_threads(1)
    return Table.fit(frame, epochs=150, latent_dim=2, hidden=(64,), beta=0.5, learning_rate=3e-3)


@pytest.mark.parametrize("how", ["share", "column", "frame"])
def test_what_is_held_out_says_nothing_of_the_schema(how):
    generator = np.random.default_rng(0)
    frame = pandas.DataFrame({"age": generator.integers(20, 40, 200), "town": generator.choice(["Bergen", "Oslo"], 200)})
    held_out = vaekit.data.splits.held_out_rows(200, 0.2, 3).numpy()
    is_held_out = np.isin(np.arange(200), held_out)
    frame.loc[held_out[0], "age"] = 99
    frame.loc[held_out[1], "town"] = "Molde"
    given, validation = frame, 0.2
    if how == "column":
        given, validation = frame.assign(part=np.where(is_held_out, "test", "train")), "part"
    elif how == "frame":
        given, validation = frame[~is_held_out], frame[is_held_out]
    with pytest.warns(UserWarning, match="'town' has 'Molde' in 1 of the held-out rows"):
        table = Table.fit(given, epochs=1, hidden=(8,), validation=validation, seed=3)
    alone = vaekit.data.Schema.guess(frame[~is_held_out])
    assert table.schema.columns["age"] == alone.columns["age"]
    assert table.schema.columns["age"].range[1] < 40
    assert table.schema.columns["town"].levels == ("Bergen", "Oslo")
    assert table.indicators == ("town",)
    if how == "column":  # the column is left out of other frames too
        assert len(table.encode(given[~is_held_out])) == 160


def test_what_is_hidden_in_training_is_an_option_that_is_saved(frame, tmp_path):
    table = Table.fit(frame, epochs=1, hidden=(8,), hide=0.4, components=0)
    assert table.vae.likelihood.gaps == ("ignore", True, 0.4)
    assert Table.fit(frame, epochs=1, hidden=(8,), components=0).vae.likelihood.gaps == ("ignore", False, 0.0)
    table.save(tmp_path / "table")
    again = Table.load(tmp_path / "table")
    assert_same(again.impute(frame, samples=5), table.impute(frame, samples=5))
    with pytest.raises(ValueError, match="hide"):
        Table.fit(frame, epochs=1, hide=1.5)


def test_validation_without_surprises_is_seen_by_fit(monkeypatch):
    frame, seen = pandas.DataFrame({"x": np.random.default_rng(0).normal(size=100)}), {}

    def fit(vae, x, **options):
        seen.update(options, rows=len(x))

    monkeypatch.setattr(vaekit.table, "fit", fit)
    Table.fit(frame, epochs=1, components=0, validation=0.2)
    assert (seen["rows"], len(seen["validation"])) == (80, 20)
    with pytest.raises(ValueError, match="no column 'part'"):
        Table.fit(frame, epochs=1, validation="part")


def test_a_sample_is_a_table_of_the_same_kind(table, frame):
    made = table.sample(400)
    assert (made.dtypes == frame.dtypes).all()
    assert list(made.columns) == list(frame.columns)
    for name in ("age", "income", "since"):
        assert made[name].dropna().between(frame[name].min(), frame[name].max()).all()
    assert (made["income"].dropna() % 1 == 0).all()
    assert (made["since"].dt.normalize() == made["since"]).all()
    assert set(made["group"]) == {"old", "young"}
    assert_same(table.sample(400), made)
    assert not table.sample(400, seed=1).equals(made)


def test_missing_values_are_generated_where_they_belong(table, frame):
    made = table.sample(4000)
    for group in ("old", "young"):
        share, found = (of[of["group"] == group]["income"].isna().mean() for of in (frame, made))
        assert abs(found - share) < 0.12
    assert not made.drop(columns="income").isna().any().any()


def test_columns_go_together_as_they_did(table, frame):
    made = table.sample(4000)
    assert stats.ks_2samp(made["age"], frame["age"]).statistic < 0.12
    for of in (frame, made):
        assert of[of["group"] == "old"]["age"].mean() - of[of["group"] == "young"]["age"].mean() > 22


@pytest.mark.parametrize("given", [{"group": "old"}, {"income": None}, {"member": False, "group": "young"}])
def test_what_is_given_is_kept_and_the_rest_is_what_rejection_leaves(table, given):
    many, made = table.sample(20000, seed=1), table.sample(2000, given=given, seed=2)
    kept = np.ones(len(many), dtype=bool)
    for name, value in given.items():
        assert (made[name].isna() if value is None else made[name] == value).all()
        kept &= (many[name].isna() if value is None else many[name] == value).to_numpy()
    rest = many[kept]
    assert stats.ks_2samp(made["age"], rest["age"]).pvalue > 1e-3
    assert abs((made["group"] == "old").mean() - (rest["group"] == "old").mean()) < 0.05


def test_what_is_rare_is_warned_of_and_what_is_unknown_refused(table, monkeypatch):
    monkeypatch.setattr("vaekit.table._CANDIDATES", 100)
    monkeypatch.setattr("vaekit.table._FOR_EACH", 1)
    with pytest.warns(UserWarning, match="rare"):
        table.sample(100, given={"age": 20, "group": "old", "since": "2020-01-01"})
    for given, match in (
        ({"groop": "old"}, "'groop'.*'group'"),
        ({"group": "middle"}, "'group'.*'middle'.*'old', 'young'"),
        ({"age": None}, "'age'.*None"),
        ({"age": float("nan")}, "'age'.*nan"),
        ({"age": "old"}, "'age'.*text"),
        ({"age": 200}, "'age' cannot hold 200.*20 to .*nearest is .*with_column\\('age'"),
        ({"income": 30000.5}, "'income' cannot hold 30000.5.*0 decimals.*nearest is 30000"),
        ({"since": "2020-01-05 13:00"}, "'since' cannot hold '2020-01-05 13:00'.*day.*nearest is 2020-01-06"),
        ({"since": "soon"}, "'since'.*datetime.*'2020-01-31'.*'soon'"),
        (["group"], r"given has to be a mapping.*\['group'\]"),
    ):
        with pytest.raises((TypeError, ValueError), match=match):
            table.sample(3, given=given)
    with pytest.raises(ValueError, match="n, the number of rows.*at least 0.*-1"):
        table.sample(-1)


@pytest.mark.parametrize("given", [None, {"group": "old"}])
def test_no_rows_make_an_empty_frame_of_the_same_kind(table, frame, given):
    empty = table.sample(0, given=given)
    pandas.testing.assert_frame_equal(empty, frame.head(0))
    assert_same(table.impute(empty), empty)
    assert [len(of) for of in table.impute(empty, draws=2)] == [0, 0]
    assert table.score(empty).shape == (0,)
    assert table.encode(empty).shape == (0, 2)
    assert_same(table.decode(table.encode(empty).numpy()), empty)


def odd(rows: int = 60) -> pandas.DataFrame:
    generator = np.random.default_rng(1)
    return pandas.DataFrame(
        {
            "huge": generator.integers(2**62, 2**63 - 1, rows),
            "unsigned": generator.integers(2**63, 2**64 - 1, rows, dtype=np.uint64),
            "zoned": pandas.date_range("2020-03-28", periods=rows, freq="h", tz="Europe/Berlin"),
            "taken": pandas.to_timedelta(generator.integers(0, 100, rows), unit="h"),
            "constant": 3.5,
            "one level": "only",
            "nothing": np.nan,
            "never": pandas.NaT,
            "no text": pandas.Series([None] * rows, dtype=object),
            "": generator.normal(size=rows),
            "maybe": pandas.array([True, None, False] * (rows // 3), dtype="boolean"),
            "maybe is missing": generator.normal(size=rows),
        }
    )


@pytest.mark.parametrize("rows", [1, 2, 60])
def test_odd_columns_and_few_rows_make_a_table_of_the_same_kind(rows):
    frame = odd().head(rows)
    table = Table.fit(frame, epochs=1)
    for made in (
        table.sample(5),
        table.sample(5, given={"one level": "only"}),
        table.impute(frame),
        table.decode(torch.zeros(2, 24)),
    ):
        assert (made.dtypes == frame.dtypes).all()
    made = table.sample(200)
    for name in ("huge", "unsigned", "zoned", "taken"):
        assert made[name].between(frame[name].min(), frame[name].max()).all()
    assert (made["constant"] == 3.5).all()
    with pytest.raises(ValueError, match=r"'nothing' had no values.*5\.0"):
        table.sample(1, given={"nothing": 5.0})
    assert table.impute(frame)[["nothing", "never", "no text"]].isna().all().all()
    assert made[["nothing", "never", "no text"]].isna().all().all()
    assert np.isfinite(table.score(frame, samples=5)).all()


def test_times_and_durations_are_given_as_text_or_as_objects():
    table = Table.fit(odd(), epochs=1)
    moment = pandas.Timestamp("2020-03-28 10:00", tz="Europe/Berlin")
    for given in (moment, "2020-03-28T10:00+01:00", "2020-03-28T09:00Z", "2020-03-28 09:00", np.datetime64("2020-03-28T09:00")):
        assert (table.sample(3, given={"zoned": given})["zoned"] == moment).all()
    for given in (pandas.Timedelta(hours=5), np.timedelta64(5, "h"), pandas.Timedelta(hours=5).to_pytimedelta()):
        assert (table.sample(3, given={"taken": given})["taken"] == pandas.Timedelta(hours=5)).all()
    with pytest.raises(TypeError, match=r"'taken'.*timedelta.*hours=5.*'5h'"):
        table.sample(3, given={"taken": "5h"})
    with pytest.raises(ValueError, match=r"'huge' cannot hold"):
        table.sample(3, given={"huge": 5})
    with pytest.raises(ValueError, match=r"'huge' is beyond 64 bits"):
        table.sample(3, given={"huge": 10**30})
    for missing in (None, float("nan"), pandas.NA, pandas.NaT):
        assert table.sample(3, given={"maybe": missing})["maybe"].isna().all()


@hypothesis_given(st.integers(1, 9000), st.integers(1, 500), st.integers(1, 3000))
def test_a_small_tables_rows_are_repeated_for_as_many_passes(rows, batch_size, epochs):
    repeats = vaekit.table._repeats(rows, batch_size, epochs)
    assert epochs % repeats == 0
    assert repeats == 1 or repeats * rows <= 100 * batch_size
    usual = vaekit.table.usual_epochs(rows, batch_size)
    assert usual >= 20
    assert usual * rows >= 4000 * batch_size
    if rows <= 5 * batch_size:  # 20 passes are fewer
        assert vaekit.table._repeats(rows, batch_size, usual) == 100 * batch_size // rows


def test_what_training_is_given_are_the_passes_that_were_asked_for(frame, monkeypatch):
    asked = []
    monkeypatch.setattr("vaekit.table.fit", lambda vae, x, *, epochs, **_: asked.append((len(x), epochs)))
    Table.fit(frame, epochs=60, components=0)
    assert asked[-1] == (10 * ROWS, 6)
    Table.fit(frame, epochs=61, components=0)
    assert asked[-1] == (ROWS, 61)
    for option in ({"callbacks": ()}, {"learning_rate": {"name": "plateau", "start": 1e-3}}):  # which count epochs
        Table.fit(frame, epochs=60, components=0, **option)
        assert asked[-1] == (ROWS, 60)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epochs": 0}, "epochs.*at least 1.*0"),
        ({"batch_size": 0}, "batch_size.*at least 1.*0"),
        ({"components": 100}, "100 components.*has 60"),
        ({"components": -1}, "components.*at least 0.*-1"),
        ({"latent_dim": 0}, "latent_dim.*at least 1.*0"),
        ({"schema": "x"}, "settings.*'x'"),
        ({"schema": {"constant": "count"}}, "settings.*kind.*count"),
    ],
)
def test_wrong_options_are_refused_before_training(options, match, monkeypatch):
    monkeypatch.setattr("vaekit.table.fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises((TypeError, ValueError), match=match):
        Table.fit(odd(), **options)


def test_imputation_fills_what_is_missing_and_leaves_the_rest(table, frame):
    filled = table.impute(frame)
    observed = frame["income"].notna()
    assert (filled["income"][observed] == frame["income"][observed]).all()
    assert not filled.isna().any().any()
    pandas.testing.assert_frame_equal(filled.drop(columns="income"), frame.drop(columns="income"))
    old = ~observed & (frame["group"] == "old")
    assert np.log(filled["income"][old]).mean() > np.log(frame["income"][observed & (frame["group"] == "young")]).mean() + 0.5
    several = table.impute(frame, draws=3, samples=50)
    assert len(several) == 3
    assert not several[0].equals(several[1])


def test_strange_rows_score_low(table, frame):
    scores = table.score(frame, samples=50)
    assert scores.shape == (ROWS,)
    odd = frame[frame["group"] == "young"].assign(age=69)
    assert table.score(odd, samples=50).mean() < scores.mean() - 3


def test_latents_and_back(table, frame):
    z = table.encode(frame)
    assert z.shape == (ROWS, 2)
    again = table.decode(z)
    assert (again["group"] == frame["group"]).mean() > 0.95
    assert (again.dtypes == frame.dtypes).all()


def test_it_is_saved_and_pickled_with_its_schema(table, frame, tmp_path):
    made = table.sample(20)
    table.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    for again in (Table.load(tmp_path), Table.load(tmp_path / "model.safetensors"), pickle.loads(pickle.dumps(table))):
        assert again.schema == table.schema
        assert_same(again.sample(20), made)
    assert vaekit.load(tmp_path).input_shape == (6,)  # the VAE alone
    table.vae.save(tmp_path)
    with pytest.raises(ValueError, match=r"without a schema.*vaekit\.load"):
        Table.load(tmp_path)


def test_a_polars_frame_with_settings_and_a_seed():
    frame = polars.DataFrame({"x": [0.5, 1.5, None, 2.5] * 20, "k": ["a", "b", "b", None] * 20})
    one, two = (Table.fit(frame, {"x": {"range": (0, 9)}}, epochs=2, seed=3) for _ in range(2))
    assert one.sample(5).equals(two.sample(5))
    assert one.schema.columns["x"].range == (0, 9)
    assert one.sample(50)["x"].is_null().any()
    with pytest.raises(ValueError, match=r"\(4,\).*1 columns with 1 indicators.*\(2,\)"):
        Table(one.vae, vaekit.data.Schema.guess(frame.select("x")))


def test_pictures_of_a_table_have_its_units_and_the_missing_values_that_it_makes():
    frame = pandas.DataFrame({"age": np.arange(20.0, 70.0).repeat(4), "kind": ["a", "b", None, "a"] * 50})
    table = Table.fit(frame, epochs=2, components=0)
    key = evaluation_key(0)  # that of seed 0
    figure = table.plot("marginals", frame, key=key)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["age", "kind"]
    synthetic = table.sample(len(frame))
    share = synthetic["kind"].isna().mean()
    assert share > 0
    assert figure.axes[1].get_xlabel() == f"missing: 25 % / {percent(share)}"
    bars = table.plot("missingness", frame, key=key).axes[0].containers
    assert [bar.get_width() for each in bars for bar in each] == [0.25, share]
    axes, _ = table.plot("latent_space", frame, color="age").axes
    assert sorted(axes.collections[0].get_array()) == sorted(frame["age"])
    moved = table.plot("column_traversals", frame, columns=["age"]).axes[0]
    assert 20 <= moved.lines[0].get_ydata().min() <= moved.lines[0].get_ydata().max() <= 69
    with pytest.raises(ValueError, match="picture has to be one of.*'pairs'.*'pears'; did you mean 'pairs'"):
        table.plot("pears", frame)

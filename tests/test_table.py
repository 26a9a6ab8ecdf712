"""A table: fitted, sampled, conditioned, imputed, scored, saved."""

import pickle

import numpy as np
import pandas
import polars
import pytest
import torch
from helpers.frames import assert_same
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
        ({"age": "old"}, "'age'.*text"),
    ):
        with pytest.raises((TypeError, ValueError), match=match):
            table.sample(3, given=given)
    with pytest.raises(ValueError, match="n, the number of rows"):
        table.sample(0)


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

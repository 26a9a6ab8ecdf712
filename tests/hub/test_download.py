"""Models are downloaded from the hub once, and what stands in the way is said in words of its own."""

import importlib
import sys

import pytest
import torch
from helpers.hub_server import READER, WRITER, Repository
from helpers.small_runs import model

import vaekit
from vaekit.hub import HubAddress

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = importlib.import_module("huggingface_hub.constants")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, and its file's bytes."""
    vae = model(seed=3)
    return vae, (vae.save(tmp_path_factory.mktemp("model")) / "model.safetensors").read_bytes()


@pytest.fixture
def shared(hub, saved):
    """me/digits, with the model in a folder of it and under a tag, and pickled weights beside it."""
    hub.repositories["me/digits"] = repository = Repository()
    repository.commit(
        "main", {"model.safetensors": saved[1], "best/model.safetensors": saved[1], "last.safetensors": saved[1]}, "a"
    )
    repository.branches["v1"] = repository.branches["main"]
    repository.commit("empty", {"model.safetensors": b""}, "b")
    hub.repositories["me/pickled"] = pickled = Repository()
    pickled.commit("main", {"pytorch_model.bin": b"\x80"}, "c")
    hub.repositories["me/secret"] = secret = Repository(private=True)
    secret.commit("main", {"model.safetensors": saved[1]}, "d")
    hub.repositories["me/gated"] = Repository(gated=True)
    return hub


@pytest.mark.parametrize(
    ("text", "repository", "revision", "inside"),
    [
        ("hf://me/digits", "me/digits", None, ""),
        ("hf://me/digits/", "me/digits", None, ""),
        ("hf://models/me/digits@v1", "me/digits", "v1", ""),
        ("hf://me/di.g_i-ts@refs/pr/1", "me/di.g_i-ts", "refs/pr/1", ""),
        ("hf://me/digits@refs/pr/1/a/b", "me/digits", "refs/pr/1", "a/b"),
        ("hf://me/digits@a%2Fbranch/last.safetensors", "me/digits", "a/branch", "last.safetensors"),
        ("hf://me/digits/a/b", "me/digits", None, "a/b"),
    ],
)
def test_an_address_is_parsed_as_huggingface_hub_parses_it(hub, text, repository, revision, inside):
    assert HubAddress.parsed(text) == HubAddress(repository, revision, inside)
    hub.repositories[repository] = Repository()
    hub.repositories[repository].branches.update({"v1": hub.repositories[repository].branches["main"]})
    hub.repositories[repository].branches.update(dict.fromkeys(("refs/pr/1", "a/branch"), hub.repositories[repository].at("v1")))
    theirs = huggingface_hub.HfFileSystem(endpoint=hub.address, skip_instance_cache=True).resolve_path(text)
    assert (theirs.repo_id, theirs.revision, theirs.path_in_repo) == (repository, revision or "main", inside)


@pytest.mark.parametrize(
    "text", ["hf://", "hf://digits", "hf://me/", "hf://datasets/me/digits", "hf://me/digits@", "hf://me/d/../x"]
)
def test_what_is_no_address_of_a_model_is_refused(text):
    with pytest.raises(ValueError, match=r"a model on the hub is hf://owner/name.*got"):
        vaekit.load(text)


def test_another_scheme_is_refused():
    with pytest.raises(ValueError, match=r"not at s3://; got 's3://bucket/model'"):
        vaekit.load("s3://bucket/model")


@pytest.mark.parametrize("where", ["", "@main", "@v1", "@v1/best", "/best/", "/last.safetensors"])
def test_a_model_comes_back_from_its_repository(shared, saved, where):
    again = vaekit.load(f"hf://me/digits{where}")
    z = torch.randn(4, 2)
    assert torch.equal(again.decode(z), saved[0].decode(z))
    assert not again.training
    assert any("vaekit/" in agent for agent in shared.agents)


def test_it_is_downloaded_once_and_then_only_asked_whether_it_has_changed(shared):
    for _ in range(2):
        vaekit.load("hf://me/digits")
    assert shared.requests == [
        ("HEAD", "/me/digits/resolve/main/model.safetensors"),
        ("GET", "/me/digits/resolve/main/model.safetensors"),
        ("HEAD", "/me/digits/resolve/main/model.safetensors"),
    ]
    shared.repositories["me/digits"].commit("main", {"model.safetensors": b"changed"}, "e")
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        vaekit.load("hf://me/digits")


def test_a_commit_is_taken_from_the_cache_without_a_request(shared):
    commit = shared.repositories["me/digits"].at("v1")
    vaekit.load(f"hf://me/digits@{commit}")
    shared.requests.clear()
    vaekit.load(f"hf://me/digits@{commit}")
    assert shared.requests == []


def test_a_private_repository_opens_to_a_token(shared):
    with pytest.raises(FileNotFoundError, match=r"no repository me/secret, or it is private.*hf auth login.*HF_TOKEN.*token="):
        vaekit.load("hf://me/secret")
    for token in (READER, WRITER):
        vaekit.load("hf://me/secret", token=token)


def test_a_token_from_the_environment_opens_it_too(shared, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READER)
    vaekit.load("hf://me/secret")


def test_a_token_for_a_path_is_refused(tmp_path):
    with pytest.raises(ValueError, match="token is for models on the hub"):
        vaekit.load(tmp_path, token="hf_x")


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("hf://me/nothing", FileNotFoundError, r"the hub has no repository me/nothing"),
        ("hf://me/digits@v9", FileNotFoundError, r"me/digits has no branch, tag or commit 'v9'"),
        (
            "hf://me/digits/other",
            FileNotFoundError,
            r"there is no other/model.safetensors of me/digits; the repository holds: best/",
        ),
        ("hf://me/pickled", FileNotFoundError, r"holds: pytorch_model.bin; pickled weights are not read"),
        ("hf://me/gated", PermissionError, r"me/gated is gated. Accept its terms"),
    ],
)
def test_what_is_missing_is_said(shared, address, error, words):
    with pytest.raises(error, match=words):
        vaekit.load(address)


def test_a_token_that_the_hub_does_not_know_is_said(shared):
    with pytest.raises(PermissionError, match=r"does not know the token.*\(401\)"):
        vaekit.load("hf://me/digits", token="hf_wrong")


@pytest.mark.parametrize(
    ("status", "error", "words"), [(403, PermissionError, r"\(403\)"), (503, ConnectionError, r"fails \(503\)")]
)
def test_a_hub_that_refuses_or_fails_is_said(shared, status, error, words, monkeypatch):
    shared.fails = status
    with pytest.raises(error, match=words):
        vaekit.load("hf://me/digits")


def test_offline_the_cache_is_read_and_what_it_lacks_is_said(shared, monkeypatch):
    vaekit.load("hf://me/digits")
    shared.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    vaekit.load("hf://me/digits")
    with pytest.raises(ConnectionError, match=r"HF_HUB_OFFLINE is set, and the cache in .* does not have it"):
        vaekit.load("hf://me/digits/best")
    assert shared.requests == []


def test_without_a_network_the_cache_is_read_and_what_it_lacks_is_said(shared, monkeypatch):
    vaekit.load("hf://me/digits")
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    vaekit.load("hf://me/digits")
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:9 cannot be reached, and the cache does not have it"):
        vaekit.load("hf://me/digits/best")


def test_without_huggingface_hub_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'reading the repository me/digits needs .*pip install "vaekit\[hub\]"'):
        vaekit.load("hf://me/digits")


def test_damage_is_found_as_in_a_file_of_ones_own(shared):
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        vaekit.load("hf://me/digits@empty")

"""A folder becomes one commit, by the requests that the hub expects; what stands in the way is said in words of its own."""

import importlib

import pytest
from helpers.hub_server import READER, WRITER, Repository

from vaekit import hub as client

pytest.importorskip("huggingface_hub")
constants = importlib.import_module("huggingface_hub.constants")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model" / "pictures").mkdir(parents=True)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "model" / "pictures" / "one.png").write_bytes(b"picture")
    return tmp_path / "model"


def push(folder, repository="me/digits", **options):
    return client.push(folder, repository, **{"commit_message": "a model", "token": WRITER, **options})


def test_a_folder_is_one_commit(hub, folder):
    address = push(folder)
    repository = hub.repositories["me/digits"]
    commit = repository.at("main")
    assert address == f"{hub.address}/me/digits/commit/{commit}"
    assert repository.messages[commit] == "a model"
    assert repository.commits[commit] == {
        "README.md": b"---\nlicense: mit\n---\n",
        "model.safetensors": b"weights",
        "pictures/one.png": b"picture",
    }
    assert not repository.private
    assert len(repository.commits) == 2


def test_the_requests_are_those_that_the_hub_knows(hub, folder):
    push(folder)
    asked = [f"{method} {path}" for method, path in hub.requests]
    assert sorted(asked[:2] + asked[3:]) == sorted(
        [
            "POST /api/repos/create",
            "POST /api/validate-yaml",
            "POST /me/digits.git/info/lfs/objects/batch",
            *(f"PUT /lfs/{oid}" for oid in hub.lfs),
            "POST /api/models/me/digits/commit/main",
        ]
    )
    assert asked[2] == "POST /api/models/me/digits/preupload/main"
    assert any("vaekit/" in agent for agent in hub.agents)


def test_a_second_push_adds_a_commit_and_keeps_other_files(hub, folder):
    push(folder)
    hub.repositories["me/digits"].commit("main", {"notes.txt": b"mine"}, "notes")
    (folder / "model.safetensors").write_bytes(b"better")
    push(folder, commit_message="a better one")
    held = hub.repositories["me/digits"].commits[hub.repositories["me/digits"].at("main")]
    assert (held["model.safetensors"], held["notes.txt"]) == (b"better", b"mine")


def test_a_private_repository_is_made_private(hub, folder):
    push(folder, private=True)
    assert hub.repositories["me/digits"].private


@pytest.mark.parametrize(
    ("is_private", "asked", "words"), [(False, True, "public, not private"), (True, False, "private, not public")]
)
def test_a_repository_that_is_less_or_more_private_than_asked_gets_nothing(hub, folder, is_private, asked, words):
    hub.repositories["me/digits"] = repository = Repository(private=is_private)
    with pytest.raises(ValueError, match=f"me/digits is there already and {words}: nothing was pushed"):
        push(folder, private=asked)
    assert list(repository.messages.values()) == ["initial commit"]
    push(folder, private=is_private)


def test_a_branch_is_made_and_pushed_to(hub, folder):
    push(folder, revision="v2")
    branches = hub.repositories["me/digits"].branches
    assert branches["v2"] != branches["main"]
    push(folder, revision="v2")


def test_a_pull_request_is_proposed(hub, folder):
    hub.repositories["me/digits"] = Repository()
    assert push(folder, create_pr=True) == f"{hub.address}/me/digits/discussions/1"
    assert hub.repositories["me/digits"].commits[hub.repositories["me/digits"].at("main")] == {}


@pytest.mark.parametrize("name", ["digits", "me/", "a/b/c", "https://huggingface.co/me/digits", 3])
def test_what_is_no_repository_is_refused_before_anything_is_asked(hub, folder, name):
    with pytest.raises(ValueError, match='the repository to push to is "owner/name"'):
        push(folder, name)
    assert hub.requests == []


def test_a_pull_request_from_a_branch_is_refused(folder):
    with pytest.raises(ValueError, match="leave the revision 'v2' out"):
        push(folder, revision="v2", create_pr=True)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, r"me/digits cannot be pushed to: the hub does not know the token, or got none \(401\); give `hf auth login`"),
        ("hf_wrong", r"does not know the token, or got none \(401\)"),
        (READER, r"the token does not allow it \(403\); one with the right to do this to me/digits"),
    ],
)
def test_who_may_not_push_is_told(hub, folder, token, words):
    with pytest.raises(PermissionError, match=words):
        push(folder, token=token)


def test_a_token_from_the_environment_pushes(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    push(folder, token=None)
    assert "me/digits" in hub.repositories


def test_offline_and_without_a_network_nothing_is_pushed(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"me/digits cannot be pushed to: http://127.0.0.1:9 cannot be reached"):
        push(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"me/digits cannot be pushed to: HF_HUB_OFFLINE is set"):
        push(folder)
    assert hub.requests == []


def test_a_hub_that_fails_is_said(hub, folder):
    hub.fails = 500
    with pytest.raises(ConnectionError, match=r"the hub fails \(500\); try again later"):
        push(folder)

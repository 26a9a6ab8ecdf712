"""Laws of what is asked of git: the right answers, no program of the repository's, and an answer in any case."""

import os
import stat
import subprocess

import pytest

from vaekit import revision as module
from vaekit.revision import revision

WHO = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
WHO |= {f"GIT_{role}_{what}": "nobody@nowhere" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@pytest.fixture
def git(tmp_path, monkeypatch):
    """Asks git in a new repository with one file."""
    for name, value in WHO.items():
        monkeypatch.setenv(name, value)

    def ask(*question):
        done = subprocess.run(["git", *question], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    try:
        ask("init", "--quiet", "--initial-branch=research")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    (tmp_path / "model.py").write_text("1")
    ask("add", ".")
    return ask


def test_commit_branch_and_changes_are_gits(git, tmp_path):
    assert revision(tmp_path) == {"commit": None, "branch": "research", "is_modified": True}
    git("commit", "--quiet", "--message", "one")
    commit = git("rev-parse", "HEAD")
    assert revision(tmp_path) == {"commit": commit, "branch": "research", "is_modified": False}
    (tmp_path / "notes.txt").write_text("not tracked")
    (tmp_path / "within").mkdir()
    assert revision(tmp_path / "within") == {"commit": commit, "branch": "research", "is_modified": False}
    (tmp_path / "model.py").write_text("2")
    assert revision(tmp_path)["is_modified"] is True
    git("checkout", "--quiet", "--detach")
    assert revision(tmp_path) == {"commit": commit, "branch": None, "is_modified": True}


def test_without_git_or_a_repository_there_is_nothing(tmp_path, monkeypatch):
    assert revision(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision(tmp_path) is None


def program(file, text):
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


@pytest.mark.skipif(os.name == "nt", reason="programs are shell scripts here")
@pytest.mark.parametrize("way", ["core.fsmonitor", "core.hooksPath", "filter.evil.clean", "filter.evil.process"])
def test_nothing_that_a_repository_names_is_run(way, git, tmp_path):
    (tmp_path / "touched.txt").write_text("1")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    mark, hooks = tmp_path / "it-ran", tmp_path / "hooks"
    hooks.mkdir()
    evil = program(tmp_path / "evil", f"touch {mark}; cat")
    program(hooks / "post-index-change", f"touch {mark}")
    git("config", way, str(hooks if way == "core.hooksPath" else evil))
    (tmp_path / ".gitattributes").write_text("*.py filter=evil\n")
    (tmp_path / "model.py").write_text("2")
    os.utime(tmp_path / "touched.txt", (0, 0))  # git's index is to be refreshed
    found = revision(tmp_path)
    assert not mark.exists()
    assert found["is_modified"] is (None if way.startswith("filter") else True)
    subprocess.run(["git", "status"], cwd=tmp_path, check=False, capture_output=True)
    assert mark.exists()  # of somebody who asks without care


@pytest.mark.skipif(os.name == "nt", reason="programs are shell scripts here")
def test_a_git_that_hangs_or_fails_is_no_answer(git, tmp_path, monkeypatch):
    bin = tmp_path / "bin"
    bin.mkdir()
    program(bin / "git", "exit 3")
    monkeypatch.setenv("PATH", f"{bin}{os.pathsep}{os.environ['PATH']}")
    assert revision(tmp_path) is None
    program(bin / "git", "exec sleep 1000")
    monkeypatch.setattr(module, "_SECONDS", 0.1)
    assert revision(tmp_path) is None


def test_a_git_in_the_folder_itself_is_not_run(git, tmp_path, monkeypatch):
    program(tmp_path / "git", f"touch {tmp_path / 'it-ran'}")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert revision(tmp_path) is None
    assert not (tmp_path / "it-ran").exists()

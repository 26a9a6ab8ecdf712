"""Which commit the current folder is at, where it lies in a git repository.

Git can be configured, in the repository itself, to run programs: monitors, filters, hooks, helpers that fetch what is missing. A
repository that was downloaded must not get anything run by lying around a run, so that git is asked only what needs none of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

_SECONDS = 3.0  # for each question
_QUIET = ("--no-optional-locks", "-c", "core.fsmonitor=false")  # without the first it refreshes its index, and then runs a hook
_OFFLINE = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}
_FILTERS, _ITS_OWN = r"^filter\..*\.(clean|process)$", ("local", "worktree")  # scopes that lie in the repository


def revision(folder: Path) -> dict[str, Any] | None:
    """The commit, the branch, and whether files that git tracks differ from the commit.

    Args:
        folder: in the repository.

    Returns:
        {"commit": ..., "branch": ..., "is_modified": ...}; None without git or a repository. The commit is None where there is
        none yet, and the branch on none. is_modified is None where git gives no answer within seconds, or would run a program
        that the repository names for it (a filter).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     revision(Path(folder)) is None
        True
    """
    git = shutil.which("git")
    if git is None or Path(git).resolve().parent == folder.resolve():
        return None
    if _answer(git, folder, "rev-parse", "--git-dir") is None:
        return None
    filters = _answer(git, folder, "config", "--show-scope", "--includes", "--get-regexp", _FILTERS, highest_code=1)
    changes = None
    if filters is not None and not any(line.startswith(_ITS_OWN) for line in filters.splitlines()):
        changes = _answer(git, folder, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all", "--no-renames")
    return {
        "commit": _answer(git, folder, "rev-parse", "--verify", "--quiet", "HEAD"),
        "branch": _answer(git, folder, "symbolic-ref", "--short", "--quiet", "HEAD"),
        "is_modified": None if changes is None else changes != "",
    }


def _answer(git: str, folder: Path, *question: str, highest_code: int = 0) -> str | None:
    """What git prints; None where it fails or takes too long."""
    try:
        done = subprocess.run(
            [git, *_QUIET, *question],
            cwd=folder,
            env={**os.environ, **_OFFLINE},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode <= highest_code else None

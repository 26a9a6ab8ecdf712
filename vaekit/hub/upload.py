"""A folder's files as one commit in a repository of one's own on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vaekit.hub import client
from vaekit.hub.download import is_repository

MAIN = "main"


def push(
    folder: Path,
    repository: str,
    *,
    commit_message: str,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Commit the folder's files, all at once; others in the repository stay. The repository is made unless it is there.

    Args:
        folder: with the files, and folders of them.
        repository: owner/name.
        private: of a new repository, None for what its owner has set; of one that is there, what it has to be.
        token: None for the one that `hf auth login` has left, or HF_TOKEN.
        revision: the branch, made unless it is there; None for the main one.
        create_pr: propose the commit as a pull request instead.

    Returns:
        the commit's address, or the pull request's.

    Raises:
        ImportError: huggingface_hub is not installed.
        ValueError: no name of a repository; one that is there and not as private as asked; what the hub does not accept.
        PermissionError, FileNotFoundError, ConnectionError: the hub refuses, or cannot be reached.
    """
    check(repository, revision, create_pr)
    package = client.package("pushing a model")
    api = client.api(token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if private is not None:
            _check_privacy(api, repository, private)
        if revision not in (None, MAIN):
            api.create_branch(repository, branch=revision, exist_ok=True)
        info = api.create_commit(
            repository,
            [
                package.CommitOperationAdd(file.relative_to(folder).as_posix(), file)
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            ],
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )
    except _Refused:
        raise
    except Exception as error:  # its own, and those of its client
        raise client.explained(error, repository, revision, f"{repository} cannot be pushed to") from error
    return str(info.pr_url if create_pr else info.commit_url)


def check(repository: str, revision: str | None, create_pr: bool) -> None:
    """Refuse what cannot be pushed to.

    Raises:
        ValueError: no name of a repository; a pull request from a branch.
    """
    if not isinstance(repository, str) or not is_repository(repository):
        raise ValueError(f'the repository to push to is "owner/name", "me/digits" for example, got {repository!r}')
    if create_pr and revision not in (None, MAIN):
        raise ValueError(f"a pull request is made to the main branch; leave the revision {revision!r} out")


class _Refused(ValueError):
    """Of our own, among those of the client."""


def _check_privacy(api: Any, repository: str, private: bool) -> None:
    is_private = bool(api.model_info(repository).private)
    if is_private != private:
        kinds = {True: "private", False: "public"}
        raise _Refused(
            f"{repository} is there already and {kinds[is_private]}, not {kinds[private]}: nothing was pushed. Change it in its "
            "settings on the hub, or leave private out"
        )

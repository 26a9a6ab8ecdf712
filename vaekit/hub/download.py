"""Files of repositories on the Hugging Face hub, through huggingface_hub and its cache."""

from __future__ import annotations

import re
from pathlib import Path

from vaekit.files import printable
from vaekit.hub import client

_PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def is_repository(source: str) -> bool:
    """Whether it could be the name of one, owner/name.

    Example:
        >>> is_repository("stabilityai/sdxl-vae"), is_repository("./sdxl-vae"), is_repository("a/b/c")
        (True, False, False)
    """
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) is not None


def file(repository: str, name: str, subfolder: str, revision: str | None, token: str | bool | None = None) -> Path:
    """The file, from the cache or downloaded. HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are as huggingface_hub says.

    Raises:
        ImportError: huggingface_hub is not installed.
        FileNotFoundError: there is no such repository, revision or file; the message says which, and what there is.
        PermissionError: the hub wants a token, or another one.
        ConnectionError: the hub cannot be reached, or fails, and the cache does not have the file.
    """
    package = client.package(f"reading the repository {repository}")
    path = "/".join(filter(None, (subfolder, name)))
    try:
        return Path(
            package.hf_hub_download(
                repository, name, subfolder=subfolder or None, revision=revision, token=token, **client.agent()
            )
        )
    except Exception as error:  # its own, those of its client and of the disk
        what = f"{path} of {repository}{'' if revision is None else f' at the revision {revision}'}"
        problem = client.explained(error, repository, revision, f"{what} cannot be downloaded")
        if client.is_missing_file(error):
            problem = FileNotFoundError(f"there is no {what}{_what_is_there(repository, revision, token)}")
        raise problem from error


def _what_is_there(repository: str, revision: str | None, token: str | bool | None) -> str:
    """The names of the repository's files, in words; "" where they cannot be had either."""
    try:
        found = client.api(token).list_repo_files(repository, revision=revision)
    except Exception:
        return ""
    shown = printable(", ".join(found[:10])) or "nothing"
    pickled = any(name.endswith(_PICKLED) for name in found) and not any(name.endswith(".safetensors") for name in found)
    hint = "; pickled weights are not read, because a pickle can run any code" if pickled else ""
    return f"; the repository holds: {shown}{f' and {len(found) - 10} more' if len(found) > 10 else ''}{hint}"

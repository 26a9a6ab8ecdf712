"""Files of repositories on the Hugging Face hub, through huggingface_hub and its cache."""

from __future__ import annotations

import re
from pathlib import Path

from vaekit.files import printable


def is_repository(source: str) -> bool:
    """Whether it could be the name of one, owner/name.

    Example:
        >>> is_repository("stabilityai/sdxl-vae"), is_repository("./sdxl-vae"), is_repository("a/b/c")
        (True, False, False)
    """
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) is not None


def file(repository: str, name: str, subfolder: str, revision: str | None) -> Path:
    """The file, from the cache or downloaded. HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are as huggingface_hub says.

    Raises:
        ImportError: huggingface_hub is not installed.
        ConnectionError: the hub does not give it; the message has the reason.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ImportError(
            f"there is no folder {repository} here, and reading a repository needs the package huggingface_hub: "
            'pip install "vaekit[hub]"',
            name=error.name,
        ) from error
    try:
        return Path(hf_hub_download(repository, name, subfolder=subfolder or None, revision=revision))
    except Exception as error:  # its own, those of its client and of the disk
        raise ConnectionError(
            f"{'/'.join(filter(None, (subfolder, name)))} of the repository {repository} cannot be had from the hub "
            f"({type(error).__name__}: {printable(error, 500)}); a folder with the file is read as it is"
        ) from error

"""Files from the network: a cache, mirrors, a checksum, and a way on when there is no network."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

_BLOCK = 1 << 16
_TIMEOUT_SECONDS = 30


def cache_folder() -> Path:
    """Where downloads are kept: $VAEKIT_DATA, or vaekit in the user's cache folder."""
    if folder := os.environ.get("VAEKIT_DATA"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaekit"


def fetch(file: Path, md5: str, mirrors: Sequence[str], *, progress: bool = True) -> Path:
    """`file`, downloaded from the first mirror that gives it with the right checksum, unless it is there already.

    Args:
        file: where it belongs; its name is appended to a mirror's address.
        md5: the checksum, in hexadecimal.
        mirrors: addresses of folders, each ending in a slash.

    Returns:
        `file`, whose content has the checksum.

    Raises:
        ValueError: there was a file, on a mirror or here, but none with the right checksum.
        ConnectionError: no mirror had one; says which file to put where by hand.
        OSError: the folder cannot be written.
    """
    if file.is_file() and _md5(file) == md5:
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    failures = [f"the file that is there has the checksum {_md5(file)}"] if file.is_file() else []
    reached = bool(failures)
    for mirror in mirrors:
        temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
        try:
            _download(mirror + file.name, temporary, progress)
            reached = True
            if (found := _md5(temporary)) == md5:
                os.replace(temporary, file)
                return file
            failures.append(f"{mirror}{file.name} has the checksum {found}")
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            failures.append(f"{mirror}{file.name}: {getattr(error, 'reason', None) or repr(error)}")
        finally:
            temporary.unlink(missing_ok=True)
    message = (
        f"could not get {file.name} (md5 {md5}): {'; '.join(failures)}. "
        f"To go on without a network, put the file into {file.parent} by hand."
    )
    raise ValueError(message) if reached else ConnectionError(message)


def _download(address: str, target: Path, progress: bool) -> None:
    with urllib.request.urlopen(address, timeout=_TIMEOUT_SECONDS) as response, open(target, "wb") as stream:
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        with tqdm(
            total=size, desc=target.name.strip(".").split(".gz")[0], unit="B", unit_scale=True, disable=not progress
        ) as bar:
            while block := response.read(_BLOCK):
                stream.write(block)
                bar.update(len(block))


def _md5(file: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(file, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()

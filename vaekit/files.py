"""Files that are never half written, and folders that can be written into."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def writable_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder, made if need be, in which a file can be written.

    Raises:
        OSError: it cannot; said before a run rather than after it.
    """
    if not str(folder):
        raise ValueError("the folder's name is empty; '.' is the current one")
    path = Path(folder)
    probe = path / f".write-test-{uuid.uuid4().hex}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write into the folder ({error.strerror}); choose another one", str(path)
        ) from error
    return path


def write_atomically(file: Path, content: bytes) -> None:
    """Write a temporary file, force it to the disk and rename it, so that `file` is never half written."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError as error:
        earlier = "; the earlier file is still there" if file.exists() else ""
        raise type(error)(error.errno, f"could not be written ({error.strerror or error}){earlier}", str(file)) from error
    finally:
        temporary.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # the rename itself reaches the disk with the folder's entry; Windows has no such call
        descriptor = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""Downloads: a cache, mirrors, a checksum, and instructions for when there is no network.

Mirrors are not trusted: no more bytes are accepted than the file can have, and only while they arrive at a minimum rate.
Whatever goes wrong with one mirror, the next is asked.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

PATIENCE_SECONDS = 30
LEAST_RATE = 4096  # bytes a second

_BLOCK = 1 << 16
_MOST_OVERHEAD = 1 << 20  # bytes of headers, chunks' sizes and redirects beside the file
_clock = time.monotonic


def cache_folder() -> Path:
    """Where downloads are kept: $VAEKIT_DATA, or vaekit in the user's cache folder."""
    if folder := os.environ.get("VAEKIT_DATA"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaekit"


def fetch(file: Path, md5: str, mirrors: Sequence[str], *, most_bytes: int, progress: bool = True) -> Path:
    """`file`, downloaded from the first mirror that gives it with the right checksum, unless it is there already.

    A mirror that fails for any reason is passed over for the next one: it cannot be reached, redirects to an invalid address,
    is silent for 30 seconds, averages below 4 KiB/s once 30 seconds have passed, or gives more than the file can have.

    Args:
        file: where it belongs; its name is appended to a mirror's address.
        md5: the checksum, in hexadecimal.
        mirrors: addresses of folders, each ending in a slash.
        most_bytes: the most bytes the file can have; no more are written.
        progress: whether to show a progress bar.

    Returns:
        `file`, whose content has the checksum.

    Raises:
        ValueError: files were found, on mirrors or here, but none with the right checksum.
        ConnectionError: no mirror had the file; gives each mirror's reason, and says which file to put where by hand.
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
            _download(mirror + file.name, temporary, most_bytes, progress)
            reached = True
            if (found := _md5(temporary)) == md5:
                os.replace(temporary, file)
                return file
            failures.append(f"{mirror}{file.name} has the checksum {found}")
        except _MirrorError as error:
            failures.append(f"{mirror}{file.name}: {error}")
        finally:
            temporary.unlink(missing_ok=True)
    message = (
        f"could not get {file.name} (md5 {md5}): {'; '.join(failures)}. "
        f"To go on without a network, put the file into {file.parent} by hand."
    )
    raise ValueError(message) if reached else ConnectionError(message)


class _MirrorError(Exception):
    """Why a mirror did not give the file."""


class Watch:
    """Counts the bytes of all of a mirror's responses, and stops a mirror that gives too many, or gives them too slowly.

    Args:
        most_bytes: the most bytes to accept.
        clock: the time in seconds.
    """

    def __init__(self, most_bytes: int, clock: Callable[[], float]) -> None:
        self._most_bytes, self._clock, self._started, self._received = most_bytes, clock, clock(), 0

    def count(self, received: int) -> None:
        """Count `received` more bytes.

        Raises:
            ConnectionError: too many bytes, or too few for the time that has passed.
        """
        self._received += received
        seconds = self._clock() - self._started
        if self._received > self._most_bytes:
            raise ConnectionError(f"it gives more than {self._most_bytes} bytes")
        if seconds > PATIENCE_SECONDS and self._received < LEAST_RATE * seconds:
            raise ConnectionError(f"it is too slow: {self._received / seconds:.0f} B/s, below {LEAST_RATE}")


class _WatchedStream(io.RawIOBase):
    """A socket's stream whose bytes are counted."""

    def __init__(self, stream: Any, watch: Watch) -> None:
        self._stream, self._watch = stream, watch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._stream.readinto(buffer)
        self._watch.count(count)
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


class _WatchedResponse(http.client.HTTPResponse):
    """A response whose every byte is counted, including the status, headers and body of redirects."""

    def __init__(self, *args: Any, watch: Watch, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fp: Any = io.BufferedReader(_WatchedStream(self.fp.detach(), watch))


def _opener(watch: Watch) -> urllib.request.OpenerDirector:
    """An opener for http and https only, through the environment's proxies."""

    def connection(kind: Callable[..., http.client.HTTPConnection], *args: Any, **options: Any) -> http.client.HTTPConnection:
        made = kind(*args, **options)
        made.response_class = partial(_WatchedResponse, watch=watch)  # type: ignore[assignment]
        return made

    class Http(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(partial(connection, http.client.HTTPConnection), request)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            secure = ssl.create_default_context()
            return self.do_open(partial(connection, http.client.HTTPSConnection), request, context=secure)

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        Http(),
        Https(),
    ):
        opener.add_handler(handler)
    return opener


def _download(address: str, target: Path, most_bytes: int, progress: bool) -> None:
    """Download an address into a file.

    Raises:
        _MirrorError: the download failed, or is larger than `most_bytes`.
        OSError: the file cannot be written.
    """
    with open(target, "wb") as stream:
        name = target.name.strip(".").split(".gz")[0]
        with tqdm(desc=name, unit="B", unit_scale=True, disable=not progress or sys.stderr is None) as bar:
            for block, size in _blocks(address, most_bytes):
                stream.write(block)
                bar.total = size
                bar.update(len(block))


def _blocks(address: str, most_bytes: int) -> Iterator[tuple[bytes, int | None]]:
    """The content of an address, block by block, each with the announced size of the whole.

    Raises:
        _MirrorError: for any failure, so that the next mirror can be asked.
    """
    try:
        opener = _opener(Watch(most_bytes + _MOST_OVERHEAD, _clock))
        with opener.open(address, timeout=PATIENCE_SECONDS) as response:
            length = response.headers.get("Content-Length", "")
            size = int(length) if length.isdecimal() else None
            received = 0
            while block := response.read1(_BLOCK):
                received += len(block)
                if max(received, size or 0) > most_bytes:
                    raise ConnectionError(f"it gives {max(received, size or 0)} bytes or more, the file has at most {most_bytes}")
                yield block, size
            if received < (size or 0):
                raise ConnectionError(f"it gave {received} of {size} bytes")
    except Exception as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise _MirrorError(getattr(error, "reason", None) or str(error) or repr(error)) from error


def _md5(file: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(file, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()

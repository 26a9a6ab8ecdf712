"""Files that are never half written, folders that can be written into, and how to show what a file says.

A file is written under a temporary name beside it, flushed to the disk and renamed. A process that is killed meanwhile leaves its
temporary behind; the next writer of the same file removes it. A lock tells whether a temporary is still in use: its writer holds
the lock from before the first byte until after the rename, and the system releases it however the process ends. A process number
in the name would tell less: numbers are reused, and mean nothing on another machine or in another container with the same disk.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # on Windows, where the temporaries of killed processes stay
    fcntl = None  # type: ignore[assignment]

NUMBER = "{n}"  # in a folder's name: the first number that makes it a new one

_held: set[int] = set()  # descriptors of the folders that this process holds

_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)  # from file systems that cannot flush a folder


def writable_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder, created if need be, once a file could be written in it: better before a run than after it.

    Raises:
        ValueError: an empty name.
        OSError: the folder cannot be created, or no file can be written in it.
    """
    if not str(folder):
        raise ValueError("the folder's name is empty; '.' is the current one")
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with _temporary(path / "write-test"):
            pass
    except OSError as error:
        message = f"cannot write into the folder ({error.strerror or error}); choose another one"
        raise OSError(error.errno, message, str(path)) from error
    return path


def new_folder(names: Iterable[Path]) -> Path:
    """The first folder of these names that is not there yet; of several processes that ask, each makes another one.

    Raises:
        OSError: it cannot be created, or no file can be written beside it.
    """
    for path in names:
        writable_folder(path.parent)
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError("the names have come to an end")


def numbered(pattern: str | os.PathLike[str]) -> Iterator[Path]:
    """The names that a pattern makes with 1, 2, ... in the place of {n}.

    Example:
        >>> import itertools
        >>> [name.name for name in itertools.islice(numbered("runs/digits-{n}"), 2)]
        ['digits-1', 'digits-2']
    """
    return (Path(os.fspath(pattern).replace(NUMBER, str(number))) for number in itertools.count(1))


def open_regular(file: str | os.PathLike[str]) -> BinaryIO:
    """A file opened for reading, unless it is a pipe, which would block, or a device, which may never end.

    Raises:
        OSError: the file does not exist, or cannot be read.
        ValueError: it is a pipe, a device or a folder.
    """
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{os.fspath(file)} is not a regular file: pipes, devices and folders cannot be read here")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def write_atomically(file: str | os.PathLike[str], content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write all of `file` or nothing: whatever interrupts this, the earlier file or the new one is there.

    A symbolic link is replaced, not followed. The permissions of the new file are the default ones under the umask.

    Args:
        file: its path, in an existing folder.
        content: the bytes, or a function that writes them to the stream it is given.

    Raises:
        OSError: the file cannot be written or flushed to the disk, or a device or a pipe is in its place; the message says which
            file is there now.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(Path(folder, "notes"), b"all of it")
        ...     Path(folder, "notes").read_bytes()
        b'all of it'
    """
    file = Path(file)
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise OSError(errno.EINVAL, "it is a device or a pipe, which a file would replace")
        with _temporary(file) as stream:
            if callable(content):
                content(stream)
            else:
                stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            if os.name == "nt":  # which cannot rename an open file
                stream.close()
            os.replace(stream.name, file)
    except OSError as error:
        earlier = "; the earlier file is still there" if os.path.exists(file) else ""
        raise OSError(error.errno, f"could not be written ({error.strerror or error}){earlier}", str(file)) from error
    try:
        _sync_folder(file.parent)
    except OSError as error:
        message = f"is written, but might not survive a power failure ({error.strerror or error})"
        raise OSError(error.errno, message, str(file)) from error


@contextmanager
def written_at_once(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write files into, which come to be in `folder` at the end, and not if anything fails.

    They are written beside it, in a temporary folder that the next one who writes removes if this process is killed. A new folder
    is there whole or not at all. In one that holds something already, files of the same names are replaced, each whole or not at
    all, and others stay.

    Raises:
        OSError: it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as home:
        ...     with written_at_once(Path(home, "notes")) as folder:
        ...         (folder / "first").touch()
        ...         len(list(Path(home, "notes").parent.glob("notes")))
        ...     Path(home, "notes", "first").is_file()
        0
        True
    """
    folder = Path(folder)
    parent = writable_folder(folder.parent)
    _remove_abandoned(parent, re.escape(_prefix(folder)), folders=True)
    temporary = parent / f"{_prefix(folder)}{uuid.uuid4().hex}.tmp"
    temporary.mkdir()
    try:
        with locked(temporary):
            yield temporary
            with suppress(OSError):  # it is not there, or holds something
                folder.rmdir()
            if not os.path.lexists(folder):
                os.replace(temporary, folder)
            else:
                for file in sorted(temporary.iterdir()):
                    os.replace(file, writable_folder(folder) / file.name)
        _sync_folder(parent)
    except OSError as error:
        if str(temporary) not in str(error):
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from error  # a temporary's name tells nobody anything
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_once(file: str | os.PathLike[str], content: bytes) -> None:
    """Write all of `file` unless it is there already: of several processes that do, the first one's stays.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for words in (b"the first", b"the second"):
        ...         write_once(Path(folder, "notes"), words)
        ...     Path(folder, "notes").read_bytes()
        b'the first'
    """
    file = Path(file)
    with _temporary(file) as stream:
        stream.write(content)
        stream.flush()
        with suppress(FileExistsError):
            os.link(stream.name, file)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporaries, of whatever files in the folder, that a killed process left behind."""
    _remove_abandoned(folder, r"\..{1,50}\.")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder as this process's own, for as long as it lives: another one that asks is refused.

    The lock ends however the process ends, and does not pass to a process that is forked meanwhile. Windows, and file systems
    without locks, let everyone in.

    Raises:
        FileExistsError: another process, or another part of this one, holds it.
        OSError: the folder does not exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, locked(Path(folder)), locked(Path(folder)):
        ...     pass
        Traceback (most recent call last):
        FileExistsError: [Errno 17] is in use by another run: '...'
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileExistsError(errno.EEXIST, "is in use by another run", str(folder)) from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        if descriptor in _held:  # not in a forked process, where the number may be another file's by now
            _held.remove(descriptor)
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # for copies that a fork outside Python has made
            os.close(descriptor)


def _let_go() -> None:
    """Close a forked process's copies: a lock lasts as long as any copy of its descriptor is open."""
    while _held:
        os.close(_held.pop())


if fcntl is not None:
    os.register_at_fork(after_in_child=_let_go)


def printable(value: object, longest: int = 600) -> str:
    r"""What a file says, safe to show in a terminal: control characters are escaped, and what is too long is cut.

    Example:
        >>> print(printable("a name\x1b[2J"))
        a name\x1b[2J
    """
    text = str(value)
    text = text if len(text) <= longest else f"{text[:longest]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def _temporary(file: Path) -> Iterator[BinaryIO]:
    """A new file beside `file`, open and locked, which is removed at the end unless it has been renamed."""
    _remove_abandoned(file.parent, re.escape(_prefix(file)))
    stream = _open_locked(file)
    try:
        yield stream
    finally:
        _discard(stream)


def _open_locked(file: Path) -> BinaryIO:
    while True:
        stream = open(file.with_name(f"{_prefix(file)}{uuid.uuid4().hex}.tmp"), "xb")  # noqa: SIM115 (the caller's to close)
        try:
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks: the temporary is then never taken for an abandoned one
                    fcntl.flock(stream, fcntl.LOCK_EX)
            if os.fstat(stream.fileno()).st_nlink:
                return stream
        except BaseException:
            _discard(stream)
            raise
        stream.close()  # another writer took it for abandoned before it was locked


def _discard(stream: BinaryIO) -> None:
    try:
        stream.close()
    finally:
        with suppress(OSError):
            os.unlink(stream.name)


def _remove_abandoned(folder: Path, prefix: str, folders: bool = False) -> None:
    """Remove the temporary files, or folders, with such a prefix, a regular expression, on which no process holds a lock."""
    if fcntl is None:
        return
    try:
        names = os.listdir(folder)
    except OSError:  # a folder without permission to read
        return
    for name in names:
        if re.fullmatch(prefix + r"[0-9a-f]{32}\.tmp", name):
            with suppress(OSError):
                access = os.O_DIRECTORY if folders else os.O_RDWR
                descriptor = os.open(folder / name, access | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    (shutil.rmtree if folders else os.unlink)(folder / name)
                finally:
                    os.close(descriptor)


def _prefix(file: Path) -> str:
    return f".{file.name[:50]}."  # a name may have 255 bytes, of which a character takes up to 4


def _sync_folder(folder: Path) -> None:
    """Flush a rename in the folder to the disk, where the system has a call for it and the file system supports it."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)

"""Laws of writing: a file is the earlier one or the new one, and nothing else is left beside it."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers.interrupts import InterruptedOS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaekit import files


def inside(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(content=st.binary(max_size=200))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_there_and_nothing_else(content, tmp_path):
    files.write_atomically(tmp_path / "file", content)
    assert inside(tmp_path) == {"file": content}
    files.write_atomically(str(tmp_path / "file"), lambda stream: [stream.write(bytes([b])) for b in content])
    assert inside(tmp_path) == {"file": content}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_a_file_system_that_forces_no_folder_to_the_disk_will_do(number, tmp_path, monkeypatch):
    real = os.fsync

    def sync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    files.write_atomically(tmp_path / "file", b"new")
    assert inside(tmp_path) == {"file": b"new"}


@pytest.mark.parametrize("is_folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fails_is_an_error_that_names_the_file(number, is_folder, tmp_path, monkeypatch):
    def sync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == is_folder:
            raise OSError(number, os.strerror(number))

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        files.write_atomically(tmp_path / "file", b"new")
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "file"))
    assert inside(tmp_path) == {"file": b"new" if is_folder else b"old"}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_that_cannot_be_forced_to_the_disk_is_an_error_whatever_the_reason(number, tmp_path, monkeypatch):
    def sync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(OSError, match="could not be written"):
        files.write_atomically(tmp_path / "file", b"new")


def test_a_full_disk_leaves_the_earlier_file_and_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # the system's own refusal, after a part has been written
    try:
        with pytest.raises(OSError, match=r"the earlier file is still there.*/file") as caught:
            files.write_atomically(tmp_path / "file", lambda stream: [stream.write(b"x" * 30_000) for _ in range(10)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert inside(tmp_path) == {"file": b"old"}


def test_a_folder_that_is_missing_or_none_is_named(tmp_path):
    (tmp_path / "plain").touch()
    for folder in ("missing", "plain"):
        with pytest.raises(OSError, match=f"could not be written.*{folder}/file"):
            files.write_atomically(tmp_path / folder / "file", b"")
    assert inside(tmp_path) == {"plain": b""}


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
@pytest.mark.parametrize(
    "write", [lambda file: files.write_atomically(file, b""), lambda file: files.writable_folder(file.parent)]
)
def test_a_read_only_folder_is_named(number, write, tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "open", refuse, raising=False)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        write(tmp_path / "file")
    assert caught.value.errno == number
    assert str(tmp_path) in caught.value.filename


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("exception", [KeyboardInterrupt, OSError(errno.EIO, "a bad block")], ids=["interrupt", "bad block"])
def test_stopped_at_any_call_the_file_is_the_earlier_one_or_the_new_one(exception, after, tmp_path, monkeypatch):
    counting = InterruptedOS()
    monkeypatch.setattr(files, "os", counting)
    files.write_atomically(tmp_path / "file", b"old")
    assert counting.calls > 5
    for chosen in range(counting.calls):
        monkeypatch.setattr(files, "os", InterruptedOS(chosen, exception, after))
        files_before = inside(tmp_path)
        try:
            files.write_atomically(tmp_path / "file", b"new")
        except (KeyboardInterrupt, OSError):
            left = inside(tmp_path)
            assert left.pop("file") in (files_before["file"], b"new")
        monkeypatch.setattr(files, "os", os)
        files.write_atomically(tmp_path / "file", b"old")
        assert inside(tmp_path) == {"file": b"old"}, "what was left is gone after the next write"


def test_an_interrupt_while_writing_leaves_nothing(tmp_path):
    def stop(stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(tmp_path / "file", stop)
    assert inside(tmp_path) == {}


def killed_while_writing(file: Path) -> None:
    """A process that is killed half way through writing `file`."""
    program = f"""
import importlib.util, os, signal
spec = importlib.util.spec_from_file_location("files", {files.__file__!r})
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
def write(stream):
    stream.write(b"half")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically({str(file)!r}, write)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("name", ["file", "n" * 255, "[*]?"], ids=["plain", "long", "pattern"])
def test_what_a_killed_process_left_is_removed_when_the_file_is_written_next(name, tmp_path):
    killed_while_writing(tmp_path / name)
    (left,) = inside(tmp_path)
    assert left.startswith(".")
    files.write_atomically(tmp_path / name, b"whole")
    assert inside(tmp_path) == {name: b"whole"}


def test_only_abandoned_temporaries_of_that_file_are_removed(tmp_path):
    own = {".file.tmp": b"1", "file.tmp": b"2", ".other.0123456789abcdef0123456789abcdef.tmp": b"3", ".file.xyz.tmp": b"4"}
    for name, content in own.items():
        (tmp_path / name).write_bytes(content)
    target = tmp_path / "precious"
    target.write_bytes(b"kept")
    (tmp_path / f".file.{'0' * 32}.tmp").symlink_to(target)
    os.mkfifo(tmp_path / f".file.{'1' * 32}.tmp")  # opening it must not wait for a writer
    (tmp_path / f".file.{'2' * 32}.tmp").mkdir()
    files.write_atomically(tmp_path / "file", b"new")
    (tmp_path / f".file.{'0' * 32}.tmp").unlink()
    (tmp_path / f".file.{'2' * 32}.tmp").rmdir()
    (tmp_path / f".file.{'1' * 32}.tmp").unlink(missing_ok=True)
    assert inside(tmp_path) == {**own, "file": b"new", "precious": b"kept"}


def test_the_temporary_of_a_writer_that_is_still_at_work_stays(tmp_path):
    def write(stream):
        files.write_atomically(tmp_path / "file", b"by another, meanwhile")
        stream.write(b"last")

    files.write_atomically(tmp_path / "file", write)
    assert inside(tmp_path) == {"file": b"last"}


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    files.write_atomically(tmp_path / "file", lambda stream: files.write_atomically(tmp_path / "file", b"by another"))
    assert inside(tmp_path) == {"file": b""}


def test_a_temporary_taken_for_an_abandoned_one_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    real, taken = files.fcntl.flock, []

    def flock(stream, how):
        if not taken:
            taken.append(stream.name)
            os.unlink(stream.name)
        real(stream, how)

    monkeypatch.setattr(files.fcntl, "flock", flock)
    files.write_atomically(tmp_path / "file", b"new")
    assert taken
    assert inside(tmp_path) == {"file": b"new"}


def test_of_many_writers_at_once_each_writes_a_whole_file(tmp_path):
    contents, failures = [bytes([65 + number]) * 50_000 for number in range(4)], []

    def write(content):
        try:
            for _ in range(25):
                files.write_atomically(tmp_path / "file", content)
                assert (tmp_path / "file").read_bytes() in contents
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failures
    assert list(inside(tmp_path)) == ["file"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_are_what_the_umask_leaves(mask, tmp_path):
    old = os.umask(mask)
    try:
        files.write_atomically(tmp_path / "file", b"")
        (tmp_path / "file").chmod(0o777)
        files.write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"kept")
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere")
    files.write_atomically(tmp_path / "file", b"new")
    assert not (tmp_path / "file").is_symlink()
    assert inside(tmp_path) == {"elsewhere": b"kept", "file": b"new"}


@pytest.mark.parametrize("name", ["n" * 255, "\N{GRINNING FACE}" * 63], ids=["ascii", "four bytes each"])
def test_the_longest_names_that_the_system_has_can_be_written(name, tmp_path):
    files.write_atomically(tmp_path / name, b"new")
    assert inside(tmp_path) == {name: b"new"}


def test_a_name_that_is_too_long_is_an_error_that_says_so(tmp_path):
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)) as caught:
        files.write_atomically(tmp_path / ("n" * 256), b"new")
    assert caught.value.filename.endswith("nnn")
    assert inside(tmp_path) == {}


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    folder = files.writable_folder(tmp_path / "deep" / "folder")
    assert folder == tmp_path / "deep" / "folder"
    assert inside(folder) == {}
    with pytest.raises(ValueError, match="empty"):
        files.writable_folder("")


# Locks.


def forked(child):
    """The number of a forked process that calls `child` and ends."""
    number = os.fork()
    if not number:
        try:
            child()
        finally:
            os._exit(0)
    return number


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # is multi-threaded, says Python of every fork in one
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_lock_ends_with_its_holder_though_a_process_that_it_forked_lives(is_killed, tmp_path):
    (reads, writes), (hears, tells) = os.pipe(), os.pipe()

    def outlive():
        os.close(tells)
        os.write(writes, b"here")
        os.read(hears, 1)  # until the test closes its end

    def hold():
        with files.locked(tmp_path):
            forked(outlive)
            os.read(reads, 4)
            if is_killed:
                os.kill(os.getpid(), signal.SIGKILL)
        with files.locked(tmp_path):
            os.write(writes, b"free")

    holder = forked(hold)
    os.waitpid(holder, 0)
    with files.locked(tmp_path):
        pass
    if not is_killed:
        assert os.read(reads, 4) == b"free"
    for descriptor in (reads, writes, hears, tells):
        os.close(descriptor)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_that_ends_leaves_the_lock_with_its_holder(tmp_path):
    with files.locked(tmp_path):
        os.waitpid(forked(lambda: None), 0)
        with pytest.raises(FileExistsError, match="in use by another run"), files.locked(tmp_path):
            pass


def test_a_copy_of_its_descriptor_does_not_prolong_a_lock(tmp_path):
    with files.locked(tmp_path):
        (held,) = [fd for fd in os.listdir("/proc/self/fd") if Path("/proc/self/fd", fd).resolve() == tmp_path.resolve()]
        copy = os.dup(int(held))  # as a fork outside Python makes one
    with files.locked(tmp_path):
        pass
    os.close(copy)


# Folders that are written at once


def fill(folder, names=("a", "b")):
    with files.written_at_once(folder) as new:
        for name in names:
            files.write_atomically(new / name, name.encode())


@pytest.mark.parametrize("before", [None, {}, {"b": b"old", "c": b"old"}])
def test_a_folder_has_all_files_and_keeps_others(before, tmp_path):
    folder = tmp_path / "new" / "folder"
    if before is not None:
        folder.mkdir(parents=True)
        for name, content in before.items():
            (folder / name).write_bytes(content)
    fill(folder)
    assert inside(folder) == {**(before or {}), "a": b"a", "b": b"b"}
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("no")])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_that_was_not_finished_is_as_it_was(failure, is_there, tmp_path):
    folder = tmp_path / "folder"
    if is_there:
        fill(folder, ["a"])

    def fail():
        with files.written_at_once(folder) as new:
            files.write_atomically(new / "a", b"half")
            raise failure

    with pytest.raises(type(failure)):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"] * is_there
    assert not is_there or inside(folder) == {"a": b"a"}


@pytest.mark.parametrize("call", range(60))
def test_a_disk_that_is_full_leaves_no_half_of_a_folder(call, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    watched = InterruptedOS(call, OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(files, "os", watched)
    try:
        fill(folder)
    except OSError as error:
        assert error.errno == errno.ENOSPC
        assert ".tmp" not in str(error)
        assert not folder.exists() or inside(folder) == {"a": b"a", "b": b"b"}
    else:
        assert inside(folder) == {"a": b"a", "b": b"b"}
    monkeypatch.undo()
    fill(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_folder_of_a_killed_process_is_removed_and_one_in_use_stays(tmp_path):
    abandoned = tmp_path / f".folder.{'0' * 32}.tmp"
    abandoned.mkdir()
    (abandoned / "a").touch()
    with files.written_at_once(tmp_path / "folder") as first:
        assert not abandoned.exists()
        fill(tmp_path / "folder", ["b"])
        assert first.is_dir()
        files.write_atomically(first / "c", b"c")
    assert inside(tmp_path / "folder") == {"b": b"b", "c": b"c"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders")
def test_a_pipe_or_a_device_is_not_replaced(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for name in (pipe, link):
        with pytest.raises(OSError, match="a device or a pipe, which a file would replace"):
            files.write_atomically(name, b"new")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]

"""Downloads: mirrors on 127.0.0.1 stand for the network, `hashlib` for the checksums."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from vaekit import data
from vaekit.data import datasets
from vaekit.data.download import cache_folder, fetch

CONTENT = bytes(range(256)) * 1000  # several blocks, and a part of one
MD5 = hashlib.md5(CONTENT).hexdigest()


def get(file, *addresses):
    return fetch(file, MD5, addresses, most_bytes=len(CONTENT), progress=False)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cache" / "file.gz"


def inside(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


# One file


def test_a_file_is_fetched_once(mirrors, file):
    mirrors.files["a/file.gz"] = CONTENT
    assert get(file, mirrors.address("a")) == get(file, mirrors.address("a")) == file
    assert file.read_bytes() == CONTENT
    assert mirrors.requests == ["a/file.gz"]
    assert inside(file.parent) == ["file.gz"]


def test_the_first_mirror_that_gives_the_file_is_the_last_one_asked(mirrors, file):
    mirrors.files = {"a/file.gz": CONTENT, "b/file.gz": CONTENT}
    get(file, mirrors.address("a"), mirrors.address("b"))
    assert mirrors.requests == ["a/file.gz"]


def hangs_up(handler):
    """Promises more than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    handler.wfile.write(CONTENT[:1000])


def hangs_up_in_a_chunk(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + CONTENT[:1000])


def says_nothing(handler):
    pass


def speaks_no_http(handler):
    handler.wfile.write(b"220 mail.example.org ESMTP\r\n")


def gives_no_number(handler):
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: many\r\n\r\n" + CONTENT[:1000])


BAD_MIRRORS = {
    "not found": None,
    "another file": b"<html>log in to this hotel's network</html>",
    "empty": b"",
    "hangs up": hangs_up,
    "hangs up in a chunk": hangs_up_in_a_chunk,
    "says nothing": says_nothing,
    "no http": speaks_no_http,
    "odd length": gives_no_number,
}


@pytest.mark.parametrize("bad", BAD_MIRRORS.values(), ids=BAD_MIRRORS)
def test_after_a_bad_mirror_comes_the_next(mirrors, file, bad):
    mirrors.files = {"a/file.gz": bad, "b/file.gz": CONTENT}
    assert get(file, mirrors.address("a"), mirrors.address("b")).read_bytes() == CONTENT
    assert mirrors.requests == ["a/file.gz", "b/file.gz"]
    assert inside(file.parent) == ["file.gz"]


@pytest.mark.parametrize("bad", BAD_MIRRORS.values(), ids=BAD_MIRRORS)
def test_a_failure_leaves_no_file_behind_and_says_which_to_put_where(mirrors, file, bad):
    mirrors.files["a/file.gz"] = bad
    with pytest.raises((ValueError, ConnectionError)) as caught:
        get(file, mirrors.address("a"))
    for part in ("file.gz", MD5, mirrors.address("a"), f"put the file into {file.parent} by hand"):
        assert part in str(caught.value)
    assert inside(file.parent) == []


def test_after_an_unreachable_mirror_comes_the_next(mirrors, closed_address, file):
    mirrors.files["b/file.gz"] = CONTENT
    assert get(file, closed_address, mirrors.address("b")).read_bytes() == CONTENT


def test_wrong_content_everywhere_is_a_value_error_that_names_every_checksum(mirrors, file):
    mirrors.files = {"a/file.gz": b"one", "b/file.gz": b"two"}
    with pytest.raises(ValueError) as caught:
        get(file, mirrors.address("a"), mirrors.address("b"))
    assert f"(md5 {MD5})" in str(caught.value)
    for folder, content in (("a", b"one"), ("b", b"two")):
        assert f"{mirrors.address(folder)}file.gz has the checksum {hashlib.md5(content).hexdigest()}" in str(caught.value)


def test_no_mirror_at_all_is_a_connection_error_that_says_which_file_to_put_where(closed_address, file):
    with pytest.raises(ConnectionError) as caught:
        get(file, closed_address, closed_address + "again/")
    for part in (f"could not get file.gz (md5 {MD5})", "refused", f"put the file into {file.parent} by hand"):
        assert part in str(caught.value)


def test_a_file_put_there_by_hand_needs_no_network(file, closed_address):
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    assert get(file, closed_address) == file


def test_a_damaged_file_is_replaced(mirrors, file):
    mirrors.files["a/file.gz"] = CONTENT
    file.parent.mkdir()
    file.write_bytes(CONTENT[:-1])
    assert get(file, mirrors.address("a")).read_bytes() == CONTENT


def test_a_damaged_file_without_a_network_is_named_with_its_checksum_and_kept(file, closed_address):
    file.parent.mkdir()
    file.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=f"that is there has the checksum {hashlib.md5(b'damaged').hexdigest()}"):
        get(file, closed_address)
    assert file.read_bytes() == b"damaged"


def test_two_threads_that_fetch_the_same_file_both_get_it(mirrors, file, monkeypatch):
    mirrors.files["a/file.gz"] = CONTENT
    replace = os.replace

    def replace_after_another_fetch(*paths):  # the other one begins and ends when this one is about to put its file in place
        monkeypatch.setattr(os, "replace", replace)
        other = threading.Thread(target=get, args=(file, mirrors.address("a")))
        other.start()
        other.join()
        assert file.read_bytes() == CONTENT
        replace(*paths)

    monkeypatch.setattr(os, "replace", replace_after_another_fetch)
    assert get(file, mirrors.address("a")).read_bytes() == CONTENT
    assert mirrors.requests == ["a/file.gz", "a/file.gz"]
    assert inside(file.parent) == ["file.gz"]


def test_a_cache_that_cannot_be_written_is_an_os_error(tmp_path, closed_address):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(OSError):
        get(tmp_path / "cache" / "file.gz", closed_address)


@pytest.mark.parametrize("progress", [True, False])
def test_the_bar_names_the_file_and_can_be_left_out(mirrors, file, capsys, progress):
    mirrors.files["a/file.gz"] = CONTENT
    fetch(file, MD5, [mirrors.address("a")], most_bytes=len(CONTENT), progress=progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("file" in err) is progress
    assert progress or err == ""


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("VAEKIT_DATA", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("VAEKIT_DATA")
    assert cache_folder() == tmp_path / "xdg" / "vaekit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "vaekit"


# A whole dataset


@pytest.fixture
def mnist(monkeypatch, tmp_path, mirrors, idx_files):
    """A small "mnist" on the mirror "a", with a cache of its own; gives its files and arrays."""
    files, arrays = idx_files()
    mirrors.files = {f"a/{name}": content for name, content in files.items()}
    md5 = tuple(hashlib.md5(content).hexdigest() for content in files.values())
    addresses = (mirrors.address("a"), mirrors.address("b"))
    fake = dataclasses.replace(datasets.DOWNLOADS["mnist"], md5=md5, mirrors=addresses)
    monkeypatch.setattr(datasets, "DOWNLOADS", {"mnist": fake})
    monkeypatch.setenv("VAEKIT_DATA", str(tmp_path))
    return files, arrays


def assert_is(loaded, arrays):
    for examples, part in zip(loaded, ("train", "t10k"), strict=True):
        images, labels = arrays[part]
        np.testing.assert_allclose(examples.x.numpy(), images[:, None].astype(np.float32) / 255, rtol=2e-7)
        assert examples.y.tolist() == labels.tolist()


def test_a_dataset_is_downloaded_once_into_the_cache(mnist, mirrors, tmp_path):
    files, arrays = mnist
    assert_is(data.load("mnist", progress=False), arrays)
    assert sorted(mirrors.requests) == sorted(f"a/{name}" for name in files)
    assert {p.name: p.read_bytes() for p in (tmp_path / "mnist").iterdir()} == files
    assert_is(data.load("mnist", progress=False), arrays)
    assert len(mirrors.requests) == 4


def test_a_dataset_may_come_from_several_mirrors(mnist, mirrors):
    files, arrays = mnist
    moved, spoiled = sorted(files)[:2]
    mirrors.files |= {f"b/{moved}": mirrors.files.pop(f"a/{moved}"), f"b/{spoiled}": files[spoiled], f"a/{spoiled}": b"spoiled"}
    assert_is(data.load("mnist", progress=False), arrays)


def test_a_dataset_put_there_by_hand_loads_offline(mnist, mirrors, tmp_path):
    files, arrays = mnist
    (tmp_path / "mnist").mkdir()
    for name, content in files.items():
        (tmp_path / "mnist" / name).write_bytes(content)
    assert_is(data.load("mnist", progress=False), arrays)
    assert mirrors.requests == []


def test_an_interrupted_download_goes_on_with_the_files_that_are_missing(mnist, mirrors):
    _, arrays = mnist
    last = "a/t10k-labels-idx1-ubyte.gz"
    held_back = mirrors.files.pop(last)
    with pytest.raises(ConnectionError, match="t10k-labels-idx1-ubyte"):
        data.load("mnist", progress=False)
    mirrors.files[last] = held_back
    mirrors.requests.clear()
    assert_is(data.load("mnist", progress=False), arrays)
    assert mirrors.requests == [last]


def test_a_dataset_whose_mirrors_have_odd_addresses_is_a_connection_error_that_names_its_files(mnist, monkeypatch):
    odd = dataclasses.replace(datasets.DOWNLOADS["mnist"], mirrors=("http://b\u00fccher.example/", "http://[::1/"))
    monkeypatch.setattr(datasets, "DOWNLOADS", {"mnist": odd})
    with pytest.raises(ConnectionError, match="mnist consists of train-images"):
        data.load("mnist", progress=False)


def test_the_bound_of_a_download_has_room_for_gzip_that_found_nothing_to_compress():
    for shape, bound in zip(((60000,), (10000, 28, 28), (10000,)), datasets.MOST_BYTES[1:], strict=True):
        content = np.random.default_rng(0).integers(0, 256, shape, np.uint8).tobytes() + bytes(16)
        assert len(content) < len(gzip.compress(content, 1)) < bound < 1.01 * len(content) + 5000


@pytest.mark.parametrize("name", datasets.DOWNLOADS)
def test_every_dataset_has_four_checksums_and_mirrors_that_are_folders(name):
    download = datasets.DOWNLOADS[name]
    assert len(set(download.md5)) == 4
    for md5 in download.md5:
        assert len(md5) == 32
        assert set(md5) <= set("0123456789abcdef")
    assert download.mirrors
    for mirror in download.mirrors:
        assert mirror.startswith(("https://", "http://"))
        assert mirror.endswith("/")


def test_no_two_datasets_share_a_checksum():
    checksums = [md5 for download in datasets.DOWNLOADS.values() for md5 in download.md5]
    assert len(set(checksums)) == len(checksums)

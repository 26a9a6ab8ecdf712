"""Mirrors that never end, are slow, or send astray: the next one is asked, whatever the reason."""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path

import pytest

from vaekit.data import download
from vaekit.data.download import fetch

CONTENT = bytes(range(256)) * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


def get(file, *addresses):
    return fetch(file, MD5, addresses, most_bytes=len(CONTENT), progress=False)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cache" / "file.gz"


# Mirrors that never end


class Endless:
    """Answers a request with a start and then the same piece again and again, until the client has had enough."""

    def __init__(self, start, piece):
        self.start, self.piece, self.sent = start, piece, 0

    def __call__(self, handler):
        with contextlib.suppress(ConnectionError):
            handler.wfile.write(self.start)
            while self.sent < 1 << 28:
                handler.wfile.write(self.piece)
                self.sent += len(self.piece)


OK = b"HTTP/1.1 200 OK\r\n"
ENDLESS = {
    "no length": (OK + b"\r\n", bytes(1 << 16)),
    "a length": (OK + b"Content-Length: 99999999999\r\n\r\n", bytes(1 << 16)),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + bytes(1 << 16) + b"\r\n"),
    "small chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 1000),
    "a chunk's size": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * (1 << 16)),
    "headers": (OK, b"X-Odd: 1\r\n" * 1000),
    "a header": (OK + b"X-Odd: ", b"1" * 1000),
    "a status": (b"HTTP/1.1 200 ", b"K" * 1000),
    "answers to come": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "not found": (b"HTTP/1.1 404 Not Found\r\n\r\n", bytes(1 << 16)),
    "elsewhere": (b"HTTP/1.1 302 Found\r\nLocation: /a/other.gz\r\n\r\n", bytes(1 << 16)),
}


@pytest.mark.parametrize(("start", "piece"), ENDLESS.values(), ids=ENDLESS)
def test_an_endless_mirror_is_left_for_the_next(mirrors, file, start, piece):
    endless = Endless(start, piece)
    mirrors.files = {"a/file.gz": endless, "b/file.gz": CONTENT}
    assert get(file, mirrors.address("a"), mirrors.address("b")).read_bytes() == CONTENT
    assert endless.sent < len(CONTENT) + (1 << 24)  # what lies in sockets' buffers counts as well


@pytest.mark.parametrize("more", [1, 10**6])
def test_no_more_is_written_than_the_file_can_have(mirrors, file, monkeypatch, more):
    sizes = []
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok: sizes.append(path.stat().st_size))
    for announced in (True, False):
        mirrors.files["a/file.gz"] = answer(bytes(len(CONTENT) + more), announced)
        with pytest.raises(ConnectionError, match=str(len(CONTENT))):
            get(file, mirrors.address("a"))
    assert len(sizes) == 2
    assert max(sizes) <= len(CONTENT)


def answer(content, announced):
    def send(handler):
        length = f"Content-Length: {len(content)}\r\n".encode() if announced else b""
        with contextlib.suppress(ConnectionError):
            handler.wfile.write(OK + length + b"\r\n" + content)

    return send


# Mirrors that are slow


class Clock:
    """Seconds that pass with every look."""

    def __init__(self, step):
        self.step, self.now = step, 0.0

    def __call__(self):
        self.now += self.step
        return self.now


@pytest.mark.parametrize("kind", ["no length", "headers", "a header", "a status", "answers to come", "elsewhere", "small chunks"])
def test_a_mirror_that_gives_a_byte_now_and_then_is_left_for_the_next(mirrors, file, monkeypatch, kind):
    monkeypatch.setattr(download, "_clock", Clock(3600.0))
    slow = Endless(ENDLESS[kind][0], ENDLESS[kind][1][:1])
    mirrors.files["a/file.gz"] = slow
    with pytest.raises(ConnectionError, match="B/s"):
        get(file, mirrors.address("a"))


def test_a_slow_mirror_is_waited_for_as_long_as_it_keeps_the_least_rate():
    for rate, is_kept in ((download.LEAST_RATE, True), (download.LEAST_RATE - 1, False)):
        watch = download.Watch(10**9, Clock(1.0))
        with contextlib.nullcontext() if is_kept else pytest.raises(ConnectionError):
            for _ in range(1000):
                watch.count(rate)


def test_a_mirror_may_think_before_it_gives():
    watch = download.Watch(10**9, Clock(1.0))
    for _ in range(download.PATIENCE_SECONDS):
        watch.count(0)
    with pytest.raises(ConnectionError, match="0 B/s"):
        watch.count(0)


# Mirrors that send elsewhere, and addresses that are none


LOCATIONS = {
    "half an address": "http://[::1",
    "a space": "http://exa mple/",
    "another scheme": "ftp://127.0.0.1/file.gz",
    "a file": "file:///etc/passwd",
    "data": "data:,file",
    "a non-ASCII host": "http://b\u00fccher.example/file.gz",
    "a host of half a pair": "http://\ud83d.example/file.gz",
    "a long host": f"http://{'a' * 70}.example/",
    "a port that is none": "http://127.0.0.1:port/",
    "a large port": "http://127.0.0.1:99999/",
    "no host": "http:///file.gz",
    "itself": "file.gz",
    "empty": "",
}


def redirect(location):
    def send(handler):
        handler.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: " + location.encode("utf-8", "surrogatepass") + b"\r\n\r\n")

    return send


@pytest.mark.parametrize("location", LOCATIONS.values(), ids=LOCATIONS)
def test_a_bad_redirect_does_not_keep_from_the_next_mirror(mirrors, file, location):
    mirrors.files = {"a/file.gz": redirect(location), "b/file.gz": CONTENT}
    assert get(file, mirrors.address("a"), mirrors.address("b")).read_bytes() == CONTENT


def test_a_good_redirect_is_followed(mirrors, file):
    mirrors.files = {"a/file.gz": redirect("/b/moved.gz"), "b/moved.gz": CONTENT}
    assert get(file, mirrors.address("a")).read_bytes() == CONTENT


@pytest.mark.parametrize("address", [*(a for a in LOCATIONS.values() if "//" in a), "no address/"])
def test_an_address_that_is_none_does_not_keep_from_the_next_mirror(mirrors, file, address):
    mirrors.files["b/file.gz"] = CONTENT
    assert get(file, address, mirrors.address("b")).read_bytes() == CONTENT


def test_a_mirror_that_speaks_no_tls_is_left_for_the_next(mirrors, file):
    secure = mirrors.address("a").replace("http:", "https:")
    with pytest.raises(ConnectionError, match="SSL"):
        get(file, secure)
    mirrors.files["b/file.gz"] = CONTENT
    assert get(file, secure, mirrors.address("b")).read_bytes() == CONTENT


def speaks_no_http(handler):
    handler.wfile.write(b"220 mail.example.org ESMTP\r\n")


def test_all_reasons_are_listed_at_the_end(mirrors, file, closed_address):
    mirrors.files = {
        "a/file.gz": redirect("http://[::1"),
        "c/file.gz": speaks_no_http,
        "d/file.gz": Endless(*ENDLESS["no length"]),
    }
    addresses = [
        mirrors.address("a"),
        closed_address,
        mirrors.address("b"),
        mirrors.address("c"),
        "http://b\u00fccher.example/",
        mirrors.address("d"),
    ]
    with pytest.raises(ConnectionError) as caught:
        get(file, *addresses)
    for address in addresses:
        assert address in str(caught.value)
    for reason in ("Invalid IPv6", "refused", "Not Found", "220 mail", "idna|b.cher|resolution|not known", str(len(CONTENT))):
        assert re.search(reason, str(caught.value))


def test_a_disk_that_takes_no_file_is_not_blamed_on_the_mirrors(mirrors, tmp_path):
    name = "f" * 230  # with what is added to a temporary name it is too long
    mirrors.files = {f"{folder}/{name}": CONTENT for folder in "ab"}
    with pytest.raises(OSError, match="File name too long"):
        get(tmp_path / name, mirrors.address("a"), mirrors.address("b"))
    assert f"b/{name}" not in mirrors.requests

"""An IDX writer that shares no code with the reader, and mirrors that serve files on this machine."""

from __future__ import annotations

import gzip
import math
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

# type code -> struct's character (Y. LeCun, C. Cortes, C. Burges, "The MNIST database": the IDX file format)
_CHARACTERS = {0x08: "B", 0x09: "b", 0x0B: "h", 0x0C: "i", 0x0D: "f", 0x0E: "d"}


@pytest.fixture(scope="session")
def idx_bytes():
    """idx_bytes(array, code): the array as an IDX file, value by value with `struct`."""

    def write(array, code=0x08):
        header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
        return header + struct.pack(f">{array.size}{_CHARACTERS[code]}", *array.flatten().tolist())

    return write


@pytest.fixture(scope="session")
def idx_files(idx_bytes):
    """idx_files(train, test): {file name: content} of an IDX dataset of that many 3 x 4 images, gzipped, and its arrays."""

    def make(train=20, test=7):
        files, arrays = {}, {}
        for part, count in (("train", train), ("t10k", test)):
            random = np.random.default_rng(count)
            images, labels = random.integers(0, 256, (count, 3, 4), np.uint8), random.integers(0, 10, count, np.uint8)
            files[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(idx_bytes(images), mtime=0)
            files[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(idx_bytes(labels), mtime=0)
            arrays[part] = images, labels
        return files, arrays

    return make


class Mirrors:
    """Folders on a server of this machine, its files, and what was asked of it.

    Attributes:
        files: "folder/name" -> content, or a function of the request handler that answers.
        requests: the paths that were asked for, in order.
    """

    def __init__(self, server):
        self.files, self.requests, self._server = {}, [], server

    def address(self, folder):
        return f"http://127.0.0.1:{self._server.server_address[1]}/{folder}/"


@pytest.fixture
def mirrors(monkeypatch):
    """Mirrors on 127.0.0.1, reached without a proxy; no other host is looked for."""
    monkeypatch.setenv("no_proxy", "*")
    found = socket.getaddrinfo

    def addresses(host, *args, **options):
        if host != "127.0.0.1":
            host.encode("idna")  # as the real one does, or refuses to
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", addresses)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.lstrip("/")
            served.requests.append(path)
            content = served.files.get(path)
            if content is None:
                self.send_error(404)
            elif callable(content):
                content(self)
                self.close_connection = True
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Mirrors(server)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def closed_address():
    """The address of a mirror on which nobody listens."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_address[1]
    return f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="session")
def partition():
    """Asserts that the rows of train and test together are those of `whole`, each once, and that each part keeps their order.

    The rows of `whole` have to differ from each other.
    """

    def check(train, test, whole):
        numbers = {row.tobytes(): i for i, row in enumerate(np.ascontiguousarray(whole, np.float32))}
        assert len(numbers) == len(whole)
        found = [[numbers[row.tobytes()] for row in part.x[:].numpy()] for part in (train, test)]
        assert sorted(found[0] + found[1]) == list(range(len(whole)))
        assert found == [sorted(rows) for rows in found]
        assert math.prod(train.x.shape[1:]) == math.prod(whole.shape[1:])
        return found

    return check

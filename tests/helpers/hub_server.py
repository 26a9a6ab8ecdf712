"""A hub on this machine that answers what huggingface_hub asks of the real one, keeps what is pushed, and records the requests.

Written after the client's own source (hf_api.py, _commit_api.py, lfs.py, file_download.py): create, branch, preupload, LFS batch
and upload, commit in NDJSON, tree, resolve with an ETag and the commit.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest

WRITER, READER = "hf_writer", "hf_reader"  # tokens: of "me", and of one who may read private repositories and write nowhere
ME = "me"


class Repository:
    """Branches of commits: each a mapping from paths to contents."""

    def __init__(self, private: bool = False, gated: bool = False) -> None:
        self.private, self.gated = private, gated
        self.commits: dict[str, dict[str, bytes]] = {}
        self.messages: dict[str, str] = {}
        self.branches: dict[str, str] = {}
        self.commit("main", {}, "initial commit")

    def commit(self, branch: str, changes: dict[str, bytes], message: str) -> str:
        files = {**self.commits.get(self.branches.get(branch, ""), {}), **changes}
        number = hashlib.sha1(repr((sorted(files), message, len(self.commits))).encode()).hexdigest()
        self.commits[number], self.messages[number], self.branches[branch] = files, message, number
        return number

    def at(self, revision: str) -> str | None:
        number = self.branches.get(revision, revision)
        return number if number in self.commits else None


class Hub:
    """What the server keeps.

    Attributes:
        requests: (method, path) in the order in which they came.
        agents: what the clients said they are.
        headers: of the cards that it was asked to check.
        fails: a status with which every request is answered instead.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.agents: set[str] = set()
        self.headers: list[str] = []
        self.fails: int | None = None
        self.address = ""


class Answer(Exception):
    """What the hub says; raised where it refuses."""

    def __init__(self, status: int, content: Any = b"", headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.headers = status, headers or {}
        self.content = content if isinstance(content, bytes) else json.dumps(content).encode()


def refusal(status: int, code: str, **headers: str) -> Answer:
    return Answer(status, {"error": code}, {"X-Error-Code": code, **headers})


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.route("HEAD")

    def do_GET(self) -> None:
        self.route("GET")

    def do_POST(self) -> None:
        self.route("POST")

    def do_PUT(self) -> None:
        self.route("PUT")

    def log_message(self, *_: Any) -> None:
        pass

    def route(self, method: str) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append((method, path))
        self.hub.agents.add(self.headers.get("User-Agent", ""))
        try:
            answer = self.answer(method, path)
        except Answer as refused:
            answer = refused
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.content)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if method != "HEAD":
            self.wfile.write(answer.content)

    def answer(self, method: str, path: str) -> Answer:
        if self.hub.fails:
            return Answer(self.hub.fails, {"error": "as the test asks"})
        if self.token not in (None, WRITER, READER):
            words = {"X-Error-Message": "Invalid credentials in Authorization header"}
            return Answer(401, {"error": "Invalid credentials"}, words)
        for pattern, handle in ROUTES:
            if found := re.fullmatch(pattern, f"{method} {path}"):
                return handle(self, **found.groupdict())
        return Answer(404, {"error": f"the test's hub knows no {method} {path}"})

    def readable(self, name: str) -> Repository:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and self.token is None):
            raise refusal(401 if self.token is None else 404, "RepoNotFound")
        if repository.gated:
            raise refusal(403, "GatedRepo")
        return repository

    def commit_at(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self.readable(name)
        number = repository.at(revision)
        if number is None:
            raise refusal(404, "RevisionNotFound")
        return number, repository.commits[number]

    def check_that_it_may_write(self) -> None:
        if self.token is None:
            raise Answer(401, {"error": "no token"}, {"X-Error-Message": "Invalid username or password."})
        if self.token != WRITER:
            raise Answer(403, {"error": "forbidden"}, {"X-Error-Message": "You don't have the rights to do this"})

    def create(self) -> Answer:
        self.check_that_it_may_write()
        asked = json.loads(self.body)
        name = f"{asked['organization'] or ME}/{asked['name']}"
        url = {"url": f"{self.hub.address}/{name}", "name": name, "id": name}
        if name in self.hub.repositories:
            return Answer(409, {"error": "You already created this model repo", **url})
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.repositories[name] = Repository(private)
        return Answer(200, url)

    def info(self, name: str, revision: str = "main") -> Answer:
        number, held = self.commit_at(name, revision)
        private = self.hub.repositories[name].private
        files = [{"rfilename": path} for path in sorted(held)]
        return Answer(200, {"id": name, "modelId": name, "sha": number, "private": private, "siblings": files})

    def branch(self, name: str, branch: str) -> Answer:
        self.check_that_it_may_write()
        repository = self.readable(name)
        if branch in repository.branches:
            return Answer(409, {"error": "exists"})
        repository.branches[branch] = repository.branches["main"]
        return Answer(200, {})

    def validate(self) -> Answer:
        found = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.S)
        if found is None:
            return Answer(400, {"errors": [{"message": "no header"}], "warnings": []})
        self.hub.headers.append(found[1])
        return Answer(200, {"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str) -> Answer:
        self.check_that_it_may_write()
        self.commit_at(name, revision)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".png")) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        return Answer(200, {"files": files})

    def lfs_batch(self, name: str) -> Answer:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{each['oid']}"}}}
            for each in json.loads(self.body)["objects"]
            if each["oid"] not in self.hub.lfs
        ]
        return Answer(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def lfs_put(self, oid: str) -> Answer:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return Answer(400, {"error": "the content is not what was announced"})
        self.hub.lfs[oid] = self.body
        return Answer(200)

    def commit(self, name: str, revision: str) -> Answer:
        self.check_that_it_may_write()
        self.commit_at(name, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        message = next(line["value"]["summary"] for line in lines if line["key"] == "header")
        changes = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            if line["key"] == "file"
            else self.hub.lfs[line["value"]["oid"]]
            for line in lines
            if line["key"] in ("file", "lfsFile")
        }
        is_proposed = "create_pr=1" in self.path
        number = self.readable(name).commit("refs/pr/1" if is_proposed else revision, changes, message)
        made = {"commitUrl": f"{self.hub.address}/{name}/commit/{number}", "commitOid": number, "commitTitle": message}
        if is_proposed:
            made["pullRequestUrl"] = f"{self.hub.address}/{name}/discussions/1"
        return Answer(200, made)

    def tree(self, name: str, revision: str) -> Answer:
        _, held = self.commit_at(name, revision)
        return Answer(200, [{"type": "file", "path": path, "size": len(c), "oid": "0"} for path, c in sorted(held.items())])

    def resolve(self, name: str, revision: str, path: str) -> Answer:
        number, held = self.commit_at(name, revision)
        if path not in held:
            raise refusal(404, "EntryNotFound", **{"X-Repo-Commit": number})
        tag = hashlib.sha256(held[path]).hexdigest()
        return Answer(200, held[path], {"ETag": f'"{tag}"', "X-Repo-Commit": number})


_NAME, _REVISION = r"(?P<name>[\w.-]+/[\w.-]+)", r"(?P<revision>refs/pr/\d+|[^/]+)"
ROUTES = [
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"GET /api/models/{_NAME}", Handler.info),
    (rf"GET /api/models/{_NAME}/revision/(?P<revision>.+)", Handler.info),
    (rf"POST /api/models/{_NAME}/branch/(?P<branch>.+)", Handler.branch),
    (rf"POST /api/models/{_NAME}/preupload/{_REVISION}", Handler.preupload),
    (rf"POST /api/models/{_NAME}/commit/{_REVISION}", Handler.commit),
    (rf"GET /api/models/{_NAME}/tree/{_REVISION}", Handler.tree),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (r"PUT /lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_put),
    (rf"(HEAD|GET) /{_NAME}/resolve/{_REVISION}/(?P<path>.+)", Handler.resolve),
]


@contextmanager
def running():
    """A hub, listening."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisHub", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def turn_to(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub in this process know no other hub, no token and no other cache, and try again without waiting."""
    pytest.importorskip("huggingface_hub")
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("no_proxy", "*")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    patient = importlib.import_module("huggingface_hub.utils._http")
    monkeypatch.setattr(patient, "time", SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None}))

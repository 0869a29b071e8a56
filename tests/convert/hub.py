"""A server that speaks the Hugging Face hub's interface, in a thread of the tests' process."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

MAIN = "main"
TOKEN = "hf_of_the_tests"


@dataclass
class Repository:
    """The files of a model or data set at each commit, and the branches and tags that name these."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    status: int = 200

    def commit(self, files: Mapping[str, bytes], *names: str) -> str:
        """Add a commit, to which the names then lead. Returns its hash."""
        content = b"".join(name.encode() + files[name] for name in sorted(files))
        commit = hashlib.sha1(content).hexdigest()
        self.commits[commit] = dict(files)
        self.names |= dict.fromkeys([*names, commit], commit)
        return commit


@dataclass
class Hub:
    """The repositories by name, and what was asked: method, path, and the Range of the request.

    `cut` breaks off the next transfer of a file after so many bytes.
    """

    address: str
    server: ThreadingHTTPServer
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, folder: Path, **named: Any) -> str:
        """Make a repository of a folder's files, at its main branch. Returns the commit."""
        repository = self.repositories.setdefault(name, Repository(**named))
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return repository.commit(files, MAIN)

    def files(self) -> list[str]:
        """The files whose contents were asked for."""
        return [path.split("/", 5)[5] for method, path, _ in self.asked if method == "GET" and "/resolve/" in path]

    def close(self) -> None:
        """Hear nobody any more."""
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def hub_of(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """Serve a hub that huggingface_hub asks, as by HF_ENDPOINT, with its cache in a folder."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}", server)
    server.hub = hub  # type: ignore[attr-defined]
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)  # before it asks again
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield hub
    hub.close()


class _Handler(BaseHTTPRequestHandler):
    """The hub's interface: a model or data set, the tree of a commit, and files in whole or from a byte on."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        hub.asked.append((self.command, path, self.headers.get("Range", "")))
        match = re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)
        resolved = re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = match or resolved
        if not found or not (repository := hub.repositories.get(found[1])):
            return self._refuse(404, "RepoNotFound")

        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository.status != 200:
            return self._refuse(repository.status, "")
        if (repository.private or repository.gated) and not allowed:
            return self._refuse(401, "GatedRepo" if repository.gated else "RepoNotFound")

        revision = (match[3] if match else found[2]) or MAIN
        if not (commit := repository.names.get(revision)):
            return self._refuse(404, "RevisionNotFound")
        files = repository.commits[commit]
        if resolved:
            return self._file(hub, resolved[3], files, commit)
        if match and match[2] == "tree":
            oids = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
            return self._json(
                [{"type": "file", "path": name, "size": len(files[name]), "oid": oids[name]} for name in files]
            )
        return self._json({"id": found[1], "sha": commit, "siblings": [{"rfilename": name} for name in files]})

    def _file(self, hub: Hub, name: str, files: Mapping[str, bytes], commit: str) -> None:
        if name not in files:
            self._refuse(404, "EntryNotFound")
            return
        whole, wanted = files[name], re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(wanted[1]) if wanted else 0
        content = whole[: int(wanted[2]) + 1] if wanted and wanted[2] else whole

        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{hashlib.sha1(whole).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - first))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(whole)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[first : hub.cut.pop(name, len(content))])

    def _json(self, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

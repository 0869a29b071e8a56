"""A store of objects for the tests of this folder: one server for all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from phalanx.data import remote
from tests.data.stores import FILES, Store, s3_store


@pytest.fixture(scope="session")
def server() -> Iterator[Store]:
    pytest.importorskip("s3fs")
    with s3_store() as store:
        yield store


@pytest.fixture
def store(server: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store with the files, which lie under `here` too. Nobody waits before a second try."""
    server.clear()
    server.objects.update(FILES)
    for name, content in FILES.items():
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_bytes(content)
    monkeypatch.setattr(remote, "DELAYS", (0.0, 0.0))
    monkeypatch.setenv("PHALANX_CACHE", str(tmp_path / "cache"))
    return server

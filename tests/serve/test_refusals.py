"""What is told of a request that is refused, by the app alone: without a server, processes or models."""

from collections.abc import Iterator
from contextlib import closing
from http.client import responses

import pytest
from starlette.testclient import TestClient

from phalanx.serve.api import make
from phalanx.serve.worker_pool import WorkerPool


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of an app whose only worker has loaded a model and is not started."""
    pool = WorkerPool([], [None], 1, 8, 60)
    pool.workers[0].models = {"m": {"can": ["classify"]}}
    with closing(TestClient(make(pool))) as made:
        yield made


@pytest.mark.parametrize(
    ("method", "path", "asked", "status", "param", "listed"),
    [
        ("POST", "/v1/chat/completions", None, 404, None, False),
        ("POST", "/classify", {"text": "a", "model": "other"}, 404, "model", False),
        ("GET", "/nothing", None, 404, None, True),
        ("PUT", "/classify", None, 405, None, True),
    ],
)
def test_a_refusal_of_ours_is_no_unknown_path(
    client: TestClient, method: str, path: str, asked: object, status: int, param: str | None, listed: bool
) -> None:
    """What there is instead is listed where the path or its method is unknown, and only there."""
    told = client.request(method, path, json=asked)
    error = told.json()["error"]
    assert told.status_code == status and error["param"] == param
    assert (f"there is no {method} {path} here; there are " in error["message"]) == listed


def test_what_a_model_cannot_is_told_with_what_it_can(client: TestClient) -> None:
    told = client.post("/v1/embeddings", json={"model": "m", "input": "a"})
    assert told.status_code == 400 and told.json()["error"]["message"] == "the model m cannot embed: it can classify"


@pytest.mark.parametrize("body", ['{"text": "a", "text": "b"}', '{"a": [{"text": 1, "pair": 2, "text": 3}]}'])
def test_a_key_that_stands_twice(client: TestClient, body: str) -> None:
    """It is named: which of the two is meant nobody knows, and a proxy may have read the other one."""
    told = client.post("/classify", content=body, headers={"Content-Type": "application/json"})
    assert told.status_code == 400 and "'text' stands twice" in told.json()["error"]["message"]


def test_unknown_paths_are_known_by_their_status(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the router's words for them are."""
    monkeypatch.setitem(responses, 404, "other words")
    told = client.get("/nothing")
    assert (
        told.status_code == 404
        and "other words: there is no GET /nothing here; there are" in told.json()["error"]["message"]
    )


def test_a_defect_of_ours_is_told_in_the_same_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON, without what went wrong inside."""
    pool = WorkerPool([], [None], 1, 8, 60)
    pool.workers[0].models = {"m": {"can": ["classify"]}}

    def fails(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(pool, "submit", fails)
    with closing(TestClient(make(pool), raise_server_exceptions=False)) as client:
        told = client.post("/classify", json={"text": "a"})
    assert told.status_code == 500 and told.json()["error"]["type"] == "server_error"
    assert "secret" not in told.text

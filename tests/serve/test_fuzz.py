"""Requests made at random from the server's own description of itself, valid ones and others: PHALANX_FUZZ of them."""

import os
import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.serve.conftest import Server

schemathesis: Any = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
REQUESTS = int(os.environ.get("PHALANX_FUZZ", "200"))


def test_no_request_is_too_much(server: Server) -> None:
    """None gets a 500, none ends the process that computes, and afterwards all is as before."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    modes = list(schemathesis.GenerationMode)
    cases = [found.ok().as_strategy(generation_mode=mode) for found in schema.get_all_operations() for mode in modes]
    seen: dict[int, int] = {}

    @given(st.one_of(cases))
    @settings(max_examples=REQUESTS, database=None, deadline=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    def ask(case: Any) -> None:
        response = case.call(timeout=60)
        seen[response.status_code] = seen.get(response.status_code, 0) + 1
        assert response.status_code < 500 or (response.status_code == 503 and "deadline" in response.text), (
            response.text
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ask()
    print(f"{sum(seen.values())} requests by status: {seen}")
    assert sum(seen.values()) >= REQUESTS and seen[200] and seen[400]
    assert server.gauge("phalanx_worker_restarts") == server.gauge("phalanx_jobs") == 0
    assert server.post("/classify", text="a").status_code == 200

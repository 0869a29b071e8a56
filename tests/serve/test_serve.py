"""A server of real models: its answers are the models' own, its refusals have a status and a line, and it goes on."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from phalanx.infer import load_decoder, load_encoder
from phalanx.infer.sample import Options
from tests.serve.conftest import CONTEXT as LENGTH
from tests.serve.conftest import Server

CONTEXT = "Zoë lit the 灯 in 1811 🦜🏽, and left."


def test_plain_questions(server: Server, models: list[Path]) -> None:
    classes, span, plain, _ = models
    answer = server.post("/answer", question="Who?", context=CONTEXT).json()
    right = load_encoder(span, "torch").answer("Who?", CONTEXT)
    assert (answer["text"], answer["start"], answer["stop"]) == right[:3]
    assert CONTEXT[answer["start"] : answer["stop"]] == answer["text"]
    found = server.post("/classify", text="a fine film").json()
    assert found["probabilities"] == pytest.approx(load_encoder(classes, "torch").classify("a fine film").probabilities)
    (blank,) = server.post("/fill", text="a [MASK] film", top=3).json()
    assert len(blank["words"]) == 3 and blank["position"] == 2
    found = server.post("/embed", texts=["a", "b c"], model="plain").json()
    np.testing.assert_allclose(found["vectors"], load_encoder(plain, "torch").embed(["a", "b c"]), atol=1e-5)


def test_openais_client(server: Server, models: list[Path]) -> None:
    """Unmodified."""
    import openai

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["classes", "span", "plain", "gpt"]
    assert client.models.retrieve("gpt") in [*client.models.list()]
    with pytest.raises(openai.NotFoundError, match="no model 'gpt5'"):
        client.models.retrieve("gpt5")
    asked: dict[str, Any] = {"model": "gpt", "prompt": "The cat", "max_tokens": 20, "temperature": 0}
    right = "".join(load_decoder(models[3]).generate("The cat", Options(max_tokens=20, temperature=0)))
    done = client.completions.create(**asked)
    assert done.choices[0].text == right and done.choices[0].finish_reason == "length"
    assert done.usage and done.usage.completion_tokens == 20
    pieces = [event.choices[0].text for event in client.completions.create(**asked, stream=True)]
    assert "".join(pieces) == right and len(pieces) > 5
    both = client.completions.create(**asked | {"prompt": ["The cat", "A dog"], "n": 2})
    assert len(both.choices) == 4 and both.choices[0].text == both.choices[1].text == right
    assert both.usage and both.usage.prompt_tokens == 4  # of each prompt once
    drawn = [client.completions.create(**asked | {"temperature": 1, "seed": 5}).choices[0].text for _ in range(2)]
    assert drawn[0] == drawn[1] != right
    vectors = client.embeddings.create(model="plain", input=["a", "b c"])
    plain = load_encoder(models[2], "torch").embed(["a", "b c"])
    np.testing.assert_allclose([one.embedding for one in vectors.data], plain, atol=1e-5)
    with pytest.raises(openai.NotFoundError, match="no model 'gpt5'; there are classes, span"):
        client.completions.create(model="gpt5", prompt="a")


def test_stops(server: Server) -> None:
    """A text that ends a completion is not told, nor what follows it."""
    asked: dict[str, Any] = {"prompt": "The cat", "max_tokens": 20, "temperature": 0}
    whole = server.post("/v1/completions", **asked).json()["choices"][0]["text"]
    stop = whole[10:14]
    for stream in (False, True):
        response = server.post("/v1/completions", **asked, stop=stop, stream=stream)
        events = [json.loads(line[6:]) for line in response.text.split("\n") if line.startswith("data: {")]
        choices = [event["choices"][0] for event in events] if stream else response.json()["choices"]
        assert "".join(choice["text"] for choice in choices) == whole[: whole.find(stop)]
        assert choices[-1]["finish_reason"] == "stop"
    assert server.post("/v1/completions", **asked, stop=["\n", "\n\n"]).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/answer", b"{", 400, "JSON"),
        ("/answer", b"\xff\xfe{}", 400, "the body is not JSON"),
        ("/answer", b"[]", 400, "dictionary"),
        ("/answer", b'{"question": "a"}', 400, "context: Field required"),
        ("/answer", b'{"question": " ", "context": "b"}', 400, "question: is empty; give some text"),
        ("/answer", b'{"question": "a", "context": "b", "colour": 1}', 400, "colour: Extra inputs"),
        ("/answer", b'{"question": "a", "context": "b", "model": "gpt"}', 400, "gpt cannot answer: it can complete"),
        ("/classify", b'{"text": "a", "timeout": -1}', 400, "timeout"),
        ("/classify", rb'{"text": "\ud800"}', 400, "text"),
        ("/fill", b'{"text": "no mask"}', 400, "the text has no [MASK]"),
        ("/fill", b'{"text": "[MASK]", "top": 0}', 400, "top"),
        ("/embed", b'{"texts": []}', 400, "texts"),
        ("/v1/completions", b'{"prompt": "a", "max_tokens": -1}', 400, "max_tokens"),
        ("/v1/completions", json.dumps({"prompt": "a" + " a" * 2047}).encode(), 400, "2048 tokens, all of the model's"),
        ("/v1/completions", json.dumps({"prompt": "a " * 2100}).encode(), 400, "the model's context 2048"),
        ("/v1/completions", json.dumps({"prompt": "a " * 2100, "stream": True}).encode(), 400, "context 2048"),
        ("/v1/completions", json.dumps({"prompt": "a " * 2100, "stream": True, "echo": True}).encode(), 400, "context"),
        ("/v1/completions", b'{"prompt": []}', 400, "prompt: List should have at least 1 item"),
        ("/v1/completions", b'{"prompt": [1, 50257]}', 400, "token 50257 is not in the vocabulary"),
        ("/v1/completions", b'{"prompt": [[1, 2], [-1]]}', 400, "prompt.1.0: Input should be greater than"),
        ("/v1/completions", b'{"prompt": [[1, true]]}', 400, "prompt.0.1: Input should be a valid integer"),
        ("/v1/completions", b'{"prompt": ["a", 1]}', 400, "prompt.1: Input should be a valid string"),
        ("/v1/completions", b'{"prompt": [[]]}', 400, "prompt.0: List should have at least 1 item"),
        ("/v1/completions", b'{"prompt": "a", "logprobs": -1}', 400, "logprobs: Input should be greater"),
        ("/v1/completions", json.dumps({"prompt": "a", "stop": ["a"] * 17}).encode(), 400, "stop: List should have at"),
        ("/v1/completions", b'{"prompt": "a", "temperature": NaN}', 400, "the body is not JSON: NaN is not a number"),
        ("/v1/completions", b'{"prompt": "a", "timeout": 1e999}', 400, "timeout: Input should be a finite number"),
        ("/classify", b'{"text": "a", "timeout": -Infinity}', 400, "-Infinity is not a number of JSON"),
        ("/v1/embeddings", b'{"input": [7, 30522], "model": "plain"}', 400, "token 30522 is not in the vocabulary"),
        ("/v1/embeddings", b'{"input": ["a", " "]}', 400, "input.1: is empty; give some text"),
        ("/v1/completions", b'{"prompt": "a", "max_tokens": true}', 400, "max_tokens: Input should be a valid number"),
        ("/v1/completions", b'{"prompt": "a", "logprobs": true}', 400, "logprobs: Input should be a valid number"),
        ("/classify", b'{"text": "a", "timeout": true}', 400, "timeout: Input should be a valid number"),
        ("/classify", b'{"text": ' + b"[" * 100_000, 400, "the body is not JSON: it is nested too deep"),
        ("/fill", b'{"text": "[MASK]", "top": ' + b"1" * 6000 + b"}", 400, "it has a number of too many digits"),
        ("/v1/chat/completions", b'{"messages": []}', 404, "chat is not served"),
        ("/v1/embeddings", b'{"input": "a", "dimensions": 5}', 400, "dimensions is not supported here"),
        ("/answer", '{"question": "a", "context": "\u200b"}'.encode(), 400, "context: is empty"),
        ("/nowhere", b"{}", 404, "there is no POST /nowhere here; there are POST /answer"),
        ("/answer", b"x" * (5 << 20), 413, "larger than 4194304 bytes"),
    ],
)  # fmt: skip
def test_refusals(server: Server, models: list[Path], path: str, body: bytes, status: int, said: str) -> None:
    """A status, a line, and no path of this machine; the next request is served."""
    response = server.client.post(path, content=body, headers={"Content-Type": "application/json"})
    told = response.text
    assert (response.status_code, said in told) == (status, True), told
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    if field := re.match(r"([a-z_]+)[.0-9]*: ", said):
        assert error["param"] == field[1]
    assert str(models[0].parent) not in told and "Traceback" not in told
    assert server.post("/classify", text="a").status_code == 200


def test_what_is_not_sent_as_json(server: Server) -> None:
    """As curl does where nobody says otherwise."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    told = server.client.post("/classify", content=b'{"text": "a"}', headers=form)
    assert told.status_code == 415 and "Content-Type: application/json" in told.json()["error"]["message"]


def test_a_body_without_an_end(server: Server) -> None:
    """Sent in chunks whose length nobody said."""

    def chunks() -> Any:
        for _ in range(100):
            yield b"x" * 100_000

    with suppress(httpx.TransportError):  # it stops reading before all is sent
        assert server.client.post("/answer", content=chunks()).status_code == 413
    assert server.post("/classify", text="a").status_code == 200


def test_many_at_once(server: Server) -> None:
    """Each gets its own answer."""
    texts = [f"film number {n}" + " good" * (n % 9) for n in range(60)]
    alone = [server.post("/classify", text=text).json()["probabilities"] for text in texts]
    with ThreadPoolExecutor(30) as pool:
        together = list(pool.map(lambda text: server.post("/classify", text=text).json()["probabilities"], texts))
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert server.gauge("phalanx_jobs") == 0


def test_who_leaves_is_not_computed_for(server: Server) -> None:
    """In the middle of a stream, of which some tokens come and by far not all, and before an answer."""
    asked = {"prompt": "The", "max_tokens": 50_000, "seed": 0}  # a text that does not end of itself
    before = server.gauge("phalanx_generated_tokens_total")
    with server.client.stream("POST", "/v1/completions", json=asked | {"stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        assert server.gauge("phalanx_jobs") == 1
    until(lambda: server.gauge("phalanx_jobs") == 0)
    assert 0 < server.gauge("phalanx_generated_tokens_total") - before < LENGTH - 10

    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/completions", json=asked, timeout=0.5)
    until(lambda: server.gauge("phalanx_jobs") == 0)


def test_a_deadline(server: Server) -> None:
    response = server.post("/classify", text="a", timeout=1e-6)
    assert response.status_code == 503 and "deadline" in response.text


def under_way(server: Server, **asked: Any) -> list[Future[httpx.Response]]:
    """Two completions that the server has begun; to be awaited."""
    pool = ThreadPoolExecutor(2)
    found = [pool.submit(httpx.post, f"{server.url}/v1/completions", json=asked, timeout=300) for _ in range(2)]
    pool.shutdown(wait=False)
    until(lambda: server.gauge("phalanx_jobs") == 2)
    return found


def listens(server: Server) -> bool:
    address = httpx.URL(server.url)
    try:
        socket.create_connection((address.host, address.port), 1).close()
    except OSError:
        return False
    return True


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_in_trouble(models: list[Path]) -> None:
    """Past the queue 429 with when to come again. Those that wait for a worker that dies get 503, and it is started
    again; while it is stopped, the server speaks. After SIGTERM what is under way is finished.
    """
    server = Server(models, "--queue", 2, "--budget", 120)
    try:
        waiting = under_way(server, prompt="The", max_tokens=50_000, seed=0)  # texts that do not end of themselves
        refused = server.post("/classify", text="a")
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
        never = server.post("/v1/completions", prompt="a", n=3)
        assert never.status_code == 400 and "3 texts are asked for at once, this server takes 2" in never.text

        os.kill(server.worker(), signal.SIGKILL)
        for response in (each.result() for each in waiting):
            assert response.status_code == 503 and response.headers["Retry-After"]
            assert "ended unexpectedly" in response.text
        assert server.client.get("/health").status_code == 200
        server.until_ready()
        assert server.post("/classify", text="a").status_code == 200
        assert server.gauge("phalanx_worker_restarts") == 1

        os.kill(server.worker(), signal.SIGSTOP)
        waiting = under_way(server, prompt="a" * 190_000)
        assert server.post("/classify", text="a").status_code == 429
        assert server.client.get("/health").status_code == 200
        os.kill(server.worker(), signal.SIGCONT)
        assert [each.result().status_code for each in waiting] == [400, 400]  # longer than the model's context

        os.kill(
            worker := server.worker(), signal.SIGSTOP
        )  # or all might be answered before the server hears its signal
        waiting = under_way(server, prompt="The", max_tokens=120, temperature=0)
        server.client.close()
        server.process.terminate()
        until(lambda: not listens(server))
        os.kill(worker, signal.SIGCONT)
        finished = [each.result() for each in waiting]
        assert [response.status_code for response in finished] == [200, 200]
        assert all(response.headers["Connection"] == "close" for response in finished)
        assert finished[0].json()["usage"]["completion_tokens"] == 120
        assert server.process.wait(120) in (0, -signal.SIGTERM, 143)
    finally:
        server.process.kill()


def test_pages_fetch_nothing_from_outside(server: Server) -> None:
    for path in ("/", "/docs"):
        page = server.client.get(path)
        assert page.status_code == 200 and "https://" not in page.text and "http://" not in page.text
        rules = page.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in rules and rules.count("'sha256-") == 2 and "unsafe" not in rules
        assert page.headers["X-Content-Type-Options"] == "nosniff" and " style=" not in page.text
    assert "default-src 'none'" in server.client.get("/nowhere").headers["Content-Security-Policy"]
    told = server.client.get("/openapi.json").json()
    assert {"/answer", "/v1/completions", "/metrics"} <= told["paths"].keys()


def test_large_questions_do_not_keep_it_from_speaking(server: Server) -> None:
    """More than the pipe to a worker holds, which reads nothing meanwhile."""
    asked = {"question": "Who?", "context": "He lit it." + " " * 165_000, "timeout": 300}
    worker, url = server.worker(), f"{server.url}/answer"
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(httpx.post, url, json=asked, timeout=300) for _ in range(8)]
        try:
            until(lambda: server.gauge("phalanx_jobs") == 8)
            assert server.client.get("/health").status_code == 200
            assert not any(answer.done() for answer in answers)
        finally:
            os.kill(worker, signal.SIGCONT)
        assert {answer.result().status_code for answer in answers} <= {200, 503}

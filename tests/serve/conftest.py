"""A real server with small models of each kind."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from phalanx.infer.kernels import compiled
from tests.infer.runs import GPT, make_run
from tests.infer.test_bert import config

CONTEXT = 2048  # so long that a text can be under way while something else is looked at
BACKEND = "torch" if compiled.unavailable() else "native"


class Server:
    """A process, and a client of it."""

    def __init__(self, models: list[Path], *words: object) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "phalanx", "serve", *models, "--port", self.port, "--backend", BACKEND, *words]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen([*map(str, command)], env=one_thread, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)  # fmt: skip
        self.client = httpx.Client(base_url=self.url, timeout=60)
        self.until_ready()

    def until_ready(self, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.stdout and self.process.stdout.read()
            try:
                if self.client.get("/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise TimeoutError("the server does not get ready")

    def post(self, path: str, **asked: Any) -> httpx.Response:
        return self.client.post(path, json=asked)

    def worker(self) -> int:
        """The number of the process that computes."""
        command = ["ps", "-ww", "--ppid", str(self.process.pid), "-o", "pid=,args="]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        return next(int(line.split()[0]) for line in told.stdout.splitlines() if "spawn_main" in line)

    def gauge(self, name: str) -> float:
        """A value of /metrics."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        try:
            self.process.wait(40)
        finally:
            self.process.kill()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    for head in ("classes", "span", ""):
        make_run(folder / (head or "plain"), config(head), "bert-uncased")
    model = GPT.model.model_copy(update={"layers": 2, "positions": CONTEXT, "init_std": 0.2})
    data = GPT.data.model_copy(update={"sequence": CONTEXT})
    make_run(folder / "gpt", GPT.model_copy(update={"model": model, "data": data}), "gpt2")
    return [folder / name for name in ("classes", "span", "plain", "gpt")]


@pytest.fixture(scope="session")
def server(models: list[Path]) -> Iterator[Server]:
    made = Server(models)
    yield made
    made.stop()

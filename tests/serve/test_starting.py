"""A server that starts with keys, and those that cannot start: one line and exit code 2, before anything is asked."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.cli.app import app
from phalanx.errors import InputError
from tests.interpreter import python
from tests.serve.conftest import Server


def test_keys(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\N{ZERO WIDTH NO-BREAK SPACE}first\r\nsecond\r\n", newline="")
    server = Server(models[:1], "--api-key-file", tmp_path / "keys")
    try:
        for page in ("/health", "/", "/docs", "/openapi.json"):
            assert server.client.get(page).status_code == 200
        assert server.client.head("/").status_code == 200
        for given in ("", "Bearer third", "Bearer firs", "first", "Basic first"):
            headers = {"Authorization": given} if given else {}
            refused = server.client.post("/classify", json={"text": "a"}, headers=headers)
            assert refused.status_code == 401 and "API key is needed" in refused.text
        for key in ("first", "second"):
            done = server.client.post("/classify", json={"text": "a"}, headers={"Authorization": f"Bearer {key}"})
            assert done.status_code == 200
        worker = server.worker()
        os.kill(worker, signal.SIGSTOP)
        server.stop()  # with a worker that does nothing any more
        assert server.process.returncode == -signal.SIGTERM and not Path(f"/proc/{worker}").exists()
    finally:
        server.process.kill()


def test_models_that_cannot_be_loaded(models: list[Path], tmp_path: Path) -> None:
    """One line and exit code 2, before anything is asked."""
    shutil.copytree(models[0], tmp_path / "cut")
    weights = next((tmp_path / "cut").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    for interpreter, words, said in (
        (sys.executable, [tmp_path / "cut"], "cut"),  # this one and the next a process of its own finds
        (sys.executable, [models[0], "--backend", "abacus"], "unknown backend 'abacus'"),
        (python(), [models[0], "--port", str(port)], f"--port {port}: Address already in use; choose another"),
    ):
        command = [interpreter, "-m", "phalanx", "serve", "--port", "0", *map(str, words)]
        told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        errors = [line for line in told.stderr.splitlines() if line.startswith("phalanx: ")]
        assert told.returncode == 2 and len(errors) == 1 and said in errors[0], told.stderr
        assert "Traceback" not in told.stderr
    taken.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["RUNS/none"], "none is no folder; give a run, hf:FOLDER or gguf:FILE"),
        (["RUNS/classes", "classes=RUNS/span"], "two models are called classes"),
        (["=RUNS/span"], "names no model"),
        (["RUNS/span", "--budget", "inf"], "--budget inf: give seconds"),
        (["RUNS/span", "--workers", "100000"], "--workers 100000: "),
        (["RUNS/span", "--host", "nowhere.invalid"], "--host nowhere.invalid --port 8000: "),
        (["RUNS/span", "--api-key-file", "RUNS"], "cannot be read: Is a directory"),
    ],
)
def test_words_that_cannot_be(models: list[Path], words: list[str], said: str) -> None:
    """Before any process is started."""
    with pytest.raises(InputError) as told:
        asked = [word.replace("RUNS", str(models[0].parent)) for word in words]
        CliRunner().invoke(app, ["serve", *asked], catch_exceptions=False)
    assert said in str(told.value)

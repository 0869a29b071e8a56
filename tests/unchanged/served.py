"""Serve models and print what they answer over HTTP, as a job of this comparison: NAME=RUN …"""

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/fill", {"model": "post", "text": "a [MASK] of [MASK]."}),
    ("/classify", {"model": "classes", "text": "some words"}),
    ("/embed", {"model": "post", "texts": ["one text", "and another"]}),
    ("/v1/embeddings", {"model": "post", "input": ["one text"]}),
    ("/v1/completions", {"model": "gpt", "prompt": "Words are", "max_tokens": 12, "temperature": 0, "logprobs": 2}),
)
CHANGING = {"id", "created"}  # of an answer


def main(models: list[str]) -> None:
    """Ask each request once, one after the other."""
    words = ["-m", "phalanx", "serve", *models, "--backend", "torch", "--port", "0", "--threads", "1"]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            address = next(found[0] for line in server.stdout if (found := re.search(r"http://[\w.:]+", line)))
            while not _ready(address):
                assert server.poll() is None, "the server ended"
                time.sleep(0.1)
            for path, asked in REQUESTS:
                print(path, json.dumps(_reply(address + path, asked)))
        finally:
            server.terminate()


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/ready"):
            return True
    except urllib.error.URLError:  # it does not listen yet, or says 503
        return False


def _reply(address: str, asked: dict[str, Any]) -> Any:
    request = urllib.request.Request(address, json.dumps(asked).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        said = json.load(reply)
    return {key: value for key, value in said.items() if key not in CHANGING} if isinstance(said, dict) else said


if __name__ == "__main__":
    main(sys.argv[1:])

"""docs/serving.md: its commands and programs run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.conftest import Server

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
COMMANDS = [
    command
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for command in re.split(r"\n(?=curl)", block.strip())
]
(PROGRAM,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def here(text: str, server: Server) -> str:
    return text.replace("http://127.0.0.1:8000", server.url)


@pytest.mark.parametrize("command", COMMANDS, ids=[str(n) for n in range(len(COMMANDS))])
def test_commands(server: Server, command: str) -> None:
    words = here(command, server).replace("curl ", "curl --silent --show-error --fail-with-body ", 1)
    told = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
    assert told.returncode == 0 and told.stdout, told.stderr + told.stdout


def test_the_client(server: Server) -> None:
    program = here(PROGRAM, server).replace("my-embedder", "plain")
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert told.returncode == 0 and told.stdout, told.stderr


def test_all_was_found() -> None:
    assert len(COMMANDS) == 8

"""llama.cpp, where it is: the folder of node_modules in PHALANX_LLAMA_CPP that has npm's node-llama-cpp."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

Ask = Callable[[Path, str, Sequence[str], int], dict[str, Any]]


@pytest.fixture(scope="session")
def llama_cpp() -> Ask:
    """What llama.cpp makes of a file, by a prompt, texts and a number: the tokens of the prompt and of the texts, so
    many greedy tokens after the prompt with their text, and the file's chat template. A test skips without it.
    """
    modules = Path(os.environ.get("PHALANX_LLAMA_CPP", "/nowhere"))
    if not (modules / "node-llama-cpp").is_dir():
        pytest.skip("no llama.cpp: PHALANX_LLAMA_CPP is to name a node_modules with node-llama-cpp")
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node, which runs llama.cpp here")

    def ask(file: Path, prompt: str, texts: Sequence[str], tokens: int) -> dict[str, Any]:
        words = [node, str(Path(__file__).with_name("llama_cpp.mjs")), str(modules.resolve()), str(file)]
        asked = json.dumps({"prompt": prompt, "texts": [*texts], "tokens": tokens})
        told = subprocess.run(words, input=asked, capture_output=True, text=True, timeout=300)
        assert not told.returncode, told.stderr
        answer: dict[str, Any] = json.loads(told.stdout)
        return answer

    return ask

"""llama.cpp, where it is: the folder of node_modules in PHALANX_LLAMA_CPP that has npm's node-llama-cpp."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


def ask(file: Path, prompt: str, texts: Sequence[str], tokens: int) -> dict[str, Any]:
    """Return what llama.cpp makes of a file: tokens of the prompt and of the texts, the greedy tokens after the prompt
    with their text, and the file's chat template. The test skips without node or the package.
    """
    modules = Path(os.environ.get("PHALANX_LLAMA_CPP", ""))
    if not os.environ.get("PHALANX_LLAMA_CPP") or not (modules / "node-llama-cpp").is_dir():
        pytest.skip("no llama.cpp: PHALANX_LLAMA_CPP is to name a node_modules with node-llama-cpp")
    if not (node := shutil.which("node")):
        pytest.skip("no node, which runs llama.cpp here")
    script = Path(__file__).with_name("llama_cpp.mjs")
    asked = json.dumps({"prompt": prompt, "texts": [*texts], "tokens": tokens})
    told = subprocess.run(
        [node, str(script), str(modules.resolve()), str(file)], input=asked, capture_output=True, text=True, timeout=300
    )
    assert not told.returncode, told.stderr
    answer: dict[str, Any] = json.loads(told.stdout)
    return answer

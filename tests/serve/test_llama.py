"""Llamas and their relatives are served, as other decoders are."""

from pathlib import Path
from typing import Any

import pytest

from phalanx.infer import load_decoder
from phalanx.infer.sample import Options
from phalanx.models.family import configured
from phalanx.serve.messages import WorkerSpec
from tests.infer.runs import GPT, make_run
from tests.serve.in_process import serving


@pytest.mark.parametrize(
    "keys", [{"family": "llama"}, {"family": "gemma3", "width": 6, "window": 4, "window_layers": "10"}], ids=str
)
def test_a_completion(tmp_path: Path, keys: dict[str, Any]) -> None:
    """What it writes alone, with a key head for two heads, whole and in parts."""
    sizes = {"layers": 2, "hidden": 16, "heads": 4, "kv_heads": 2, "positions": 32, "vocab": 50257, "init_std": 0.5}
    model = configured(**sizes, **keys)
    data = GPT.data.model_copy(update={"sequence": 32})
    make_run(tmp_path / "llama", GPT.model_copy(update={"model": model, "data": data}), "gpt2")
    asked = {"prompt": "It was a dark", "max_tokens": 8, "temperature": 0}
    with serving(WorkerSpec("llama", str(tmp_path / "llama"), "auto", "fp32")) as client:
        told = client.post("/v1/completions", json=asked)
        parts = client.post("/v1/completions", json=asked | {"stream": True})

    whole = "".join(load_decoder(tmp_path / "llama", "torch").generate("It was a dark", Options(8, 0)))
    assert told.status_code == 200 and told.json()["choices"][0]["text"] == whole != ""
    assert told.json()["usage"]["completion_tokens"] == 8
    assert parts.status_code == 200 and parts.text.count("data: ") > 2

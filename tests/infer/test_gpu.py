"""On a GPU: graphs that were recorded say what the model says."""

from pathlib import Path

import numpy as np
import pytest
import torch

from phalanx.infer import backends, load_decoder
from phalanx.infer.backends.protocol import ProgramSpec
from phalanx.infer.bundle import load_bundle
from phalanx.infer.kv_cache import Chunk
from phalanx.infer.sample import Options
from tests.infer.runs import GPT, make_run
from tests.infer.test_bert import HEADS, config, rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("head", HEADS)
def test_a_bert_says_what_it_says_in_fp32(tmp_path: Path, head: str, precision: str) -> None:
    """Of one row and of several, again when the graph is there."""
    make_run(tmp_path / "run", config(head), "bert-uncased")
    loaded = load_bundle(tmp_path / "run")
    exact, program = (
        backends.encoder_program("torch", ProgramSpec(loaded, each, not head)) for each in ("fp32", precision)
    )
    for asked in (rows(), rows()[:1], rows()[:3], rows()):
        for found, right in zip(program(asked), exact(asked), strict=True):
            assert found.shape == right.shape and found.dtype == np.float32
            np.testing.assert_allclose(found, right, atol=0.02 if precision == "fp16" else 0.15, rtol=0)


def test_a_gpt_writes_what_it_writes_plainly(tmp_path: Path) -> None:
    """In fp32, texts that join and leave, one past the context."""
    model = GPT.model.model_copy(update={"layers": 2, "positions": 64, "init_std": 0.2})
    data = GPT.data.model_copy(update={"sequence": 64})
    make_run(tmp_path / "run", GPT.model_copy(update={"model": model, "data": data}), "gpt2")
    written = []
    for lookup in (False, True):
        engine = load_decoder(tmp_path / "run", precision="fp32").engine
        engine.lookup = lookup
        asked = [
            engine.submit([5, 6 + n, 7] * (n + 1), Options(max_tokens=20 * n + 5, temperature=0)) for n in range(4)
        ]
        while engine.busy:
            engine.step()
        written.append([request.tokens for request in asked])
    loaded = load_bundle(tmp_path / "run")
    for tokens, count in zip(written[0], (5, 25, 45, 65), strict=True):
        said = tokens[: len(tokens) - count]
        for _ in range(count):
            said.append(int(loaded.logits(said[-64:])[-1].argmax()))
        assert tokens == said
    assert written[0] == written[1]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_prompts_in_half_precision(tmp_path: Path, precision: str) -> None:
    """Several of different lengths at once, wide heads as fused attention wants, then a step."""
    model = GPT.model.model_copy(update={"hidden": 64, "positions": 64, "init_std": 0.2})
    data = GPT.data.model_copy(update={"sequence": 64})
    make_run(tmp_path / "run", GPT.model_copy(update={"model": model, "data": data}), "gpt2")
    decoder, loaded = load_decoder(tmp_path / "run", precision=precision).engine.decoder, load_bundle(tmp_path / "run")
    prompts = [[5, 6 + n, 7] * (4 * n + 6) for n in range(3)]
    places = [decoder.reserve(64) for _ in prompts]
    said = decoder([Chunk(place, 0, prompt) for place, prompt in zip(places, prompts, strict=True)])
    said += decoder([Chunk(place, len(prompt), [9]) for place, prompt in zip(places, prompts, strict=True)])
    for scores, tokens in zip(said, [*prompts, *([*prompt, 9] for prompt in prompts)], strict=True):
        right = loaded.logits(tokens)[-1].cpu()
        assert (scores[0].cpu() - right).abs().max() < (0.02 if precision == "fp16" else 0.15) * right.abs().max()


def test_half_precision_continues(tmp_path: Path) -> None:
    make_run(tmp_path / "run", GPT, "gpt2")
    text = [
        list(load_decoder(tmp_path / "run", precision=p).generate("a b", Options(max_tokens=6)))
        for p in ("fp16", "bf16")
    ]
    assert all(text)

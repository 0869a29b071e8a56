"""llama.cpp reads the files that are written here: the same tokens, the same greedy text."""

from pathlib import Path

import pytest
import torch

from phalanx.convert.gguf import export_run
from phalanx.infer import load_decoder
from phalanx.infer.sample import Options
from tests.convert.llama_cpp import Ask, llama_cpp  # noqa: F401
from tests.convert.smollm2 import QUESTION, smollm2, smollm2_run  # noqa: F401
from tests.convert.test_gguf import MODELS, TEMPLATE, runs  # noqa: F401
from tests.convert.test_smollm2 import TEXTS

GREEDY = Options(max_tokens=12, temperature=0)


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_smollm2_writes_the_same_there(kind: str, llama_cpp: Ask, smollm2_run: Path, tmp_path: Path) -> None:  # noqa: F811
    export_run(smollm2_run, tmp_path / "file.gguf", kind)
    texts = [text for text in TEXTS if text]
    theirs = llama_cpp(tmp_path / "file.gguf", QUESTION, texts, GREEDY.max_tokens)
    ours = load_decoder(smollm2_run, "torch")
    encode = ours.tokenizer.for_prompts().encode
    assert theirs["prompt"] == encode(QUESTION) and theirs["texts"] == [*map(encode, texts)]
    assert theirs["text"] == "".join(ours.generate(QUESTION, GREEDY)) == "The capital of France is Paris."
    assert "<|im_start|>assistant" in theirs["template"]


@pytest.mark.parametrize("name", MODELS)
def test_small_models_write_the_same_there(name: str, llama_cpp: Ask, runs: Path) -> None:  # noqa: F811
    """Of every architecture, in fp32. What they write is noise, and llama.cpp keeps keys and values in fp16: each token
    is the likeliest here, or as good as that.
    """
    ours = load_decoder(runs / name, "torch")
    prompt = "the hat"
    theirs = llama_cpp(runs / f"{name}.gguf", prompt, ["hethe the"], 6)
    assert theirs["texts"] == [ours.tokenizer.encode("hethe the")] and theirs["template"] == TEMPLATE
    scores = ours.bundle.logits([*theirs["prompt"], *theirs["written"]])[len(theirs["prompt"]) - 1 : -1]
    written = scores.gather(1, torch.tensor(theirs["written"])[:, None])[:, 0]
    assert len(written) == 6 and (scores.amax(1) - written < 0.02 * scores.std()).all()

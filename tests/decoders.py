"""Small random models of transformers' classes, of every kind of decoder that the package knows."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from phalanx.config import ModelConfig
from phalanx.convert.config_json import model_of
from phalanx.convert.folder import Weights
from phalanx.convert.huggingface import compared
from phalanx.convert.linked import imported
from phalanx.models.family import spec_of
from phalanx.models.hugging_face import HuggingFace
from phalanx.nn.model import Model

VOCAB, POSITIONS, WINDOW = 131, 48, 8
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10,
    "intermediate_size": 56, "num_hidden_layers": 4, "max_position_embeddings": POSITIONS, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "attention_factor": 1.25}
LINEAR = {"rope_type": "linear", "factor": 8.0}
SLIDING = {"use_sliding_window": True, "sliding_window": WINDOW}
MIXED = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # their class, without its end, and config.json
    "llama 3.1": ("Llama", {"rope_parameters": LLAMA3}),
    "llama 3.2": ("Llama", {"rope_scaling": {**LLAMA3, "factor": 32.0}, "tie_word_embeddings": True}),
    "llama linear": ("Llama", {"rope_parameters": {**LINEAR, "rope_theta": 1e4}}),
    "llama yarn": ("Llama", {"rope_parameters": {**YARN, "rope_theta": 1e4, "beta_fast": 16.0}}),
    "mistral": ("Mistral", {"sliding_window": WINDOW}),
    "qwen2": ("Qwen2", {"head_dim": 8, **SLIDING, "max_window_layers": 3}),
    "qwen2 mixed": ("Qwen2", {"head_dim": 8, **SLIDING, "layer_types": MIXED}),
    "smollm3": ("SmolLM3", {}),
    "smollm3 window": ("SmolLM3", {**SLIDING, "no_rope_layers": [1, 0, 0, 1]}),
    "qwen3": ("Qwen3", {}),
    "qwen3 window": ("Qwen3", {**SLIDING, "max_window_layers": 1, "tie_word_embeddings": True}),
    "olmo2": ("Olmo2", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "olmo2 all heads": ("Olmo2", {"num_key_value_heads": 6, "rope_scaling": LINEAR}),
    "olmo3": ("Olmo3", {"sliding_window": WINDOW, "rope_scaling": YARN}),
    "gemma3": ("Gemma3Text", {"sliding_window": WINDOW, "query_pre_attn_scalar": 24, "rope_scaling": LINEAR,
                              "sliding_window_pattern": 3}),
    "gemma3 one key head": ("Gemma3Text", {"sliding_window": WINDOW, "num_key_value_heads": 1, "layer_types": MIXED,
                                           "query_pre_attn_scalar": 10}),
}  # fmt: skip


class Pair(NamedTuple):
    """Their model and ours, of equal weights, and where these came from."""

    theirs: Any
    ours: Model
    section: ModelConfig
    form: HuggingFace


def class_of(name: str, end: str) -> Any:
    """Their class of a kind: its Config, or its ForCausalLM."""
    return getattr(transformers, ("Gemma3" if name == "Gemma3Text" and end != "Config" else name) + end)


def folder_of(path: Path, kind: str, **more: Any) -> Any:
    """Write a random model of a kind to a folder, and return it."""
    name, facts = KINDS[kind]
    config = class_of(name, "Config")(**{**SIZES, **facts, **more})
    torch.manual_seed(0)
    theirs = class_of(name, "ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.2)
    theirs.save_pretrained(path)
    return theirs


def pair_of(path: Path, kind: str, **more: Any) -> Pair:
    """A random model of a kind, and what is made of its folder."""
    theirs = folder_of(path, kind, **more)
    section, form = model_of(json.loads((path / "config.json").read_text()), path / "config.json")
    weights, spec = Weights(path), spec_of(section)
    contents = compared(path, weights, spec, form.names)
    assert not contents.missing and not contents.unused
    ours = Model(spec).eval()
    ours.load_state_dict(dict(imported(contents.links, weights)))
    return Pair(theirs, ours, section, form)

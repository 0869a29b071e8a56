"""A tokenizer as the files that Hugging Face's classes read."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from phalanx import durable
from phalanx.config import ModelConfig
from phalanx.data.tokenize import Tokenizer

BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
GPT = "<|endoftext|>"


def write_tokenizer(tokenizer: Tokenizer, model: ModelConfig, folder: Path) -> None:
    """tokenizer.json, with [CLS] and [SEP] put around a BERT's texts, and tokenizer_config.json."""
    backend = Backend.from_str(tokenizer.json())
    facts: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.positions}
    if tokenizer.cls is not None and tokenizer.sep is not None:
        named = [("[CLS]", tokenizer.cls), ("[SEP]", tokenizer.sep)]
        backend.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=named
        )
        facts |= {f"{kind}_token": token for kind, token in BERT.items() if backend.token_to_id(token) is not None}
    elif tokenizer.eod is not None:
        facts |= {"bos_token": GPT, "eos_token": GPT, "unk_token": GPT}
    durable.write(folder / "tokenizer.json", backend.to_str().encode())
    durable.write(folder / "tokenizer_config.json", json.dumps(facts, indent=2).encode())

"""A tokenizer as the files that Hugging Face's classes read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing

from phalanx import durable
from phalanx.data.backend import CONFIG, WHOLE
from phalanx.data.fastpath import is_gpt2_like
from phalanx.data.special import GENERATION
from phalanx.data.tokenize import Tokenizer
from phalanx.data.words import is_bert_like
from phalanx.errors import InputError
from phalanx.foreign import read_json, reading, short
from phalanx.spec.model import Spec

# Options of a tokenizer.json's model: BERT's class has these values of them, GPT-2's has none of those.
WORD_PIECE = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
BYTE_PAIRS = (
    "dropout", "fuse_unk", "byte_fallback", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix",
)  # fmt: skip


TEMPLATE = "chat_template.jinja"


def write_tokenizer(
    tokenizer: Tokenizer, spec: Spec, folder: Path, begin: int | None = None, ends: Sequence[int] = ()
) -> None:
    """Write tokenizer.json, with [CLS] and [SEP] put around the texts of a model that sees both ways, and
    tokenizer_config.json. Of a decoder, `begin` and the first of `ends` begin and end a text, the tokenizer's end of
    text where they are not told; generation_config.json has all of `ends` where there are several.

    The class is BERT's or GPT-2's own where that makes the same tokens, else the one that reads tokenizer.json as it
    is. `model_input_names` says whether the model tells a pair's texts apart: without it both are segment 0.
    """
    backend = Backend.from_str(tokenizer.json())
    inputs = ["input_ids", *(["token_type_ids"] if spec.segments > 1 else []), "attention_mask"]
    facts: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": spec.positions,
        "model_input_names": inputs,
    }  # fmt: skip

    if not spec.causal:
        facts |= _bert(tokenizer, backend)
    elif begin is not None or ends or tokenizer.around:
        end = tokenizer.eos if tokenizer.eos is not None else ends[0] if ends else tokenizer.eod
        special = {"bos_token": begin, "eos_token": end}
        facts |= {kind: tokenizer.token(token) for kind, token in special.items() if token is not None}
    elif tokenizer.eod is not None:
        facts |= _gpt(tokenizer, backend)

    durable.write(folder / WHOLE, backend.to_str().encode())
    durable.write(folder / CONFIG, json.dumps(facts, indent=2, ensure_ascii=False).encode())
    if len(ends) > 1:
        several = {"eos_token_id": [*ends]} | ({} if begin is None else {"bos_token_id": begin})
        durable.write(folder / GENERATION, json.dumps(several, indent=2).encode())


def read_chat_template(folder: Path) -> str:
    """Return how a conversation becomes a prompt: by chat_template.jinja, else by tokenizer_config.json, of several the
    one called default; "" where neither says it. InputError for files that are damaged.
    """
    if (file := folder / TEMPLATE).is_file():
        with reading(file):
            return file.read_text(encoding="utf-8")
    file = folder / "tokenizer_config.json"
    said = read_json(file).get("chat_template") if file.is_file() else None
    if isinstance(said, list):
        named = [each for each in said if isinstance(each, dict)]
        said = next((each.get("template") for each in named if each.get("name") == "default"), None)
    if not isinstance(said, str | None):
        raise InputError(f"{file}: chat_template={short(said)} will not do: it is to be a text")
    return said or ""


def _bert(tokenizer: Tokenizer, backend: Backend) -> dict[str, Any]:
    """Return the facts of a BERT's tokenizer; `backend` is made to put its marks around texts."""
    ids = {kind: getattr(tokenizer, kind) for kind in ("unk", "sep", "pad", "cls", "mask")}
    facts: dict[str, Any] = {f"{kind}_token": tokenizer.token(i) for kind, i in ids.items() if i is not None}
    if tokenizer.frame != ((tokenizer.cls,), (tokenizer.sep,), (tokenizer.sep,)):
        return facts  # its own template puts others around texts

    assert tokenizer.cls is not None and tokenizer.sep is not None
    cls, sep = facts["cls_token"], facts["sep_token"]
    backend.post_processor = TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, tokenizer.cls), (sep, tokenizer.sep)],
    )  # fmt: skip

    options, normal = json.loads(tokenizer.json())["model"], backend.normalizer
    if (
        is_bert_like(backend)
        and isinstance(normal, normalizers.BertNormalizer)
        and normal.clean_text
        and all(options.get(key) == usual for key, usual in WORD_PIECE.items())
        and None not in ids.values()
    ):
        facts |= {
            "tokenizer_class": "BertTokenizer", "do_lower_case": normal.lowercase,
            "strip_accents": normal.strip_accents, "tokenize_chinese_chars": normal.handle_chinese_chars,
        }  # fmt: skip
    return facts


def _gpt(tokenizer: Tokenizer, backend: Backend) -> dict[str, Any]:
    """Return the facts of a GPT's tokenizer, which has one special token."""
    assert tokenizer.eod is not None
    end = tokenizer.token(tokenizer.eod)
    facts: dict[str, Any] = {"bos_token": end, "eos_token": end, "unk_token": end}
    options = json.loads(tokenizer.json())["model"]
    if options["type"] == "BPE" and not any(map(options.get, BYTE_PAIRS)) and is_gpt2_like(backend):
        facts |= {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False}
    return facts

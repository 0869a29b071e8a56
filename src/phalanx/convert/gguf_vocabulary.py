"""A run's tokenizer as facts of a GGUF file: byte-level BPE, or BPE of sentencepiece's kind."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from phalanx.convert.gguf_tokenizer import ENDS, KEY, PRE, ROLES, TEMPLATE, Pre
from phalanx.convert.huggingface import Outgoing
from phalanx.data.sentencepiece import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED
from phalanx.errors import InputError

_OPTIONS = {"continuing_subword_prefix": "", "end_of_word_suffix": "", "dropout": None}
_LAST = -1e6  # the score of a piece that no merge makes


def tokenizer_facts(outgoing: Outgoing, rows: int) -> dict[str, Any]:
    """Return the facts of a tokenizer, and of what it makes of conversations, for a model whose vocabulary has `rows`.
    InputError for a tokenizer that llama.cpp has not.
    """
    content = json.loads(outgoing.tokenizer.json())
    model = content["model"]
    if model["type"] != "BPE" or any(model.get(key) not in (usual, None) for key, usual in _OPTIONS.items()):
        raise InputError(f"its tokenizer, a {model['type']}, has no name in GGUF; BPE has, over bytes or as Llama 2's")

    ids = {**model["vocab"], **{token["content"]: token["id"] for token in content["added_tokens"]}}
    names = [f"[PAD{i}]" for i in range(rows)]
    for name, i in ids.items():
        names[i] = name

    merges = [each.split(" ") if isinstance(each, str) else each for each in model["merges"]]
    if model.get("byte_fallback"):
        own: dict[str, Any] = {"model": "llama", "scores": _scores(names, merges), **_spaces(content)}
    else:
        own = {"model": "gpt2", "pre": _pre(content), "merges": [" ".join(pair) for pair in merges]}
    own |= {"tokens": names, "token_type": _types(content, ids, names), **_special(outgoing, ids)}
    facts = {KEY + key: value for key, value in own.items() if value != []}
    return facts | ({TEMPLATE: outgoing.template} if outgoing.template else {})


def _types(content: Mapping[str, Any], ids: Mapping[str, int], names: Sequence[str]) -> list[int]:
    """Return the types of the tokens with these names, of which those without an id are padding."""
    model, fallback = content["model"], content["model"].get("byte_fallback")
    types = [NORMAL if name in ids else UNUSED for name in names]
    for token in content["added_tokens"]:
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    for i, name in enumerate(names) if fallback else ():
        if re.fullmatch(r"<0x[0-9A-F]{2}>", name):
            types[i] = BYTE
        elif name == model.get("unk_token"):
            types[i] = UNKNOWN
    return types


def _special(outgoing: Outgoing, ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the tokens that have a role, and whether they are put around texts. InputError for a template that puts
    others there than one to begin with and one to end with.
    """
    tokenizer = outgoing.tokenizer
    around, first = tokenizer.around, tokenizer.begin
    last = [ids[name] for name in around[len(first) :]]
    if len(first) > 1 or len(last) > 1:
        raise InputError(f"its tokenizer puts {', '.join(around)} around a text; GGUF knows one token on either side")

    own = [] if tokenizer.eod is None else [tokenizer.eod]
    ends = dict(zip(ENDS, dict.fromkeys([*last, *(outgoing.ends or own)]), strict=False))
    bos = next((token for token in (*first, outgoing.begin, *own) if token is not None), None)
    tokens = {"bos": bos, **ends, ROLES["unk"]: tokenizer.unk, ROLES["pad"]: tokenizer.pad}
    facts: dict[str, Any] = {f"{role}_token_id": token for role, token in tokens.items() if token is not None}
    return facts | {"add_bos_token": bool(first), "add_eos_token": bool(last)}


def _pre(content: Mapping[str, Any]) -> str:
    """Return the name of the way in which words are cut. InputError for one that has no name there."""
    words, normal = content["pre_tokenizer"] or {}, content["normalizer"]
    steps = words["pretokenizers"] if words.get("type") == "Sequence" else [words]
    pattern, digits = "", False
    for step in steps:
        match step:
            case {"type": "Digits", "individual_digits": True}:
                digits = True
            case {"type": "Split", "pattern": {"Regex": str(regex)}} if _isolates(step) and not pattern and not digits:
                pattern = regex
            case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": bool(usual)} if usual != bool(pattern):
                pass
            case _:
                pattern = "?"  # which has no name

    known = normal in (None, {"type": "NFC"})
    found = Pre(pattern, digits, bool(content["model"].get("ignore_merges")), composed=normal is not None)
    for name, pre in PRE.items():
        if known and pre._replace(begins=False) == found and steps[-1].get("type") == "ByteLevel":
            return name
    raise InputError(f"its tokenizer cuts words in a way that has no name in GGUF; {', '.join(PRE)} have one")


def _isolates(split: Mapping[str, Any]) -> bool:
    """Return whether each match becomes a word: also where what is no match would be left out, which is nothing."""
    return (split["behavior"], split["invert"]) in (("Isolated", False), ("Removed", True))


def _spaces(content: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether sentencepiece's mark of a space is put before a text. InputError for other changes of texts."""
    normal, words = content["normalizer"], content["pre_tokenizer"]
    steps = normal["normalizers"] if normal and normal["type"] == "Sequence" else [normal] if normal else []
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if words and words["type"] == "Metaspace" and not words.get("split", True) and not steps:
        return {"add_space_prefix": words["prepend_scheme"] != "never"}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    before = steps[:-1]
    marked = before in ([], [{"type": "Prepend", "prepend": SPACE}])
    if steps[-1:] == [replace] and marked and words in (None, split):  # no space is left to split at
        return {"add_space_prefix": bool(before)}
    raise InputError("its tokenizer changes texts in a way that GGUF's llama does not")


def _scores(names: Sequence[str], merges: Sequence[Sequence[str]]) -> list[float]:
    """Return the scores of pieces: of two pairs that one with the better piece is merged first."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(merges, 1):
        ranks.setdefault("".join(pair), rank)
    return [-float(ranks[name]) if name in ranks else _LAST for name in names]

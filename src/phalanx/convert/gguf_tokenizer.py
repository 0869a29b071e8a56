"""The tokenizer of a GGUF file as the files of a Hugging Face folder: byte-level BPE, or sentencepiece's as BPE."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from phalanx.data.pretokens import LLAMA3, QWEN2, TEKKEN
from phalanx.data.sentencepiece import NORMAL, UNKNOWN, UNUSED, add_pieces, score_bpe, surfaced
from phalanx.data.template import put_around
from phalanx.errors import InputError
from phalanx.foreign import reading, short

KEY = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # by Hugging Face's name
ENDS = ("eos", "eot", "eom")  # what ends a text: of all, of a turn, of a message


class Pre(NamedTuple):
    """How texts are cut into words before pairs are merged: by GPT-2's pattern where `pattern` is "", after each digit
    was set apart if `digits`. Words that are tokens stay whole if `whole`; texts begin with a token if `begins` and the
    file does not say; `composed` are letters with their marks (NFC).
    """

    pattern: str = ""
    digits: bool = False
    whole: bool = False
    begins: bool = False
    composed: bool = False


# By the name that a file has for it (tokenizer.ggml.pre); of several names the first is written.
PRE = {
    "gpt-2": Pre(),
    "smollm": Pre(digits=True),
    "llama-bpe": Pre(LLAMA3, whole=True, begins=True),
    "dbrx": Pre(LLAMA3),
    "qwen2": Pre(QWEN2, composed=True),
    "stablelm2": Pre(QWEN2),
    "tekken": Pre(TEKKEN, whole=True, begins=True),
}
PRE |= {
    "olmo": PRE["gpt-2"], "phi-2": PRE["gpt-2"], "starcoder": PRE["smollm"], "refact": PRE["smollm"],
    "command-r": PRE["smollm"], "codeshell": PRE["smollm"], "llama3": PRE["llama-bpe"], "llama-v3": PRE["llama-bpe"],
    "smaug-bpe": PRE["dbrx"], "deepseek-r1-qwen": PRE["qwen2"],
}  # fmt: skip


def tokenizer_files(path: Path, facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the contents of tokenizer.json and tokenizer_config.json by the facts of the file `path`. InputError for a
    tokenizer that is damaged or not known here.
    """
    pieces = _Pieces.of(path, facts)
    kind = facts.get(f"{KEY}model")
    if kind == "gpt2":
        backend, begins = _byte_level(path, facts, pieces)
    elif kind == "llama":
        backend, begins = _sentencepiece(path, facts, pieces), True
    else:
        raise InputError(f"{path}: {KEY}model={short(kind)} is not known here; gpt2 and llama are")

    add_pieces(backend, pieces.names, pieces.types)
    _surround(backend, path, facts, pieces, begins)

    tokens = {role: pieces.role(path, facts, there) for role, there in ROLES.items()}
    config: dict[str, Any] = {f"{role}_token": name for role, name in tokens.items() if name is not None}
    if isinstance(template := facts.get(TEMPLATE), str):
        config["chat_template"] = template
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    return {"tokenizer.json": backend.to_str(), "tokenizer_config.json": json.dumps(config)}


def special_facts(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tokens that begin and end texts, as config.json has them. InputError for what are no tokens."""
    names = {role: f"{KEY}{role}_token_id" for role in ("bos", *ENDS)}
    tokens = {role: facts[key] for role, key in names.items() if key in facts}
    if odd := [role for role, token in tokens.items() if type(token) is not int]:
        raise InputError(f"{path}: {names[odd[0]]}={short(tokens[odd[0]])} will not do: it is to be a token's number")
    ends = [*dict.fromkeys(tokens[role] for role in ENDS if role in tokens)]
    return ({"bos_token_id": tokens["bos"]} if "bos" in tokens else {}) | ({"eos_token_id": ends} if ends else {})


class _Pieces(NamedTuple):
    """The tokens by their ids, without those behind the last that a text can have, and the type of each."""

    names: list[str]
    types: list[int]

    @classmethod
    def of(cls, path: Path, facts: Mapping[str, Any]) -> "_Pieces":
        """Return the tokens of a file. InputError where there are none, or two of one name."""
        names = facts.get(f"{KEY}tokens")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise InputError(f"{path} has no {KEY}tokens, a list of texts")
        types = facts.get(f"{KEY}token_type", [NORMAL] * len(names))
        if not isinstance(types, list) or len(types) != len(names):
            raise InputError(f"{path}: {KEY}token_type is no list of as many numbers as there are tokens")

        last = max((i for i, each in enumerate(types) if each != UNUSED), default=-1) + 1
        if len(set(names[:last])) != last:
            raise InputError(f"{path}: {KEY}tokens has a token twice")
        return cls(names[:last], types[:last])

    def vocabulary(self) -> dict[str, int]:
        """Return the ids by token."""
        return {name: i for i, name in enumerate(self.names)}

    def role(self, path: Path, facts: Mapping[str, Any], role: str) -> str | None:
        """Return the token that has a role there, such as "bos". InputError for what is no token's id."""
        key = f"{KEY}{role}_token_id"
        if (token := facts.get(key)) is None:
            return None
        if type(token) is not int or not 0 <= token < len(self.names):
            raise InputError(f"{path}: {key}={short(token)} will not do: the tokens are 0 to {len(self.names) - 1}")
        return self.names[token]


def _byte_level(path: Path, facts: Mapping[str, Any], pieces: _Pieces) -> tuple[Backend, bool]:
    """Return the byte-level BPE of a file, and whether its texts begin with a token where the file does not say."""
    name, merges = facts.get(f"{KEY}pre"), facts.get(f"{KEY}merges")
    if not isinstance(name, str) or name not in PRE:
        raise InputError(f"{path}: {KEY}pre={short(name)} is not known here; {', '.join(PRE)} are")
    if not isinstance(merges, list) or not all(isinstance(each, str) for each in merges):
        raise InputError(f"{path} has no {KEY}merges, a list of texts")
    pairs = [each.partition(" ")[::2] for each in merges]

    pre = PRE[name]
    with reading(path):
        backend = Backend(models.BPE(pieces.vocabulary(), pairs, ignore_merges=pre.whole))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if pre.digits else []
    if pre.pattern:
        steps.append(pre_tokenizers.Split(Regex(pre.pattern), "isolated"))
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pre.pattern)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, words]) if steps else words
    if pre.composed:
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend, pre.begins


def _sentencepiece(path: Path, facts: Mapping[str, Any], pieces: _Pieces) -> Backend:
    """Return the tokenizer of sentencepiece's kind BPE: pieces with scores, of which the best pair is merged first, and
    bytes for letters that are no piece.
    """
    scores = facts.get(f"{KEY}scores")
    numbers = isinstance(scores, list) and all(isinstance(each, float) for each in scores)
    if not numbers or not isinstance(scores, list) or len(scores) < len(pieces.names):
        raise InputError(f"{path} has no {KEY}scores, a list of a number a token")

    unknown = pieces.role(path, facts, "unknown") or next(
        (name for name, each in zip(pieces.names, pieces.types, strict=True) if each == UNKNOWN), None
    )
    with reading(path):
        backend = Backend(score_bpe(pieces.names, pieces.types, scores, unknown))
    return surfaced(backend, bool(facts.get(f"{KEY}add_space_prefix", True)))


def _surround(backend: Backend, path: Path, facts: Mapping[str, Any], pieces: _Pieces, begins: bool) -> None:
    """Let the tokenizer put the tokens around a text that the file says."""
    usual = {"bos": begins, "eos": False}
    named = {role: pieces.role(path, facts, role) for role in usual}
    begin, end = (named[role] if facts.get(f"{KEY}add_{role}_token", usual[role]) else None for role in usual)
    if begin is not None or end is not None:
        with reading(path):
            put_around(backend, begin, end)

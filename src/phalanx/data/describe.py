"""What a tokenizer is, in lines for a terminal."""

import json
from collections.abc import Iterator
from typing import Any

from phalanx.data.pretokens import GPT2, GPT4O, KNOWN, LLAMA3, QWEN2, SMOLLM, TEKKEN, pretokens
from phalanx.data.tokenize import Tokenizer

PATTERNS = {
    LLAMA3: "Llama 3's pattern (digits by three)", QWEN2: "Qwen's pattern (each digit)",
    GPT4O: "GPT-4o's pattern (words end before capitals, digits by three)",
    TEKKEN: "Mistral Nemo's pattern (words end before capitals, each digit)",
}  # fmt: skip
LONGEST = 120  # characters of a pattern that is not known


def describe(tokenizer: Tokenizer, text: str = "") -> Iterator[str]:
    """Yield lines that say a tokenizer's kind and size, how it cuts texts, its special tokens, and the tokens of `text`
    where there is one.
    """
    facts = json.loads(tokenizer.json())
    yield f"{tokenizer.name}: {_kind(facts)}, {tokenizer.vocab:,} tokens"
    yield f"  cut by            {_cut(facts['pre_tokenizer'])}"
    yield f"  normalised        {_parts(facts['normalizer'], 'normalizers')}"
    yield f"  in bulk           {'the fast path (tiktoken)' if tokenizer.frees_lock else 'the tokenizers library'}"
    yield ""

    end = tokenizer.document_end
    told = ", ".join(end.candidates)
    yield f"  begins texts      {_named(tokenizer, *tokenizer.begin)}"
    yield f"  ends a document   {f'not told: {told}' if told else _named(tokenizer, tokenizer.eod)}"
    yield f"  ends generation   {_named(tokenizer, *tokenizer.ends)}"
    for role in ("cls", "sep", "pad", "mask", "unk"):
        if (token := getattr(tokenizer, role)) is not None:
            yield f"  {role:<17} {_named(tokenizer, token)}"
    special = [entry["special"] for entry in facts["added_tokens"]]
    yield f"  added tokens      {len(special)}, {sum(special)} of them special: names of these in a text are plain text"

    if text:
        yield ""
        yield from (f"  {i:>7}  {tokenizer.token(i)}" for i in tokenizer.encode(text))


def _kind(facts: dict[str, Any]) -> str:
    model = facts["model"]
    kind = {"BPE": "BPE", "Unigram": "unigram", "WordPiece": "WordPiece"}.get(model["type"], model["type"])
    if model.get("byte_fallback"):
        return f"{kind} with bytes for unknown characters"
    return f"byte-level {kind}" if "ByteLevel" in json.dumps(facts["pre_tokenizer"]) else kind


def _cut(words: Any) -> str:
    known = pretokens(words)
    if known == SMOLLM:
        return "GPT-2's pattern, each digit apart"
    if known is not None:
        return "GPT-2's pattern" if known == GPT2 else next(PATTERNS[key] for key in KNOWN if KNOWN[key] == known)
    parts = words.get("pretokenizers", [words]) if words else []
    patterns = [_short(part["pattern"]) for part in parts if "pattern" in part]
    return ", ".join(patterns) or _parts(words, "pretokenizers")


def _short(pattern: dict[str, str]) -> str:
    written = " ".join(map(repr, pattern.values()))
    return written if len(written) <= LONGEST else f"{written[:LONGEST]}…"


def _parts(facts: Any, several: str) -> str:
    parts = facts.get(several, [facts]) if facts else []
    return ", ".join(part["type"] for part in parts) or "nothing"


def _named(tokenizer: Tokenizer, *ids: int | None) -> str:
    return ", ".join(f"{tokenizer.token(i)} ({i})" for i in ids if i is not None) or "none"

"""A tokenizer.model gives the ids that sentencepiece gives, and those of transformers; tiktoken's those of tiktoken."""

import base64
import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiktoken
from transformers import LlamaTokenizer

from phalanx.data import sentencepiece as reader
from phalanx.data.pretokens import LLAMA3
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.errors import InputError
from tests.data.families import llama3, novel, strings

PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
LLAMA = {"model_type": "bpe", "vocab_size": 700, "byte_fallback": True, "split_digits": True, **PLAIN}
KINDS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "no prefix": {**LLAMA, "add_dummy_prefix": False},
    "bpe without bytes": {"model_type": "bpe", "vocab_size": 600, **PLAIN},
    "unigram": {"model_type": "unigram", "vocab_size": 500, **PLAIN},
    "unigram with bytes": {"model_type": "unigram", "vocab_size": 700, "byte_fallback": True, **PLAIN},
    "normalised": {"model_type": "unigram", "vocab_size": 500},
}


def learned(**options: Any) -> bytes:
    """A model of sentencepiece's, learned in a moment."""
    out = io.BytesIO()
    lines = (line.strip() for line in novel()[:1500])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=out, minloglevel=2, num_threads=1, hard_vocab_limit=False, **options
    )
    return out.getvalue()


def texts(kind: str = "llama") -> list[str]:
    """Without what means more to sentencepiece (NUL, and its own mark for a blank) and what it does otherwise than the
    library: names of control pieces in unigram, marks that combine where characters are replaced.
    """
    found = [text for text in strings(1000) if not {"\0", "▁"} & {*text}]
    if "unigram" in KINDS[kind].values():
        found = [text.replace("<s>", "").replace("</s>", "") for text in found]
    if kind == "normalised":
        found = [unicodedata.normalize("NFKC", text) for text in found]
        found = ["".join(c for c in text if unicodedata.category(c)[0] not in "MC") for text in found]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_sentencepiece(kind: str, tmp_path: Path) -> None:
    content = learned(**KINDS[kind])
    (tmp_path / "tokenizer.model").write_bytes(content)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=content)
    ours = load_tokenizer(str(tmp_path))
    assert ours.vocab == theirs.vocab_size() and (ours.eod, ours.unk) == (2, 0)
    assert ours.begin == ([1] if KINDS[kind]["model_type"] == "bpe" else [])
    tried = texts(kind)
    for text, ids in zip(tried, theirs.encode(tried), strict=True):
        assert ours.encode(text) == ids, repr(text)
    assert ours.decode(ours.encode("Hello  world")) == theirs.decode(theirs.encode("Hello  world"))
    ours.save(tmp_path / "tokenizer.json")
    assert load_tokenizer(str(tmp_path / "tokenizer.json")).json() == ours.json()


def test_ids_are_those_of_transformers(tmp_path: Path) -> None:
    """Where there is no tokenizer.json `add_bos_token` and `add_eos_token` say what stands around a prompt."""
    (tmp_path / "tokenizer.model").write_bytes(learned(**LLAMA, user_defined_symbols=["<mine>"]))
    for facts in {"add_bos_token": True}, {"add_bos_token": False}, {"add_bos_token": True, "add_eos_token": True}:
        config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", **facts}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        ours, theirs = load_tokenizer(str(tmp_path)).for_prompts(), LlamaTokenizer.from_pretrained(tmp_path)
        for text in ("Hello world", "The cat  sat\n on 123 é日", "a<mine>b"[:1], "x y"):
            assert ours.encode_prompt(text) == theirs(text)["input_ids"], (facts, text)
    assert ours.for_prompts().encode("a<mine>").count(ours._backend.token_to_id("<mine>")) == 1


def test_ids_are_those_of_tiktoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a list of ranks, as Llama 3's own tokenizer.model is."""
    ranks = {
        bytes(reader.byte_letters()[letter] for letter in token): i
        for token, i in Tokenizer(llama3(), "")._backend.get_vocab(with_added_tokens=False).items()
    }
    file = tmp_path / "tokenizer.model"
    file.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(token), i) for token, i in ranks.items()))
    with pytest.raises(InputError, match=r"1,202 ranks of tiktoken but not how texts are cut.*tokenizer\.json beside"):
        load_tokenizer(str(tmp_path))
    monkeypatch.setattr(reader, "LLAMA3_RANKS", len(ranks))
    theirs = tiktoken.Encoding("llama", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens={})
    ours = load_tokenizer(str(tmp_path))
    for text in texts()[:400]:
        assert ours.encode(text) == theirs.encode(text, disallowed_special=()), repr(text)
    names = [ours.token(len(ranks) + i) for i in (0, 1, 5, 6, 7, 8, 9, 10, 255)]
    assert [name.strip("<|>") for name in names] == [
        "begin_of_text", "end_of_text", "reserved_special_token_3", "start_header_id", "end_header_id",
        "reserved_special_token_4", "eot_id", "reserved_special_token_5", "reserved_special_token_250",
    ]  # fmt: skip
    assert (ours.begin, ours.eod, ours.vocab) == ([len(ranks)], len(ranks) + 1, len(ranks) + 256)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, b"hello world, no model"])
def test_what_is_no_model_is_told(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(damage)
    with pytest.raises(InputError, match=r"tokenizer\.model"):
        load_tokenizer(str(tmp_path))


def test_a_model_that_was_cut_or_is_of_another_kind_is_told(tmp_path: Path) -> None:
    content = learned(**LLAMA)
    for size in range(1, len(content), 97):
        (tmp_path / "tokenizer.model").write_bytes(content[:size])
        with pytest.raises(InputError, match=r"tokenizer\.model"):
            load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.model").write_bytes(learned(model_type="char", vocab_size=60))
    with pytest.raises(InputError, match="kind 4 is not known here; unigram and bpe are"):
        load_tokenizer(str(tmp_path))

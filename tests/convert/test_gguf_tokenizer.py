"""Tokenizers of GGUF files: byte-level BPE cut into words in each way that has a name, and sentencepiece's pieces."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend

from phalanx.convert.gguf_file import GgufFile
from phalanx.convert.gguf_tokenizer import KEY, PRE, special_facts, tokenizer_files
from phalanx.convert.gguf_vocabulary import tokenizer_facts
from phalanx.convert.huggingface import Outgoing
from phalanx.data.fastpath import byte_letters
from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError
from tests.convert.folders import tokenizer_of

FILE = Path("some.gguf")
SPECIAL = ["<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = ["▁", "t", "h", "e", "a", "th", "he", "the", "▁the", "▁t", "▁a"]
SCORES = {"th": -1.0, "▁t": -2.0, "the": -3.0, "▁the": -4.0, "he": -5.0, "▁a": -6.0}
SPM: dict[str, Any] = {
    "model": "llama", "tokens": ["<unk>", *SPECIAL, *BYTES, *PIECES, "<mask>"],
    "token_type": [2, 3, 3, *[6] * 256, *[1] * len(PIECES), 4],
    "scores": [*[0.0] * 259, *(SCORES.get(piece, -99.0) for piece in PIECES), 0.0],
    "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0,
}  # fmt: skip


def read(facts: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a file's facts make."""
    files = tokenizer_files(FILE, {KEY + key: value for key, value in facts.items()})
    return Tokenizer(Backend.from_str(files["tokenizer.json"]), "read", named=True)


def written(tokenizer: Tokenizer, rows: int = 0) -> dict[str, Any]:
    """The facts that a tokenizer makes, without their common beginning."""
    nothing: Any = None
    facts = tokenizer_facts(Outgoing({}, nothing, nothing, tokenizer, None, (), ""), rows or tokenizer.vocab)
    return {key.removeprefix(KEY): value for key, value in facts.items()}


def test_gpt2s_is_that_of_llama_cpp(data_dir: Path) -> None:
    """On the texts that llama.cpp is tested with."""
    folder = data_dir / "tokenizers" / "ggml"
    tokenizer = read(
        {key.removeprefix(KEY): value for key, value in GgufFile(folder / "ggml-vocab-gpt-2.gguf").facts.items()}
    )
    texts = (folder / "ggml-vocab-gpt-2.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    wanted = (folder / "ggml-vocab-gpt-2.gguf.out").read_text().splitlines()
    assert texts.pop() == ""  # behind the last
    assert [tokenizer.encode(text) for text in texts] == [[*map(int, line.split())] for line in wanted]


@pytest.mark.parametrize("name", PRE)
def test_each_way_to_cut_words_comes_back(name: str) -> None:
    """By the first of its names."""
    tokens = ["<end>", *byte_letters(), "Ġa"]
    facts = {"model": "gpt2", "pre": name, "tokens": tokens, "token_type": [3, *[1] * 257], "merges": ["Ġ a"]}
    tokenizer = read({**facts, "bos_token_id": 0, "eos_token_id": 0})
    back = written(tokenizer, 260)
    assert PRE[back["pre"]] == PRE[name] and [*PRE].index(back["pre"]) <= [*PRE].index(name)
    assert back["tokens"] == [*tokens, "[PAD258]", "[PAD259]"] and back["token_type"][-3:] == [1, 5, 5]
    assert back["add_bos_token"] == PRE[name].begins == (tokenizer.encode_prompt("a")[:1] == [0])
    assert read(back).json() == tokenizer.json()


def test_words_are_cut_as_the_name_says() -> None:
    tokens = ["<end>", *byte_letters(), "12", "Ġ1", "123", "1234"]
    facts = {"model": "gpt2", "tokens": tokens, "merges": ["1 2", "Ġ 1", "12 3", "123 4"]}

    def cut(pre: str, text: str) -> list[str]:
        tokenizer = read({**facts, "pre": pre})
        return [tokenizer.token(i) for i in tokenizer.encode(text)]

    assert cut("gpt-2", "1234") == ["1234"] and cut("gpt-2", " 1") == ["Ġ1"]
    assert cut("smollm", "1234") == cut("qwen2", "1234") == cut("tekken", "1234") == ["1", "2", "3", "4"]
    assert cut("llama-bpe", "1234") == cut("dbrx", "1234") == ["123", "4"]
    assert cut("llama-bpe", " 1") == ["Ġ", "1"]


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces_are_merged_by_their_scores(prefix: bool) -> None:
    """The best pair first; a letter that is no piece is its bytes; texts begin with a token, and maybe with a space."""
    tokenizer = read({**SPM, "add_space_prefix": prefix})

    def cut(text: str) -> list[str]:
        return [tokenizer.token(i) for i in tokenizer.encode_prompt(text)]

    first = "▁the" if prefix else "the"
    assert cut("the the") == ["<s>", first, "▁the"]
    assert cut("he a") == ["<s>", *(["▁", "he"] if prefix else ["he"]), "▁a"]
    assert cut("é")[-2:] == ["<0xC3>", "<0xA9>"] and tokenizer.decode(tokenizer.encode("the é a")) == "the é a"
    assert "<mask>" in cut("a<mask>")

    back = written(tokenizer)
    assert back["add_space_prefix"] == prefix and back["add_bos_token"] and not back["add_eos_token"]
    assert {key: back[key] for key in SPM if key != "scores"} == {key: SPM[key] for key in SPM if key != "scores"}
    again = read(back)
    for text in ("the the", "he a", "theatheé", " a  the ", "tthhee"):
        assert again.encode_prompt(text) == tokenizer.encode_prompt(text)


def test_all_that_ends_a_text_is_told() -> None:
    """Of all, of a turn, of a message, each once."""
    facts = {f"{KEY}bos_token_id": 1, f"{KEY}eos_token_id": 2, f"{KEY}eot_token_id": 5, f"{KEY}eom_token_id": 2}
    assert special_facts(FILE, facts) == {"bos_token_id": 1, "eos_token_id": [2, 5]}


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match="its tokenizer, a WordPiece, has no name in GGUF"):
        written(tokenizer_of("bert"))
    content = json.loads(tokenizer_of("gpt2").json())
    content["pre_tokenizer"] = {"type": "Whitespace"}
    with pytest.raises(InputError, match="cuts words in a way that has no name in GGUF; gpt-2, smollm"):
        written(Tokenizer(Backend.from_str(json.dumps(content)), "other"))

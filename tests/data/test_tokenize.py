"""Tokenizers: the ids that others publish, on every path, and nothing special out of plain text."""

import json
import lzma
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend

from phalanx.data import words
from phalanx.data.backend import byte_level
from phalanx.data.fastpath import CUT, MARK
from phalanx.data.indexed import IndexedDataset
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.data.vocabulary import Text, train_tokenizer
from phalanx.errors import InputError
from phalanx.registry import TOKENIZERS

NASTY = [
    "",
    " ",
    "\n\n\n a",
    "a\x00b\x85c\u2028d\u3000e\x1cf",
    "e\u0301 é ﬁ ǅ İ ß",
    "naïve café — “quotes” … 日本語 한국어 ไทย العربية 👩‍👩‍👧‍👦🏳️‍🌈",
    "don't I'LL we'Ve 'twas '' 's",
    "<|endoftext|> [MASK] [CLS][SEP] [PAD] [UNK] ##ing ##",
    "x" * 5000 + " " * 5000 + "y",
    "1234567890" * 30,
]


def encode_all(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """The ids of each text, all encoded at once."""
    tokens, lengths = tokenizer.encode_joined(texts)
    return [ids.tolist() for ids in np.split(tokens, np.cumsum(lengths)[:-1])]


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    return load_tokenizer("gpt2")


@pytest.mark.parametrize(("name", "files"), [("gpt2", "gpt-2"), ("bert-uncased", "bert-bge")])
def test_ids_are_the_published_ones(data_dir: Path, name: str, files: str) -> None:
    folder = data_dir / "tokenizers" / "ggml"
    strings = (folder / f"ggml-vocab-{files}.gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = (folder / f"ggml-vocab-{files}.gguf.out").read_text().split("\n")
    expected = [[int(i) for i in line.split()] for line in lines]
    assert len(strings) == len(expected) == 47
    tokenizer = load_tokenizer(name)
    assert [tokenizer.encode(string) for string in strings] == expected
    assert encode_all(tokenizer, strings) == expected


def test_ids_are_those_of_two_other_implementations(data_dir: Path) -> None:
    path = data_dir / "tokenizers" / "expected_ids.jsonl.xz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    records = [json.loads(line) for line in lzma.decompress(path.read_bytes()).splitlines()]
    for name, key in (("gpt2", "gpt2"), ("bert-uncased", "bert_uncased"), ("bert-cased", "bert_cased")):
        ids = encode_all(load_tokenizer(name), [record["text"] for record in records])
        assert ids == [record[key] for record in records]


def test_special_ids_of_the_bundled_tokenizers() -> None:
    gpt2, uncased, cased = map(load_tokenizer, TOKENIZERS)
    assert [gpt2.vocab, uncased.vocab, cased.vocab] == [50_257, 30_522, 28_996] == [*TOKENIZERS.values()]
    assert (gpt2.eod, gpt2.mask, gpt2.pad) == (50_256, None, None)
    assert (uncased.eod, cased.eod) == (None, None)
    for bert in (uncased, cased):
        assert (bert.pad, bert.unk, bert.cls, bert.sep, bert.mask) == (0, 100, 101, 102, 103)


@pytest.mark.slow
def test_fast_path_gives_the_ids_of_the_slow_one(gpt2: Tokenizer) -> None:
    letters = [chr(i) for i in range(0, 0x32000, 3) if not 0xD800 <= i < 0xE000]
    texts = [*NASTY, *(f"a{c}1 {c}{c}!{c} {c}a \n{c}\n {c}" for c in letters)]
    assert gpt2.frees_lock
    for text, fast in zip(texts, encode_all(gpt2, texts), strict=True):
        assert fast == gpt2.encode(text), repr(text)


@pytest.mark.parametrize("name", [*TOKENIZERS])
def test_texts_made_of_oddities_have_the_ids_that_the_library_gives(name: str) -> None:
    """Blanks of every kind in runs, marks of accents, controls, and the marks that the fast path puts between texts."""
    dice = random.Random(0)
    blanks = "\t\n\x0b\x0c\r\x1c\x1f \x85\xa0\u1680\u2000\u200a\u200b\u2028\u202f\u205f\u3000\x00"
    others = [
        "'",
        "s",
        "ll",
        "Σ",
        "ς",
        "İ",
        "é",
        "\u0301",
        "日",
        "ก",
        "٣",
        "½",
        ".",
        "!",
        "\ufffd",
        "\u200d",
        "𝐀",
        "[MASK]",
    ]
    marks = [MARK, CUT, MARK[1:], MARK[:-1], CUT[:-1]]

    def text() -> str:
        kinds = dice.choices([" ", "\n", blanks, others, marks], [3, 2, 3, 9, 0.01], k=dice.randint(0, 30))
        return "".join(dice.choice(kind) * dice.choice([1, 1, 1, 2, 3, 4]) for kind in kinds)

    tokenizer = load_tokenizer(name)
    for _ in range(400):
        texts = [text() for _ in range(dice.randint(1, 4))]
        assert encode_all(tokenizer, texts) == [tokenizer.encode(one) for one in texts], texts


def test_a_text_that_ends_like_a_mark_stays_whole(gpt2: Tokenizer) -> None:
    texts = [MARK[:-1], "b", CUT[:-1], f"a{MARK}"]
    assert encode_all(gpt2, texts) == [gpt2.encode(text) for text in texts]


def test_blanks_without_end_are_encoded_all_the_same(gpt2: Tokenizer) -> None:
    text = " " * 3_000_000 + "x"
    assert gpt2.decode(encode_all(gpt2, [text])[0]) == text


class Counting:
    """A tokenizer of the library that counts what it is asked."""

    def __init__(self, name: str) -> None:
        self.backend = Backend.from_str(load_tokenizer(name).json())
        self.asked: list[int] = []

    def encode_batch_fast(self, texts: list[str], **options: bool) -> list[Any]:
        self.asked.append(len(texts))
        found: list[Any] = self.backend.encode_batch_fast(texts, **options)
        return found


def test_a_word_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counting: Any = Counting("bert-uncased")
    memo = words.Words(counting)
    texts = ["the cat sat on the mat", "the cat\nsaw the mat"] * 100
    for _ in range(3):
        _, lengths = memo.encode(texts)
        assert lengths.tolist() == [6, 5] * 100
    assert counting.asked == [6]
    monkeypatch.setattr(words, "HELD", 20)
    assert memo.encode(["a dog"])[1].tolist() == [2]
    assert memo.encode(texts[:1])[1].tolist() == [6]
    assert counting.asked == [6, 2, 5], "what was forgotten is learned again"


def test_tiktoken_is_not_trusted_with_merges_that_hide_a_token() -> None:
    """Here `abc` can only come from `ab` + `c`, but `b` + `c` comes first: alone, `abc` stays `a` + `bc`."""
    from tokenizers import models, pre_tokenizers

    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "bc", "ab", "abc"]
    merges = [("b", "c"), ("a", "b"), ("ab", "c")]
    backend = byte_level(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer = Tokenizer(backend, "hidden")
    assert not tokenizer.frees_lock
    assert encode_all(tokenizer, ["abc"]) == [[pieces.index("a"), pieces.index("bc")]]


@pytest.mark.parametrize("name", [*TOKENIZERS])
def test_names_of_special_tokens_in_a_text_are_text(name: str) -> None:
    tokenizer = load_tokenizer(name)
    special = {tokenizer.eod, tokenizer.mask, tokenizer.cls, tokenizer.sep, tokenizer.pad} - {None}
    text = "a<|endoftext|>b [MASK] [CLS] [SEP] [PAD]"
    for ids in (tokenizer.encode(text), encode_all(tokenizer, [text])[0]):
        assert not special & set(ids)
    assert special & set(tokenizer.for_prompts().encode(text))


def test_prompts_may_name_special_tokens() -> None:
    tokenizer = load_tokenizer("bert-uncased")
    assert tokenizer.for_prompts().encode("The [MASK] sat.") == [1996, 103, 2938, 1012]


@pytest.mark.parametrize("text", NASTY)
def test_gpt2_decodes_what_it_encoded(gpt2: Tokenizer, text: str) -> None:
    assert gpt2.decode(gpt2.encode(text)) == text


def test_pieces_that_begin_a_word() -> None:
    tokenizer = load_tokenizer("bert-uncased")
    ids = tokenizer.encode("unbelievable embeddings")
    assert tokenizer.starts_word[ids].tolist() == [True, True, False, False, False][: len(ids)]


def test_folders_with_the_original_files(data_dir: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(data_dir / "tokenizers" / "gpt2" / name, tmp_path / name)
    assert load_tokenizer(str(tmp_path)).json() == load_tokenizer("gpt2").json()
    for folder, name in (("bert-base-uncased", "bert-uncased"), ("bert-cased", "bert-cased")):
        tokenizer = load_tokenizer(str(data_dir / "tokenizers" / folder))
        assert tokenizer.json() == load_tokenizer(name).json()


def test_set_made_by_others_decodes_and_encodes_to_the_same_ids(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "fixtures" / "megatron_indexed"
    shutil.copyfile(folder / "gpt2-tiny-vocab.json", tmp_path / "vocab.json")
    shutil.copyfile(folder / "gpt2-tiny-merges.txt", tmp_path / "merges.txt")
    tokenizer = load_tokenizer(str(tmp_path))
    dataset = IndexedDataset(folder / "meg-gpt2-openwebtext_text_document")
    documents = [dataset[i].tolist() for i in range(200)]
    ended = tokenizer.eod is not None and documents[0][-1] == tokenizer.eod
    texts = [document[:-1] if ended else document for document in documents]
    assert encode_all(tokenizer, [tokenizer.decode(ids) for ids in texts]) == texts


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "wordpiece-cased"])
def test_learned_tokenizers(tmp_path: Path, kind: str) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The cat sat on the mat. Naïve cats, they sat and sat!\n" * 50)
    tokenizer = train_tokenizer([str(text)], kind, 320, str(tmp_path / "own.json"))
    again = load_tokenizer(str(tmp_path / "own.json"))
    assert again.json() == tokenizer.json()
    assert again.vocab <= 320
    if kind == "bpe":
        assert again.eod is not None
        assert again.frees_lock
        assert [again.decode(again.encode(string)) for string in NASTY] == NASTY
        assert encode_all(again, NASTY) == [again.encode(string) for string in NASTY]
    else:
        assert again.eod is None
        assert (again.pad, again.unk, again.cls, again.sep, again.mask) == (0, 1, 2, 3, 4)
        assert (again.encode("CAT") == again.encode("cat")) == (kind == "wordpiece")
        assert len(again.encode("sat")) == 1
    with pytest.raises(InputError, match="--force"):
        train_tokenizer([str(text)], kind, 320, str(tmp_path / "own.json"))


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_learning_twice_gives_the_same_tokenizer(tmp_path: Path, kind: str) -> None:
    text = tmp_path / "text.txt"
    rng = np.random.default_rng(0)
    text.write_text(" ".join("".join(chr(97 + i) for i in rng.integers(0, 9, 6)) for _ in range(20_000)))
    first, second = (train_tokenizer([str(text)], kind, 600, str(tmp_path / f"{n}.json")) for n in "ab")
    assert first.json() == second.json()


def test_wrong_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gtp2.*gpt2, bert-uncased"):
        load_tokenizer("gtp2")
    with pytest.raises(InputError, match=r"holds no tokenizer\.json"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(InputError, match="not a tokenizer that can be read"):
            load_tokenizer(str(path))


def test_wrong_wishes_to_learn(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    out = str(tmp_path / "own.json")
    for kind, vocab, message in (
        ("unigram", 400, "bpe, roberta, wordpiece"),
        ("bpe", 100, "give 300 to"),
        ("bpe", 400, "no text"),
    ):
        with pytest.raises(InputError, match=message):
            train_tokenizer([str(tmp_path)], kind, vocab, out)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_files_left_out_of_learning_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """Once, with their number and the first of them. Lines are left out, not the files that they lie in."""
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 " * 20)
    (tmp_path / "b.txt").write_text("the cat sat on the mat " * 20)
    (tmp_path / "c.txt").write_bytes(b"\xff")
    train_tokenizer([str(tmp_path)], kind, 300, str(tmp_path / "t.json"))
    told = capsys.readouterr().err
    assert told.count("2 malformed records left out") == 1 and "a.txt, line 1: not UTF-8 text" in told
    assert told.count("--encoding names another encoding, such as cp1252") == 1
    (tmp_path / "d.txt").write_bytes(b"caf\xe9\nzebra zebra zebra\n\xff\n")
    spared = train_tokenizer([str(tmp_path / "*.txt")], kind, 320, str(tmp_path / "v.json"))
    assert "4 malformed records left out" in capsys.readouterr().err and len(spared.encode("zebra")) == 1
    named = train_tokenizer([str(tmp_path / "a.txt")], kind, 300, str(tmp_path / "w.json"), Text(encoding="cp1252"))
    assert len(named.encode("café")) == 1 and "malformed" not in capsys.readouterr().err
    with pytest.raises(InputError, match=r"no text in 1 input files, 1 malformed .*a\.txt"):
        train_tokenizer([str(tmp_path / "a.txt")], kind, 300, str(tmp_path / "u.json"))
    with pytest.raises(InputError, match="give 300 to 10,000,000"):
        train_tokenizer([str(tmp_path)], kind, 10_000_001, str(tmp_path / "u.json"))


def test_a_text_is_put_in_lower_case_once() -> None:
    """However many special tokens there are whose names it might hold."""

    class Text(str):
        lowered = 0

        def lower(self) -> str:
            self.lowered += 1
            return super().lower()

    text = Text("a plain text")
    load_tokenizer("bert-uncased").for_prompts().encode_joined([text])
    assert text.lowered == 1


def test_a_file_is_read_once_as_long_as_its_bytes_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its content, wherever it lies; each has its own name, and another content is another tokenizer."""
    for name, bundled in ("a", "bert-cased"), ("b", "bert-cased"), ("c", "bert-uncased"):
        load_tokenizer(bundled).save(tmp_path / name)
    first = load_tokenizer(str(tmp_path / "a"))
    with monkeypatch.context() as patch:
        patch.setattr("phalanx.data.tokenize.Backend", None)
        second = load_tokenizer(str(tmp_path / "b"))
    assert (first.name, second.name) == (str(tmp_path / "a"), str(tmp_path / "b")) and first.json() == second.json()

    (tmp_path / "c").replace(tmp_path / "a")
    assert load_tokenizer(str(tmp_path / "a")).json() == load_tokenizer("bert-uncased").json() != first.json()

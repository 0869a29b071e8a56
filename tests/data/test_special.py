"""Special tokens are what the files beside a tokenizer.json say, and what ends a document is told or refused."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend

from phalanx.data.describe import describe
from phalanx.data.indexed import IndexedDataset
from phalanx.data.prepare import PrepareOptions, prepare
from phalanx.data.special import generation_ids
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.errors import InputError
from tests.data.families import llama3, qwen, wordpiece


def folder_of(path: Path, backend: Backend, **files: dict[str, Any]) -> Path:
    """A folder with a tokenizer.json and JSON files beside it, by their names without the ending."""
    path.mkdir(exist_ok=True)
    backend.save(str(path / "tokenizer.json"))
    for name, facts in files.items():
        (path / f"{name}.json").write_text(json.dumps(facts))
    return path


def names(tokenizer: Tokenizer, *ids: int | None) -> list[str | None]:
    return [None if i is None else tokenizer.token(i) for i in ids]


@pytest.mark.parametrize(
    ("special", "eos", "end", "ends"),
    [
        (["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], "<|eot_id|>", "<|end_of_text|>", 2),
        (["<|endoftext|>", "<|im_end|>"], "<|im_end|>", "<|endoftext|>", 2),
        (["<bos>", "<eos>", "<end_of_turn>"], None, "<eos>", 1),
        (["<s>", "</s>", "<pad>", "<mask>"], "</s>", "</s>", 1),
        (["<|endoftext|>", "</s>"], "</s>", "</s>", 1),
        (["<|bos|>", "<|eos|>"], {"content": "<|eos|>", "special": True}, "<|eos|>", 1),
        (["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"], None, "<｜end▁of▁sentence｜>", 1),
    ],
)
def test_what_ends_a_document_is_not_always_what_ends_a_turn(
    tmp_path: Path, special: list[str], eos: Any, end: str, ends: int
) -> None:
    """And a copy of the tokenizer's one file, as runs and prepared sets keep it, says the same."""
    backend = qwen()
    facts = json.loads(backend.to_str())
    facts["added_tokens"] = []
    backend = Backend.from_str(json.dumps(facts))
    backend.add_special_tokens(special)
    folder = folder_of(tmp_path / "hf", backend, tokenizer_config={"eos_token": eos} if eos else {})
    tokenizer = load_tokenizer(str(folder))
    tokenizer.save(tmp_path / "copy.json")
    copy = load_tokenizer(str(tmp_path / "copy.json"))
    for each in tokenizer, copy:
        told = eos["content"] if isinstance(eos, dict) else eos
        assert names(each, each.eod, *each.ends) == [end, *dict.fromkeys([told or end, end])]
        assert (len(each.ends), each.document_end.candidates) == (ends, ())
    assert copy.json() == tokenizer.json() and copy.same_ids(tokenizer)
    for text in tokenizer.json(), backend.to_str():  # sets of before have no roles in theirs
        assert copy.made(sha256(text.encode()).hexdigest())
    assert not copy.made(sha256(b"{}").hexdigest())
    assert Backend.from_file(str(tmp_path / "copy.json")).get_vocab_size() == tokenizer.vocab


def test_added_tokens_that_are_not_special_are_no_marks(tmp_path: Path) -> None:
    """Gemma has <mask>, and <s> and </s> among those of HTML."""
    backend = Backend.from_str(json.dumps(json.loads(qwen().to_str()) | {"added_tokens": []}))
    backend.add_special_tokens(["<eos>", "<pad>"])
    backend.add_tokens(["<mask>", "<s>", "</s>"])
    tokenizer = load_tokenizer(str(folder_of(tmp_path, backend)))
    assert (tokenizer.mask, tokenizer.cls, tokenizer.sep) == (None, None, None)
    assert names(tokenizer, tokenizer.eod, tokenizer.pad) == ["<eos>", "<pad>"]
    (tmp_path / "a.txt").write_text("one")
    prepare([str(tmp_path / "a.txt")], str(tmp_path / "set"), PrepareOptions(str(tmp_path), workers=1))
    assert IndexedDataset(tmp_path / "set")[0][-1] == tokenizer.eod


def test_files_beside_it_tell_roles_in_this_order(tmp_path: Path) -> None:
    backend = qwen()
    backend.add_special_tokens(["<a>", "<b>", "<c>"])
    a, b, c = map(backend.token_to_id, ("<a>", "<b>", "<c>"))
    files: dict[str, Any] = {"config": {"eos_token_id": a, "bos_token_id": a}}
    folder = folder_of(tmp_path, backend, **files)
    assert generation_ids(folder, "eos", (), 9999) == (a,)
    folder_of(tmp_path, backend, special_tokens_map={"eos_token": "<b>", "pad_token": "<c>", "mask_token": "<b>"})
    tokenizer = load_tokenizer(str(folder))
    assert names(tokenizer, tokenizer.eos, tokenizer.pad, tokenizer.mask) == ["<b>", "<c>", "<b>"]
    assert generation_ids(folder, "eos", (b,), 9999) == (b,)
    folder_of(tmp_path, backend, tokenizer_config={"eos_token": {"content": "<c>"}, "pad_token": None})
    tokenizer = load_tokenizer(str(folder))
    assert names(tokenizer, tokenizer.eos, tokenizer.pad) == ["<c>", "<c>"]
    folder_of(tmp_path, backend, generation_config={"eos_token_id": [c, a, 99_999], "bos_token_id": b})
    assert generation_ids(folder, "eos", (b,), 9999) == (c, a)
    assert generation_ids(folder, "bos", (), 9999) == (b,)


def test_tokens_that_only_the_config_names_are_added(tmp_path: Path) -> None:
    backend = qwen()
    n = backend.get_vocab_size()
    listed = {str(n): {"content": "<x>", "special": True}, str(n + 1): {"content": "<y>", "normalized": False}}
    folder = folder_of(tmp_path, backend, tokenizer_config={"added_tokens_decoder": listed})
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.vocab == n + 2 and tokenizer.for_prompts().encode("<x><y>") == [n, n + 1]
    assert tokenizer.encode("<y>") == [n + 1] and n not in tokenizer.encode("<x>")
    assert tokenizer.frees_lock and tokenizer.encode_joined(["a<y>  b"])[0].tolist() == tokenizer.encode("a<y>  b")

    folder_of(tmp_path, backend, tokenizer_config={"added_tokens_decoder": {"7": {"content": "<x>", "special": True}}})
    with pytest.raises(InputError, match=rf"gives '<x>' the number 7, beside its tokenizer\.json it has {n}"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize(
    ("name", "facts", "message"),
    [
        ("tokenizer_config", "[1]", r"tokenizer_config\.json holds no JSON object"),
        ("tokenizer_config", '{"eos_token": 5}', r"tokenizer_config\.json: eos_token=5 will not do: .* token's text"),
        ("special_tokens_map", '{"eos_token": ', r"special_tokens_map\.json cannot be read"),
        ("generation_config", '{"eos_token_id": "x"}', r"generation_config\.json: eos_token_id='x' will not do"),
    ],
)
def test_damaged_files_beside_it_are_told(tmp_path: Path, name: str, facts: str, message: str) -> None:
    backend = Backend.from_str(json.dumps(json.loads(qwen().to_str()) | {"added_tokens": []}))
    folder = folder_of(tmp_path, backend)
    (folder / f"{name}.json").write_text(facts)
    with pytest.raises(InputError, match=message):
        load_tokenizer(str(folder))


def test_prepared_documents_end_as_told_or_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    backend = Backend.from_str(json.dumps(json.loads(qwen().to_str()) | {"added_tokens": []}))
    backend.add_special_tokens(["<|mine|>", "<|yours|>", "<pad>"])
    folder = folder_of(tmp_path / "hf", backend)

    def prepared(out: str, **options: Any) -> list[int]:
        prepare([str(tmp_path / "a.txt")], str(tmp_path / out), PrepareOptions(str(folder), workers=1, **options))
        return [int(i) for i in IndexedDataset(tmp_path / out)[0]]

    with pytest.raises(
        InputError, match=r"which token ends a document: <\|mine\|>, <\|yours\|>; name it as eos_token in"
    ):
        prepared("set")
    plain = load_tokenizer(str(folder)).encode("one")
    assert prepared("bare", append_eod=False) == plain
    folder_of(folder, backend, tokenizer_config={"eos_token": "<|mine|>"})
    assert prepared("set") == [*plain, backend.token_to_id("<|mine|>")]
    kept = load_tokenizer(str(tmp_path / "set.tokenizer.json"))
    assert kept.eod == backend.token_to_id("<|mine|>")

    backend.add_special_tokens(["<|endoftext|>", "</s>"])
    folder_of(folder, backend, tokenizer_config={})
    with pytest.raises(InputError, match=r"ends a document: <\|endoftext\|>, </s>; name it"):
        prepared("both")
    wordpiece().save(str(folder / "tokenizer.json"))  # BERT has no such token
    assert prepared("bert")


def test_a_text_that_begins_already_is_not_begun_again(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(folder_of(tmp_path, llama3()))).for_prompts()
    (begin,), plain = tokenizer.begin, tokenizer.encode("Hello")
    assert tokenizer.encode_prompt("Hello") == tokenizer.encode_prompt("<|begin_of_text|>Hello") == [begin, *plain]
    assert tokenizer.encode_prompt("<|begin_of_text|>") == tokenizer.encode_prompt("") == [begin]
    twice = "<|begin_of_text|>" * 2
    assert tokenizer.encode_prompt(twice) == [begin, begin], "what is asked for stays"


def test_a_config_does_not_change_what_a_tokenizer_json_puts_around_a_text(tmp_path: Path) -> None:
    """As in transformers."""
    facts = {"bos_token": "<|begin_of_text|>", "add_bos_token": False}
    assert load_tokenizer(str(folder_of(tmp_path, llama3(), tokenizer_config=facts))).begin
    facts = {"bos_token": "<|endoftext|>", "add_bos_token": True}
    assert not load_tokenizer(str(folder_of(tmp_path, qwen(), tokenizer_config=facts))).begin


def test_a_tokenizer_is_described(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, llama3(), tokenizer_config={"eos_token": "<|eot_id|>"})
    told = "\n".join(describe(load_tokenizer(str(folder)), "1234"))
    for line in (
        f"{folder}: byte-level BPE, 1,205 tokens",
        "  cut by            Llama 3's pattern (digits by three)",
        "  in bulk           the fast path (tiktoken)",
        "  begins texts      <|begin_of_text|> (1202)",
        "  ends a document   <|end_of_text|> (1203)",
        "  ends generation   <|eot_id|> (1204), <|end_of_text|> (1203)",
    ):
        assert line in told.splitlines()
    assert told.splitlines()[-1].split()[1] == "4", "digits by three"

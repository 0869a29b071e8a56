"""`prepare`: Megatron's bytes, whatever the workers and interruptions; nothing lost, nothing replaced unasked."""

import gc
import hashlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
import zstandard
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from phalanx.cli.app import app
from phalanx.data.chunks import CHUNK
from phalanx.data.indexed import IndexedDataset, IndexedWriter
from phalanx.data.journal import journal_path
from phalanx.data.manifest import Manifest, checksum
from phalanx.data.prepare import PrepareOptions, prepare
from phalanx.data.sentences import split_sentences
from phalanx.data.tokenize import load_tokenizer
from phalanx.errors import InputError
from tests.data.children import killed, with_workers
from tests.train.processes import start

GPT = PrepareOptions(workers=2)
BERT = PrepareOptions(tokenizer="bert-uncased", sentences=True, workers=2)

CHILD = """
import pathlib, sys
from phalanx.data import prepare

if __name__ == "__main__":
    prepare.prepare([sys.argv[1]], sys.argv[2], prepare.PrepareOptions(workers=2))
    print(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def children(parent: int) -> list[int]:
    """The processes that encode for another."""
    found = subprocess.run(
        ["pgrep", "-P", str(parent), "-f", "spawn_main"], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def words(count: int, seed: int = 0) -> str:
    """Something like English, of `count` lines."""
    rng = np.random.default_rng(seed)
    stock = [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "Naïve",
        "unbelievable",
        "日本",
        "stop.",
        "Why?",
        "x1",
        "<|endoftext|>",
    ]
    return "".join(" ".join(stock[i] for i in row) + "\n" for row in rng.integers(0, len(stock), (count, 12)))


def same_set(first: Path, second: Path) -> bool:
    return all(Path(f"{first}{s}").read_bytes() == Path(f"{second}{s}").read_bytes() for s in (".bin", ".idx"))


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if ".partial" in path.name]


def test_wikitext_gives_the_tokens_that_megatron_gives(data_dir: Path, tmp_path: Path) -> None:
    """Megatron's preprocess_data.py made 2,438,063 tokens of these 610 articles with end of text appended."""
    text = (data_dir / "corpora" / "wikitext2" / "train.txt").read_text(encoding="utf-8")
    articles = [part.strip() for part in re.split(r"\n = [^=\n]+ = \n", text)]
    articles = [article for article in articles if len(article) > 100]
    source = tmp_path / "train.jsonl"
    source.write_text("".join(json.dumps({"text": article}) + "\n" for article in articles))
    manifest = prepare([str(source)], str(tmp_path / "set"), GPT)
    assert (manifest.documents, manifest.sequences, manifest.tokens) == (610, 610, 2_438_063)
    assert (tmp_path / "set.bin").stat().st_size == 4_876_126
    assert (tmp_path / "set.idx").stat().st_size == 12_242
    assert manifest.text_bytes == sum(len(article.encode()) for article in articles)


@pytest.mark.parametrize("document", ["file", "line", "blank-line"])
def test_a_chunk_costs_one_call_of_the_tokenizer_and_one_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: str
) -> None:
    """However many documents it holds: counts that a slower way would raise, on any machine."""
    text = "the cat sat on the mat\n\n" * 100_000
    (tmp_path / "a.txt").write_text(text)
    calls = {"encode_to_numpy": 0, "extend": 0}
    for kind, name in ((tiktoken.Encoding, "encode_to_numpy"), (IndexedWriter, "extend")):
        monkeypatch.setattr(kind, name, counted(calls, name, getattr(kind, name)))
    prepare([str(tmp_path / "a.txt")], str(tmp_path / "set"), replace(GPT, document=document))
    chunks = len(text) / CHUNK
    assert calls["extend"] == calls["encode_to_numpy"] <= chunks * 1.1 + 1


def counted(calls: dict[str, int], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        calls[name] += 1
        return function(*arguments, **options)

    return call


def test_documents_end_with_end_of_text_and_hold_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": line}) + "\n" for line in ("one<|endoftext|>", "two"))
    )
    manifest = prepare([str(tmp_path)], str(tmp_path / "set"), GPT)
    dataset, gpt2 = IndexedDataset(tmp_path / "set"), load_tokenizer("gpt2")
    assert [dataset[i].tolist() for i in range(2)] == [[*gpt2.encode(t), 50_256] for t in ("one<|endoftext|>", "two")]
    assert (dataset.tokens == 50_256).sum() == 2
    assert (manifest.eod, manifest.vocab, manifest.append_eod) == (50_256, 50_257, True)
    prepare([str(tmp_path / "a.jsonl")], str(tmp_path / "bare"), replace(GPT, append_eod=False))
    assert 50_256 not in IndexedDataset(tmp_path / "bare").tokens


def test_documents_begin_as_the_template_of_the_tokenizer_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As prompts do, and as Megatron's documents do with Llama's tokenizer: each once, wherever it is cut."""
    backend = Backend.from_str(load_tokenizer("gpt2").json())
    backend.add_special_tokens(["<s>"])
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 50_257)])
    backend.save(str(tmp_path / "llama.json"))
    texts = [words(200, seed) for seed in range(3)]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text)
    for name in ("chunks.CHUNK", "prepare.CHUNK", "prepare.UNCUT"):
        monkeypatch.setattr(f"phalanx.data.{name}", 50)

    options, extend, calls = PrepareOptions(tokenizer=str(tmp_path / "llama.json"), workers=1), IndexedWriter.extend, []

    def third(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        extend(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stop:
        patch.setattr("phalanx.data.prepare.COMMIT_SECONDS", 0)
        patch.setattr(IndexedWriter, "extend", third)
        prepare([str(tmp_path / "*.txt")], str(tmp_path / "set"), options)
    del stop  # its traceback holds the files, and their locks
    calls.clear()
    gc.collect()
    manifest = prepare([str(tmp_path / "*.txt")], str(tmp_path / "set"), options)
    encode, dataset = load_tokenizer("gpt2").encode, IndexedDataset(tmp_path / "set")
    assert [dataset[i].tolist() for i in range(3)] == [[50_257, *encode(text), 50_256] for text in texts]
    assert (manifest.begin, manifest.documents) == ((50_257,), 3)

    prepare([str(tmp_path / "*.txt")], str(tmp_path / "bare"), replace(options, append_eod=False))
    assert [IndexedDataset(tmp_path / "bare")[i].tolist() for i in range(3)] == [encode(text) for text in texts]


def test_sentences_are_sequences_and_documents_are_marked(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Dr. Smith\nsat down. It\nrained!\n\nA new paragraph\n")
    (tmp_path / "b.txt").write_text("Mr. Jones left.")
    manifest = prepare([str(tmp_path)], str(tmp_path / "set"), replace(BERT, workers=1))
    dataset, bert = IndexedDataset(tmp_path / "set"), load_tokenizer("bert-uncased")
    sentences = [bert.decode(dataset[i]) for i in range(len(dataset))]
    assert sentences == ["dr. smith sat down.", "it rained!", "a new paragraph", "mr. jones left."]
    assert dataset.documents.tolist() == [0, 3, 4]
    assert (manifest.sentences, manifest.append_eod, manifest.eod) == (True, False, None)


@pytest.mark.parametrize("options", [GPT, replace(BERT, sentences=False), BERT], ids=["gpt2", "bert", "sentences"])
def test_any_number_of_workers_gives_the_same_bytes(
    tmp_path: Path, options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phalanx.data.chunks.CHUNK", 1 << 14)
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(words(1_000, seed=i))
    for workers in (1, 2):
        out = str(tmp_path / f"set{workers}")
        prepare([str(tmp_path / "*.txt")], out, replace(options, workers=workers))
    assert same_set(tmp_path / "set1", tmp_path / "set2")
    assert Manifest.read(tmp_path / "set1").sha256 == Manifest.read(tmp_path / "set2").sha256


@pytest.mark.parametrize(("document", "suffix"), [("file", ""), ("line", ".zst")])
def test_killed_and_started_again_gives_the_same_bytes(
    tmp_path: Path, document: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = words(4_000).encode() + b"\xff\n" * (document == "line") + words(1_000, 1).encode()
    source = tmp_path / f"a.txt{suffix}"
    source.write_bytes(zstandard.ZstdCompressor().compress(text) if suffix else text)
    options = replace(GPT, document=document)
    prepare([str(source)], str(tmp_path / "whole"), options)
    child = start(killed, source, tmp_path / "set", document, 15)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    before = json.loads(journal_path(str(tmp_path / "set")).read_text())
    assert len(text) / 4 < before["cursor"]["text_bytes"] < len(text) * 0.9
    size = (tmp_path / "whole.bin").stat().st_size // 2
    assert size / 4 < before["position"][0] < size * 0.9
    assert not (tmp_path / "set.manifest.json").exists()
    with pytest.raises(InputError, match="other inputs or options; --force"):
        prepare([str(source)], str(tmp_path / "set"), replace(options, append_eod=False))
    prepare([str(source)], str(tmp_path / "set"), options)
    assert re.search(rf"going on with .* after {before['position'][0]:,} tokens", capsys.readouterr().err)
    assert same_set(tmp_path / "set", tmp_path / "whole")
    first, second = (Manifest.read(tmp_path / name) for name in ("set", "whole"))
    assert (first.text_bytes, first.malformed) == (second.text_bytes, second.malformed)
    assert first.malformed == (document == "line")
    assert not left_over(tmp_path)


def test_memory_does_not_grow_with_the_document(tmp_path: Path) -> None:
    """One document of 40 MB, which is 30 kB packed; held whole with its tokens it would take 330 MB more."""
    block = words(2000).encode()
    source = tmp_path / "a.txt.zst"
    source.write_bytes(zstandard.ZstdCompressor().compress(block * (40_000_000 // len(block))))
    command = [sys.executable, "-c", CHILD, str(source), str(tmp_path / "set")]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) < 250 * 1024  # KiB


def test_a_finished_set_is_used_again_and_never_replaced_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "a.txt", str(tmp_path / "set")
    source.write_text("one two")
    first = prepare([str(source)], out, GPT)
    written = (tmp_path / "set.bin").stat().st_mtime_ns
    assert prepare([str(source)], out, replace(GPT, workers=1)) == first
    assert "reusing it: 1 document, 1 sequence, 3 tokens" in capsys.readouterr().err
    assert (tmp_path / "set.bin").stat().st_mtime_ns == written
    source.write_text("one three")
    with pytest.raises(InputError, match="exists and comes from other inputs or options; --force"):
        prepare([str(source)], out, GPT)
    assert IndexedDataset(out).tokens.tolist() == [505, 734, 50_256]
    prepare([str(source)], out, replace(GPT, force=True))
    assert IndexedDataset(out).tokens.tolist() == [505, 1115, 50_256]


@pytest.mark.parametrize("suffix", [".bin", ".idx", ".tokenizer.json"])
def test_a_set_that_lost_something_is_not_used_again(tmp_path: Path, suffix: str) -> None:
    source, out = tmp_path / "a.txt", str(tmp_path / "set")
    source.write_text("one two")
    prepare([str(source)], out, GPT)
    path = Path(f"{out}{suffix}")
    if suffix != ".tokenizer.json":
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(InputError, match=rf"set\{suffix} has .* bytes, .* were written; .*--force"):
            prepare([str(source)], out, GPT)
    path.unlink()
    with pytest.raises(InputError, match=rf"set\{suffix} .*--force"):
        prepare([str(source)], out, GPT)
    prepare([str(source)], out, replace(GPT, force=True))
    assert prepare([str(source)], out, GPT).tokens == 3


def test_strictness_may_change_from_command_to_command(tmp_path: Path) -> None:
    """A strict preparation that stopped goes on without it; what left records out does not do for a strict one."""
    source, out = tmp_path / "a.jsonl", str(tmp_path / "set")
    source.write_text('{"text": "good"}\nbad\n{"text": "good"}\n')
    strict = replace(GPT, strict=True)
    for _ in range(2):
        with pytest.raises(InputError, match=r"line 2: not JSON.*leave out --strict"):
            prepare([str(source)], out, strict)
    manifest = prepare([str(source)], out, GPT)
    assert (manifest.documents, manifest.malformed) == (2, 1)
    with pytest.raises(InputError, match=r"line 2: not JSON.*leave out --strict"):
        prepare([str(source)], out, strict)
    source.write_text('{"text": "good"}\n')
    assert prepare([str(source)], out, replace(strict, force=True)) == prepare([str(source)], out, GPT)


@pytest.mark.parametrize(("second", "goes_on"), [("b.jsonl", True), ("b.parquet", True), ("b.jsonl.gz", False)])
def test_a_refusal_leaves_only_what_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str, goes_on: bool
) -> None:
    """Tokens that were saved stay, and it is said, where the cause is a malformed line or a package that is not
    installed. They go where a file must change, and so the set.
    """
    sources, out = [str(tmp_path / "a.jsonl"), str(tmp_path / second)], str(tmp_path / "set")
    Path(sources[0]).write_text('{"text": "good"}\n' * 20)
    Path(sources[1]).write_text("bad\n")
    with monkeypatch.context() as patch, pytest.raises(InputError) as refused:
        patch.setattr("phalanx.data.chunks.CHUNK", 1)
        patch.setattr("phalanx.data.prepare.COMMIT_SECONDS", 0)
        patch.setitem(sys.modules, "pyarrow", None)
        prepare(sources, out, replace(GPT, workers=1, strict=True))

    told = f"; 40 tokens of {out} are saved: while its inputs stay the same, the command goes on from there"
    assert str(refused.value).endswith(told) == goes_on == bool(left_over(tmp_path)), str(refused.value)
    if second == "b.jsonl":
        del refused  # its traceback holds the files, and their locks
        gc.collect()
        assert prepare(sources, out, replace(GPT, workers=1)).documents == 20


def test_the_journal_of_a_lax_preparation_does_not_do_for_a_strict_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "a.txt", str(tmp_path / "set")
    source.write_bytes(b"\xff\n" + words(10).encode())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("phalanx.data.prepare.COMMIT_SECONDS", 0)
        patch.setattr(IndexedWriter, "close", interrupted)
        prepare([str(source)], out, replace(GPT, document="line"))
    assert json.loads(journal_path(out).read_text())["cursor"]["malformed"] == 1
    with pytest.raises(InputError, match=r"line 1: not UTF-8 text; --encoding .*; mend it, or leave out --strict"):
        prepare([str(source)], out, replace(GPT, document="line", strict=True))


def test_a_set_inside_its_input_folder_is_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what an interrupted preparation left nor the finished set."""
    (tmp_path / "a.txt").write_text("one two")
    with monkeypatch.context() as patch:
        patch.setattr("phalanx.data.prepare._finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare([str(tmp_path)], str(tmp_path / "set"), GPT)
    assert journal_path(str(tmp_path / "set")).exists()
    for inputs in ([str(tmp_path)], [str(tmp_path / "*")], [str(tmp_path)]):
        assert prepare(inputs, str(tmp_path / "set"), GPT).tokens == 3


def test_the_manifest_tells_everything(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two")
    manifest = prepare([str(tmp_path / "a.txt")], str(tmp_path / "deep" / "set"), GPT)
    assert Manifest.read(tmp_path / "deep" / "set") == manifest
    assert manifest.sources[0].sha256 == hashlib.sha256(b"one two").hexdigest()
    for suffix in ("bin", "idx"):
        assert manifest.sha256[suffix] == checksum(tmp_path / "deep" / f"set.{suffix}")  # type: ignore[index]
    assert load_tokenizer(str(tmp_path / "deep" / "set.tokenizer.json")).json() == load_tokenizer("gpt2").json()
    (tmp_path / "deep" / "set.manifest.json").write_text('{"tokens": "many"}')
    with pytest.raises(InputError, match="damaged"):
        Manifest.read(tmp_path / "deep" / "set")
    with pytest.raises(InputError, match="no finished set"):
        Manifest.read(tmp_path / "other")


def test_malformed_records_are_counted_and_strict_stops_at_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "a.jsonl", str(tmp_path / "set")
    source.write_text('{"text": "good"}\nbad\n{"text": "good"}\n{"txt": ""}\n' + "worse\n" * 20)
    manifest = prepare([str(source)], out, GPT)
    assert (manifest.documents, manifest.malformed, len(manifest.malformed_first)) == (2, 22, 10)
    assert "22 malformed records" in (told := capsys.readouterr().err)
    assert f"{source}, line 2: not JSON" in told
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: not JSON.*leave out --strict"):
        prepare([str(source)], str(tmp_path / "strict"), replace(GPT, strict=True))
    assert not (tmp_path / "strict.bin").exists()


def test_text_in_another_encoding_gives_the_tokens_of_its_utf8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And whoever does not name the encoding is told of the option, with file and line."""
    text = "Größe.\nÀ la carte.\nplain\n"
    (tmp_path / "a.txt").write_text(text, encoding="latin-1")
    (tmp_path / "b.txt").write_text(text)
    line = replace(GPT, document="line", workers=1)
    prepare([str(tmp_path / "b.txt")], str(tmp_path / "right"), line)
    named = prepare([str(tmp_path / "a.txt")], str(tmp_path / "named"), replace(line, encoding="Latin-1"))
    assert same_set(tmp_path / "right", tmp_path / "named") and named.encoding == "iso8859-1"
    with pytest.raises(InputError, match="other inputs or options"):
        prepare([str(tmp_path / "a.txt")], str(tmp_path / "named"), line)
    capsys.readouterr()
    assert prepare([str(tmp_path / "a.txt")], str(tmp_path / "wrong"), line).malformed == 2
    told = capsys.readouterr().err
    assert "a.txt, line 1: not UTF-8 text" in told and told.count("--encoding names another encoding") == 1
    with pytest.raises(InputError, match=r"a\.txt, line 2: not UTF-8 text; --encoding names .*; mend it, or leave out"):
        (tmp_path / "a.txt").write_bytes(b"fine\ncaf\xe9\n")
        prepare([str(tmp_path / "a.txt")], str(tmp_path / "strict"), replace(line, document="file", strict=True))
    with pytest.raises(InputError, match="--encoding utf8000 is not known"):
        prepare([str(tmp_path / "a.txt")], str(tmp_path / "x"), replace(line, encoding="utf8000"))


@pytest.mark.parametrize("document", ["file", "line"])
def test_a_text_that_is_not_of_its_encoding_leaves_nothing(tmp_path: Path, document: str) -> None:
    (tmp_path / "a.txt").write_text("no byte order mark\n")
    with pytest.raises(InputError, match=r"a\.txt is not utf-16: .*; try utf-16-le or utf-16-be"):
        prepare([str(tmp_path / "a.txt")], str(tmp_path / "x"), replace(GPT, document=document, encoding="utf-16"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_blank_documents_are_counted_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n\n{"text": " \\u3000\\n"}\n{"text": ""}\n')
    (tmp_path / "b.txt").write_text("\u00a0\n")
    manifest = prepare([str(tmp_path)], str(tmp_path / "set"), replace(GPT, workers=1))
    assert (manifest.documents, manifest.blank, manifest.malformed) == (1, 3, 0)
    assert ", 3 blank documents left out" in capsys.readouterr().err

    (tmp_path / "c.txt").write_text("one\n\n \t\n\n\u3000\n\ntwo\n")
    for document, blank in (("line", 2), ("blank-line", 1)):
        made = prepare([str(tmp_path / "c.txt")], str(tmp_path / document), replace(GPT, workers=1, document=document))
        assert (made.documents, made.blank) == (2, blank), "an empty line lies between documents"


def test_an_input_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its checksum is taken, or later: no manifest tells of bytes that were not read."""
    source, out, seen = tmp_path / "a.txt", str(tmp_path / "set"), []

    def growing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            seen.append(arguments)
            with source.open("a") as file:
                file.write("more\n")
            return function(*arguments)

        return call

    told = r"a\.txt was written to while it was read \(8 bytes before, 13 now\); prepare a copy of it, or wait"
    for place in ("phalanx.data.manifest.checksum", "phalanx.data.prepare.load_tokenizer", "phalanx.data.chunks.Chunk"):
        source.write_text("one two\n")
        before = len(seen)
        with monkeypatch.context() as patch:
            module, name = place.rsplit(".", 1)
            patch.setattr(place, growing(getattr(sys.modules[module], name)))
            if name == "load_tokenizer":  # nothing has been looked at yet: the longer file is what is prepared
                assert prepare([str(source)], out, replace(GPT, workers=1)).sources[0].bytes == 13
                Manifest.read(out)
                continue
            patch.setattr("phalanx.data.chunks.CHUNK", 1)
            with pytest.raises(InputError, match=told):
                prepare([str(source)], out, replace(GPT, workers=1, force=True))
        assert len(seen) > before
    assert not Path(f"{out}.manifest.json").exists()
    source.write_text("one two\n")
    assert prepare([str(source)], out, replace(GPT, workers=1, force=True)).documents == 1


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_with_a_line_that_says_what_is_saved(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
    word: str,
) -> None:
    """And the same command goes on."""
    source, out = tmp_path / "a.txt", tmp_path / "set"
    source.write_text("the cat sat on the mat\n" * 10)
    words = ["prepare", str(source), "--out", str(out), "--tokenizer", "gpt2", "--document", "line", "--workers", "1"]
    write, writes = IndexedWriter.extend, []

    def struck(*arguments: Any) -> None:
        writes.append(len(arguments))
        if len(writes) == 5:
            os.kill(os.getpid(), number)
        write(*arguments)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr("phalanx.data.chunks.CHUNK", 1)
        patch.setattr("phalanx.data.prepare.COMMIT_SECONDS", 0)
        patch.setattr(IndexedWriter, "extend", struck)
        app(words)
    assert stop.value.code == code
    line = rf"phalanx: {word}; 28 tokens of {out} are saved; the same command does what is left\n"
    assert re.search(line, capsys.readouterr().err)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    del stop  # its traceback holds the files, and their locks
    gc.collect()
    with pytest.raises(SystemExit):
        app(words)
    assert "after 28 tokens" in capsys.readouterr().err and Manifest.read(out).documents == 10


def test_partial_files_cut_short_are_not_filled_with_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("one two")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("phalanx.data.prepare.COMMIT_SECONDS", 0)
        patch.setattr(IndexedWriter, "close", interrupted)
        prepare([str(tmp_path / "a.txt")], str(tmp_path / "set"), replace(GPT, workers=1))
    os.truncate(tmp_path / "set.bin.partial", 1)
    with pytest.raises(
        InputError, match=r"set\.bin\.partial is cut short: 6 bytes were saved; start over with --force"
    ):
        prepare([str(tmp_path / "a.txt")], str(tmp_path / "set"), replace(GPT, workers=1))


@pytest.mark.parametrize("control", ["\x0b", "\x0c", "\x1c", "\x1f", "\x85"])
def test_sentences_do_not_cut_words_that_hold_controls(control: str) -> None:
    """BERT drops them: the ids are those of the text that was not split."""
    text = f"An un{control}believ{control}able  story.\nIt\u2028rained."
    sentences, bert = split_sentences(text), load_tokenizer("bert-uncased")
    assert len(sentences) == 2
    assert [i for sentence in sentences for i in bert.encode(sentence)] == bert.encode(text)
    assert bert.encode("unbelievable")[0] in bert.encode(text)


def test_nothing_found_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text(" \n\n")
    (tmp_path / "in" / "b.jsonl").write_text("bad\n")
    for options in (GPT, BERT):
        told = r"no documents in .* and 1 more, 1 malformed record.*b\.jsonl, line 1.*, 1 blank document left out"
        with pytest.raises(InputError, match=told):
            prepare([str(tmp_path / "in")], str(tmp_path / "set"), options)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("options", "out", "message"),
    [
        (replace(GPT, document="word"), "set", "choose file, line, blank-line"),
        (replace(GPT, workers=-1), "set", "--workers -1"),
        (replace(GPT, tokenizer="gpt3"), "set", "no tokenizer 'gpt3'"),
        (replace(BERT, sentences=False, append_eod=True), "set", "no end-of-text token"),
        (replace(GPT, sentences=True, append_eod=True), "set", "not to sentences"),
        (GPT, "", "is a folder"),
        (replace(GPT, force=True), "a", "would replace the input"),
        (GPT, "a.manifest.json/set", "Not a directory|File exists"),
    ],
)
def test_wishes_that_cannot_be_met(tmp_path: Path, options: PrepareOptions, out: str, message: str) -> None:
    (tmp_path / "a.manifest.json").write_text('{"text": "one"}')
    with pytest.raises(InputError, match=message):
        prepare([str(tmp_path / "a.manifest.json")], str(tmp_path / out), options)
    assert [path.name for path in tmp_path.iterdir()] == ["a.manifest.json"]


@pytest.mark.parametrize("struck", ["worker", "parent"])
def test_processes_that_are_killed(tmp_path: Path, struck: str) -> None:
    """A worker's end is one line, and no worker outlives the parent."""
    source, out = tmp_path / "a.txt", tmp_path / "set"
    source.write_text(words(2_000))
    ours, theirs = Pipe()
    child = start(with_workers, source, out, theirs)
    theirs.close()
    assert ours.recv() == "committed" and child.pid
    workers = children(child.pid)
    assert len(workers) == 2
    ends = [os.pidfd_open(worker) for worker in workers]
    os.kill(workers[0] if struck == "worker" else child.pid, signal.SIGKILL if struck == "worker" else signal.SIGTERM)
    if struck == "worker":
        assert select.select(ends[:1], [], [], 60)[0]
        ours.send("go on")
        told = ours.recv()
        assert "a worker process was killed" in told and "the same command again goes on from here" in told
    child.join()
    assert child.exitcode == (0 if struck == "worker" else -signal.SIGTERM)
    for end in ends:
        assert select.select([end], [], [], 60)[0]
        os.close(end)
    assert journal_path(str(out)).exists()


def test_two_at_a_time_do_not_write_the_same_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is refused, and the first is none the worse for it."""
    source, out = tmp_path / "a.txt", str(tmp_path / "set")
    source.write_text("one two")
    write, refused = IndexedWriter.extend, []

    def extend(*block: Any) -> None:
        write(*block)
        with pytest.raises(InputError, match="written by another process") as error:
            prepare([str(source)], out, GPT)
        refused.append(str(error.value))

    monkeypatch.setattr(IndexedWriter, "extend", extend)
    assert prepare([str(source)], out, GPT).tokens == 3
    assert len(refused) == 1 and IndexedDataset(out).tokens.tolist() == [505, 734, 50_256]


def test_importing_the_data_package_does_not_import_torch() -> None:
    code = "import sys, phalanx.data.prepare, phalanx.data.vocabulary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

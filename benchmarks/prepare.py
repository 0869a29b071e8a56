"""How fast text becomes a tokenized set, ours and others by turns in one run.

    python -m benchmarks.prepare TEXT... [--kinds gpt2,bert] [--rounds 5] [--megabytes 32] [--json FILE]

Every document is some paragraphs, about 4,000 characters. `phalanx` is the whole of `phalanx prepare` on a JSONL file
of them: checksums, reading, encoding, writing, syncing. For GPT-2 the others only encode documents that already lie in
memory, all in one call: `tokenizers` is its encode_batch_fast, `tiktoken` its encode_ordinary_batch with the same
merges and OpenAI's own pattern. For BERT, `megatron's way` is what Megatron's preprocess_data does with the same file:
a pool of processes, a document at a time; sentences by nltk's Punkt, each encoded alone (by the tokenizers library,
which is faster than Megatron's own Python); the parent appends sentence by sentence. nltk's model is no package, so
Punkt learns from the first megabyte, unclocked. CPU time is that of all processes.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer as Backend

from benchmarks.origin import machine
from phalanx.data.documents import Bookmark, DocumentReader, Reading
from phalanx.data.fastpath import ranks
from phalanx.data.inputs import find_files
from phalanx.data.prepare import PrepareOptions, prepare
from phalanx.data.tokenize import load_tokenizer

NOVELS = Path(__file__).parents[1] / "src" / "phalanx" / "assets" / "novels"
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"  # tiktoken's for GPT-2
DOCUMENT = 4000  # characters, about
LEARNED = 1 << 20  # characters for Punkt

Run = Callable[[], int]  # gives the number of tokens


class Corpus(NamedTuple):
    """Documents in memory and as a JSONL file."""

    documents: list[str]
    file: Path
    megabytes: float


def corpus(inputs: Sequence[str], megabytes: float, folder: Path) -> Corpus:
    """Documents of the inputs, in order, up to a size."""
    reading = Reading("blank-line", "text", 1 << 30, by_paragraph=False)
    documents, held, size = [], "", 0
    for path in find_files(inputs):
        for record in DocumentReader(path, reading).records(Bookmark()):
            held += record.text + "\n\n"
            if len(held) >= DOCUMENT and size < megabytes * 1e6:
                documents.append(held.rstrip())
                size += len(documents[-1].encode())
                held = ""
    file = folder / "documents.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return Corpus(documents, file, size / 1e6)


def gpt2(text: Corpus, workers: int, folder: Path) -> dict[str, Run]:
    """Byte-level BPE; ours appends an end of text to each document, which is not counted."""
    import tiktoken

    backend = Backend.from_str(load_tokenizer("gpt2").json())
    backend.encode_special_tokens = True
    merges = ranks(json.loads(backend.to_str())["model"])
    encoding = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=merges, special_tokens={})
    options = PrepareOptions(workers=workers, force=True)
    documents = text.documents
    return {
        "phalanx": lambda: prepare([str(text.file)], str(folder / "gpt2"), options).tokens - len(documents),
        "tokenizers": lambda: sum(
            len(one.ids) for one in backend.encode_batch_fast(documents, add_special_tokens=False)
        ),
        "tiktoken": lambda: sum(map(len, encoding.encode_ordinary_batch(documents, num_threads=workers))),
    }


def bert(text: Corpus, workers: int, folder: Path) -> dict[str, Run]:
    """WordPiece, a sequence per sentence."""
    from nltk.tokenize.punkt import PunktTrainer

    options = PrepareOptions(tokenizer="bert-uncased", sentences=True, workers=workers, force=True)
    learned = PunktTrainer("\n\n".join(text.documents)[:LEARNED]).get_params()
    return {
        "phalanx": lambda: prepare([str(text.file)], str(folder / "bert"), options).tokens,
        "megatron's way": lambda: megatron(text.file, workers, folder / "megatron.bin", learned),
    }


def megatron(file: Path, workers: int, out: Path, learned: Any) -> int:
    """Megatron's loop: documents to a pool and back in order, sentences written one by one."""
    tokens = 0
    with file.open() as lines, out.open("wb") as binary, get_context("spawn").Pool(workers, _begin, (learned,)) as pool:
        for sentences in pool.imap(_sentences, lines, 32):
            for ids in sentences:
                binary.write(np.array(ids, np.uint16).tobytes())
                tokens += len(ids)
        pool.close()
        pool.join()
    return tokens


def _begin(learned: Any) -> None:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    global splitter, wordpiece
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    splitter, wordpiece = PunktSentenceTokenizer(learned), Backend.from_str(load_tokenizer("bert-uncased").json())


def _sentences(line: str) -> list[list[int]]:
    sentences: Iterable[str] = splitter.tokenize(json.loads(line)["text"])
    return [ids for one in sentences if (ids := wordpiece.encode(one, add_special_tokens=False).ids)]


splitter: Any
wordpiece: Any
KINDS = {"gpt2": gpt2, "bert": bert}


def race(contenders: dict[str, Run], megabytes: float, rounds: int) -> list[dict[str, Any]]:
    """Medians of each; a round more warms up, uncounted."""
    walls: dict[str, list[float]] = {name: [] for name in contenders}
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    tokens: dict[str, int] = {}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            before, begun = _cpu(), time.perf_counter()
            tokens[name] = run()
            if number:
                walls[name].append(time.perf_counter() - begun)
                spent[name].append(_cpu() - before)
    return [
        {
            "name": name,
            "mb_per_s": megabytes / statistics.median(walls[name]),
            "slowest": megabytes / max(walls[name]),
            "fastest": megabytes / min(walls[name]),
            "mb_per_cpu_s": megabytes / statistics.median(spent[name]),
            "tokens": tokens[name],
        }
        for name in contenders
    ]


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Print a table for each kind of set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", default=[str(NOVELS)], help="files, folders, globs; the bundled novels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=32.0, help="of text, at most")
    parser.add_argument("--kinds", default="gpt2,bert")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(words.workers)
    print(machine(("tokenizers", "tiktoken", "nupunkt", "nltk", "numpy")))
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = corpus(words.texts, words.megabytes, folder)
        print(f"{len(text.documents):,} documents, {text.megabytes:.1f} MB, {words.workers} workers")
        for kind in words.kinds.split(","):
            rows = race(KINDS[kind](text, words.workers, folder), text.megabytes, words.rounds)
            print(f"\n| {kind} | MB/s | MB a second of CPU | tokens |\n|---|---|---|---|")
            for row in rows:
                lines.append({"kind": kind, **row})
                speed = "{mb_per_s:.2f} ({slowest:.2f} to {fastest:.2f}) | {mb_per_cpu_s:.2f}".format(**row)
                print(f"| {row['name']} | {speed} | {row['tokens']:,} |")
            assert kind != "gpt2" or len({row["tokens"] for row in rows}) == 1, "the contenders disagree on the tokens"
    if words.json:
        words.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()

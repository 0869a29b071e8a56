"""How fast text becomes a tokenized set, ours against the tokenizers library, by turns in one run.

    python benchmarks/prepare.py TEXT [--rounds 5] [--workers 4]

`phalanx` is the whole of `phalanx prepare`: checksums, reading, encoding, writing, syncing. The others only encode
documents that already lie in memory: `batch` in one call of encode_batch_fast on all cores, `loop` one document after
the other as a preprocessing script does in each worker. Documents are what lies between blank lines.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer as Backend

from phalanx.data.documents import Bookmark, DocumentReader, Reading
from phalanx.data.prepare import PrepareOptions, prepare
from phalanx.data.tokenize import load_tokenizer


def main() -> None:
    """Print the median speed of each contender, and the range."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(arguments.workers)
    reading = Reading("blank-line", "text", 1 << 30, by_paragraph=False)
    documents = [record.text for record in DocumentReader(arguments.text, reading).records(Bookmark())]
    size = sum(len(document.encode()) for document in documents)
    backend = Backend.from_str(load_tokenizer("gpt2").json())
    backend.encode_special_tokens = True

    with tempfile.TemporaryDirectory() as folder:
        options = PrepareOptions(document="blank-line", workers=arguments.workers, force=True)
        contenders: dict[str, Callable[[], int]] = {
            "phalanx": lambda: prepare([str(arguments.text)], f"{folder}/set", options).tokens - len(documents),
            "batch": lambda: sum(len(e.ids) for e in backend.encode_batch_fast(documents, add_special_tokens=False)),
            "loop": lambda: sum(len(backend.encode(text, add_special_tokens=False).ids) for text in documents),
        }
        speeds: dict[str, list[float]] = {name: [] for name in contenders}
        counts = set()
        for _ in range(arguments.rounds):
            for name, run in contenders.items():
                begun = time.perf_counter()
                counts.add(run())
                speeds[name].append(size / 1e6 / (time.perf_counter() - begun))
    assert len(counts) == 1, f"the contenders disagree on the number of tokens: {counts}"
    print(f"{len(documents):,} documents, {size / 1e6:.1f} MB, {arguments.workers} workers, {arguments.rounds} rounds")
    for name, values in speeds.items():
        print(f"{name:>8} {statistics.median(values):6.1f} MB/s   ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()

"""BERT answering questions, ours beside the peers: each in a process of its own, asked by turns in one run.

    python benchmarks/latency.py bert-base [--cells 1x128,1x384,8x128,ragged] [--rounds 7] [--out FILE]

Every model has the same weights, random ones. `ragged` is 24 texts between 16 and 384 tokens, most of them short,
answered in one call. A turn is a few calls in a row, the first not counted; the others sleep meanwhile. `1 - cosine`
is to Hugging Face's fp32 answers.
"""

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

SIZES: dict[str, dict[str, Any]] = {
    "bert-base": {},
    "bert-large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
RAGGED = np.geomspace(16, 384, 24).astype(int).tolist()
PACKAGES = ("torch", "transformers", "onnxruntime", "openvino", "nncf", "ctranslate2")
EXACT, OURS = "hugging face", "phalanx"


def shape(cell: str) -> list[int]:
    """Lengths of the rows of a call: of 8x128, or ragged."""
    if cell == "ragged":
        return list(RAGGED)
    batch, length = map(int, cell.split("x"))
    return [length] * batch


def rows_of(cell: str) -> list[np.ndarray]:
    """The same tokens for everyone."""
    draw = np.random.default_rng(0)
    return [draw.integers(1000, 30000, length) for length in shape(cell)]


def make(size: str, folder: Path) -> None:
    """A folder of Hugging Face's with random weights, wide enough that attention is not flat."""
    import torch
    from transformers import BertConfig, BertForQuestionAnswering

    from phalanx.data.tokenize import load_tokenizer

    torch.manual_seed(0)
    BertForQuestionAnswering(BertConfig(initializer_range=0.04, **SIZES[size])).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(load_tokenizer("bert-uncased").json())
    facts = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))


def ours(folder: Path, precision: str) -> Any:
    """`phalanx.infer.load`, as a user would; it tells which backend it takes."""
    from phalanx.data.labelled import Encoded
    from phalanx.infer import load_bert

    bert = load_bert(f"hf:{folder}", precision=precision)
    return lambda rows: bert.said([Encoded(row, len(row) // 2) for row in rows])


def serve(end: Connection, name: str, precision: str, folder: Path) -> None:
    """One contender: times calls when it is asked to."""
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    import torch

    from benchmarks.peers import PEERS

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        program = ours(folder, precision) if name == OURS else PEERS[precision][name](folder)
        end.send(None)
        while (asked := end.recv()) is not None:
            cell, calls = asked
            rows, times = rows_of(cell), []
            for _ in range(calls + 1):
                begun = time.perf_counter()
                answers = program(rows)
                times.append(time.perf_counter() - begun)
            end.send((times[1:], np.concatenate([answer.ravel() for answer in answers])))
    except Exception as error:
        end.send(f"{type(error).__name__}: {error}")


def compare(size: str, precision: str, cells: list[str], rounds: int) -> list[dict[str, Any]]:
    """A line for each contender and cell."""
    from benchmarks.peers import PEERS

    names = [OURS, *PEERS[precision]]
    if precision != "fp32":
        names.append(EXACT)  # asked once
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as there:
        make(size, folder := Path(there))
        ends: dict[str, Any] = {}
        for name in names:  # one after another: auto measures, and some files are shared
            here, away = spawn.Pipe()
            kind = "fp32" if name == EXACT else precision
            spawn.Process(target=serve, args=(away, name, kind, folder), daemon=True).start()
            if problem := here.recv():
                print(f"{name} {kind}: {problem.splitlines()[0][:150]}")
            else:
                ends[name] = here
        lines = []
        for cell in cells:
            times: dict[str, list[float]] = {name: [] for name in ends}
            answers: dict[str, Any] = {}
            for turn in range(rounds):
                for name in [*ends][turn % len(ends) :] + [*ends][: turn % len(ends)]:
                    if name == EXACT and precision != "fp32" and turn:
                        continue
                    ends[name].send((cell, 5 if sum(shape(cell)) < 1000 else 1))
                    found, answers[name] = _answer(name, ends[name])
                    times[name] += found
            for name, spent in times.items():
                far = _apart(answers[name], answers[EXACT])
                p50, p99 = np.percentile(spent, 50) * 1e3, np.percentile(spent, 99) * 1e3
                per = sum(shape(cell)) / p50 * 1e3
                lines.append({"size": size, "precision": precision, "cell": cell, "name": name, "p50": p50, "p99": p99,
                              "tokens_per_s": per, "distance": far})  # fmt: skip
        for end in ends.values():
            end.send(None)
    return lines


def table(lines: list[dict[str, Any]], cells: list[str]) -> list[str]:
    """Markdown: p50 / p99 in milliseconds, ragged as tokens a second."""
    made = ["| |" + "|".join(cells) + "|1 - cosine|", "|---" * (len(cells) + 2) + "|"]
    for name in dict.fromkeys(line["name"] for line in lines):
        own = {line["cell"]: line for line in lines if line["name"] == name}
        shown = [f"{own[c]['p50']:.1f} / {own[c]['p99']:.1f}" for c in cells]
        if cells[-1] == "ragged":
            shown[-1] = f"{own['ragged']['tokens_per_s']:,.0f} tokens/s"
        made.append(f"|{name}|" + "|".join(shown) + f"|{max(line['distance'] for line in own.values()):.0e}|")
    return made


def _answer(name: str, end: Any) -> Any:
    found = end.recv()
    if isinstance(found, str):
        raise SystemExit(f"{name}: {found}")
    return found


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def main() -> None:
    """Print a table for each precision."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--cells", default="1x128,1x384,8x128,ragged")
    parser.add_argument("--precisions", default="fp32,int8")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cells, lines = arguments.cells.split(","), []
    print(
        platform.processor(), len(os.sched_getaffinity(0)), "cores;", ", ".join(f"{p} {_version(p)}" for p in PACKAGES)
    )
    for precision in arguments.precisions.split(","):
        found = compare(arguments.size, precision, cells, arguments.rounds)
        print(f"\n{arguments.size} {precision}\n", *table(found, cells), sep="\n", flush=True)
        lines += found
    if arguments.out:
        arguments.out.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()

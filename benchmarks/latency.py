"""BERT answering questions, ours beside the peers: each in a process of its own, asked by turns in one run.

    python -m benchmarks.latency bert-base [--cells 1x128,1x384,8x128,ragged] [--rounds 7] [--out FILE]

Every model has the same weights, random ones. `ragged` is 24 texts between 16 and 384 tokens, most of them short,
answered in one call. A turn is a few calls in a row, the first not counted; the others sleep meanwhile. `1 - cosine`
is to Hugging Face's fp32 answers, the largest of all cells.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.origin import machine
from benchmarks.turns import Contenders, Program

SIZES: dict[str, dict[str, Any]] = {
    "bert-base": {},
    "bert-large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
RAGGED = np.geomspace(16, 384, 24).astype(int).tolist()
EXACT, COMPILED, OURS = "hugging face", "hugging face, compiled", "phalanx"


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
    from phalanx.infer import load_encoder

    bert = load_encoder(f"hf:{folder}", precision=precision)
    return lambda rows: bert.scores([Encoded(row, len(row) // 2) for row in rows])


def contender(name: str, precision: str, folder: Path) -> Program:
    """A function of the cell."""
    from benchmarks.peers import PEERS

    program = ours(folder, precision) if name == OURS else PEERS[precision][name](folder)
    return lambda cell: np.concatenate([answer.ravel() for answer in program(rows_of(cell))])


def compare(size: str, precision: str, cells: list[str], rounds: int, calls: int) -> list[dict[str, Any]]:
    """A line for each contender and cell."""
    import torch

    from benchmarks.peers import PEERS

    lines, contenders = [], Contenders(together=torch.cuda.is_available())
    with tempfile.TemporaryDirectory() as there:
        make(size, folder := Path(there))
        for name in [OURS, *PEERS[precision]]:  # on a CPU one after another: ours measures, and some files are shared
            contenders.add(name, contender, name, precision, folder)
        contenders.ready(*[cell for cell in cells if cell != "ragged"])
        exact = contender(EXACT, "fp32", folder)
        for cell in cells:
            times: dict[str, list[float]] = {name: [] for name in contenders.ends}
            answers: dict[str, Any] = {}
            for turn in range(rounds):
                for name in contenders.turn(turn):
                    if name == COMPILED and cell == "ragged":  # would compile for each length
                        continue
                    count = calls or (5 if sum(shape(cell)) < 1000 else 2)
                    found, answers[name] = contenders.ask(name, cell, count, warm=3 if calls else 1)
                    times[name] += found
                    print(f"{cell} {name}: {np.median(found) * 1e3:.2f} ms", file=sys.stderr, flush=True)
            right = exact(cell)
            for name, spent in times.items():
                if spent:
                    low, p50, p99, high = (float(np.percentile(spent, q)) * 1e3 for q in (0, 50, 99, 100))
                    lines.append({"size": size, "precision": precision, "cell": cell, "name": name, "p50": p50,
                                  "p99": p99, "least": low, "most": high, "calls": len(spent),
                                  "tokens_per_s": sum(shape(cell)) / p50 * 1e3,
                                  "distance": _apart(answers[name], right)})  # fmt: skip
        contenders.stop()
    return lines


def table(lines: list[dict[str, Any]], cells: list[str]) -> list[str]:
    """Markdown: milliseconds, ragged as tokens a second; the median and the extremes, of a hundred calls the 99th."""
    made = ["| |" + "|".join(cells) + "|1 - cosine|", "|---" * (len(cells) + 2) + "|"]
    for name in dict.fromkeys(line["name"] for line in lines):
        own = {line["cell"]: line for line in lines if line["name"] == name}
        shown = [
            ""
            if c not in own
            else f"{own[c]['p50']:.2f} / {own[c]['p99']:.2f}"
            if own[c]["calls"] >= 100
            else f"{own[c]['p50']:.1f} ({own[c]['least']:.1f} to {own[c]['most']:.1f})"
            for c in cells
        ]
        if cells[-1] == "ragged" and "ragged" in own:
            shown[-1] = f"{own['ragged']['tokens_per_s']:,.0f} tokens/s"
        made.append(f"|{name}|" + "|".join(shown) + f"|{max(line['distance'] for line in own.values()):.0e}|")
    return made


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def main() -> None:
    """Print a table for each precision."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--cells", default="1x128,1x384,8x128,ragged")
    parser.add_argument("--precisions", default="fp32,int8")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=0, help="of a turn; by default 5, or 2 of many tokens")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cells, lines = arguments.cells.split(","), []
    print(machine())
    for precision in arguments.precisions.split(","):
        found = compare(arguments.size, precision, cells, arguments.rounds, arguments.calls)
        print(f"\n{arguments.size} {precision}\n", *table(found, cells), sep="\n", flush=True)
        lines += found
    if arguments.out:
        arguments.out.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()

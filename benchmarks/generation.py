"""GPT-2 124M continuing texts, ours beside the peers: each in a process of its own, asked by turns in one run.

    python -m benchmarks.generation [--batches 1,8] [--rounds 5] [--out FILE]

Random weights, the same for all; prompts of 128 random tokens, 128 new ones, always the likeliest, and no token ends a
text. Ours looks nothing up: random texts do not repeat themselves. `agree` is how many of the new tokens are those of
Hugging Face's fp32 model before the first that is not.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.generators import NEW, PEERS
from benchmarks.origin import machine
from benchmarks.turns import Contenders, Program

PROMPT = 128
EXACT, OURS = "hugging face", "phalanx"


def make(folder: Path) -> None:
    """A folder of Hugging Face's with random weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from phalanx.data.tokenize import load_tokenizer

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(initializer_range=0.08)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(load_tokenizer("gpt2").json())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))


def prompts(batch: int) -> np.ndarray:
    """The same for everyone: int64 [batch, PROMPT]."""
    return np.random.default_rng(0).integers(0, 50000, (batch, PROMPT))


def contender(name: str, precision: str, folder: Path) -> Program:
    """A function of the batch."""
    program = ours(folder, precision) if name == OURS else PEERS[precision][name](folder)
    return lambda batch: program(prompts(batch))


def ours(folder: Path, precision: str) -> Any:
    """The engine that `phalanx.infer.load` makes."""
    from phalanx.infer import load_decoder
    from phalanx.infer.sample import Options

    engine = load_decoder(f"hf:{folder}", precision=precision).engine
    engine.lookup, engine.stop_tokens = False, ()

    def run(asked: np.ndarray) -> np.ndarray:
        requests = [engine.submit(row.tolist(), Options(max_tokens=NEW, temperature=0)) for row in asked]
        while engine.busy:
            engine.step()
        return np.array([request.tokens[PROMPT:] for request in requests])

    return run


def compare(precision: str, batches: Sequence[int], rounds: int, exact: dict[int, np.ndarray]) -> list[dict[str, Any]]:
    """A line for each contender and batch. `exact` is Hugging Face's text, which fp32 writes."""
    import torch

    lines, contenders = [], Contenders(together=torch.cuda.is_available())
    with tempfile.TemporaryDirectory() as there:
        make(folder := Path(there))
        for name in [OURS, *PEERS[precision]]:
            contenders.add(name, contender, name, precision, folder)
        contenders.ready(*batches, warm=2)
        for batch in batches:
            times: dict[str, list[float]] = {name: [] for name in contenders.ends}
            texts = {}
            for turn in range(rounds):
                for name in contenders.turn(turn):
                    found, texts[name] = contenders.ask(name, batch, 1, warm=int(turn == 0))
                    times[name] += found
            exact.setdefault(batch, texts.get(EXACT, np.full((batch, NEW), -1)))
            for name, spent in times.items():
                agree = np.logical_and.accumulate(texts[name] == exact[batch], 1).sum(1).mean()
                speeds = batch * NEW / np.array(spent)
                worst, middle, best = (float(np.percentile(speeds, q)) for q in (0, 50, 100))
                lines.append({"precision": precision, "batch": batch, "name": name, "tokens_per_s": middle,
                              "worst": worst, "best": best, "agree": float(agree)})  # fmt: skip
        contenders.stop()
    return lines


def table(lines: Sequence[dict[str, Any]], batches: Sequence[int]) -> list[str]:
    """Markdown."""
    made = [
        "| |" + "|".join(f"batch {batch}, tokens/s" for batch in batches) + "|agree|",
        "|---" * (len(batches) + 2) + "|",
    ]
    for name in dict.fromkeys(line["name"] for line in lines):
        own = [line for line in lines if line["name"] == name]
        shown = [f"{line['tokens_per_s']:.1f} ({line['worst']:.1f} to {line['best']:.1f})" for line in own]
        made.append(f"|{name}|" + "|".join(shown) + f"|{min(line['agree'] for line in own):.0f}|")
    return made


def main() -> None:
    """Print a table for each precision."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--precisions", default="fp32,int8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    batches, lines, exact = [*map(int, arguments.batches.split(","))], [], dict[int, np.ndarray]()
    print(machine())
    for precision in arguments.precisions.split(","):
        found = compare(precision, batches, arguments.rounds, exact)
        print(f"\nGPT-2 124M, {precision}\n", *table(found, batches), sep="\n", flush=True)
        lines += found
    if arguments.out:
        arguments.out.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()

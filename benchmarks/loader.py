"""Whether the loader ever keeps a step waiting: real data against one batch made before the clock runs.

    python -m benchmarks.loader [TEXT...] [--rounds 40] [--json FILE]

The text is prepared with tokenizers of 4,096 tokens learned from it, and the recipes gpt-tiny and bert-tiny train on
it, not compiled: steps as short as these leave a loader the least time. One trainer takes both kinds of steps by turns:
on the next batch of its loader, which makes one ahead in a thread, and on a batch that is always the same. Printed are
the medians of each, the median of the ratios of neighbours with its quartiles, by the clock and in CPU time (which a
busy machine disturbs less), how long a step stood still for its batch (`waited`), and what the loader does alone.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.origin import machine
from benchmarks.prepare import NOVELS

WORDS = {"gpt-tiny": "bpe", "bert-tiny": "wordpiece"}  # a recipe and what its tokenizer is
WARM = 3


def trainer_on(name: str, texts: Sequence[str], folder: Path) -> Any:
    """The trainer of a recipe on prepared text."""
    import torch

    from phalanx.data.prepare import PrepareOptions, prepare
    from phalanx.data.vocabulary import train_tokenizer
    from phalanx.tasks.preflight import task_of
    from phalanx.tasks.run import read
    from phalanx.train.machine import this_machine
    from phalanx.train.monitor import Silent
    from phalanx.train.resolve import resolve
    from phalanx.train.trainer import Trainer

    words, prefix = str(folder / f"{name}.json"), str(folder / name)
    train_tokenizer(texts, WORDS[name], 4096, words)
    prepare(texts, prefix, PrepareOptions(tokenizer=words, sentences=WORDS[name] == "wordpiece"))
    torch.manual_seed(0)
    asked = [f"data.train={prefix}", "train.compile=off", "train.device=cpu"]
    _, config, tokenizer = read(name, asked, folder / f"run-{name}")
    config = resolve(config, this_machine(config.train, vocab=tokenizer.vocab))
    return Trainer(config, task_of(config, tokenizer), None, Silent())


def measured(trainer: Any, rounds: int) -> dict[str, Any]:
    """Steps by turns, then the loader alone."""
    real, same = trainer.loader.batch, trainer.loader.make(0)
    waited: list[float] = []

    def loaded(number: int) -> Any:
        begun = time.perf_counter()
        batch = real(number)
        waited.append(time.perf_counter() - begun)
        return batch

    seconds: dict[str, list[float]] = {"real": [], "synthetic": []}
    spent: dict[str, list[float]] = {"real": [], "synthetic": []}
    for number in range(rounds + WARM):
        turns = [("real", loaded), ("synthetic", lambda _: same)]
        for kind, batch in turns[:: 1 if number % 2 else -1]:
            trainer.loader.batch = batch
            begun, cpu = time.perf_counter(), time.process_time()
            trainer.step(number)
            seconds[kind].append(time.perf_counter() - begun)
            spent[kind].append(time.process_time() - cpu)
    begun, cpu = time.perf_counter(), time.process_time()
    for number in range(rounds):
        trainer.loader.make(number)
    batch = trainer.config.train.batch
    return {
        "real_s": statistics.median(seconds["real"][WARM:]),
        "synthetic_s": statistics.median(seconds["synthetic"][WARM:]),
        "more": _more(seconds),
        "more_cpu": _more(spent),
        "waited_s": statistics.median(waited[WARM:]),
        "samples_per_s": rounds * batch / (time.perf_counter() - begun),
        "cpu_s_a_batch": (time.process_time() - cpu) / rounds,
    }


def _more(turns: dict[str, list[float]]) -> list[float]:
    """By how much a real step exceeds its synthetic neighbour: quartiles."""
    pairs = zip(turns["real"][WARM:], turns["synthetic"][WARM:], strict=True)
    return statistics.quantiles([real / same - 1 for real, same in pairs], n=4)


def main() -> None:
    """Measure both recipes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", default=[str(NOVELS)], help="files, folders, globs; the bundled novels")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    print(machine())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in WORDS:
            trainer = trainer_on(name, words.texts, Path(folder))
            rows.append({"name": name, **measured(trainer, words.rounds)})
            trainer.loader.close()
    print("| | step, real, ms | synthetic, ms | more | more CPU | waited, ms | samples/s alone | CPU a batch, ms |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        more, cpu = ("{1:+.1%} ({0:+.1%} to {2:+.1%})".format(*row[key]) for key in ("more", "more_cpu"))
        print(
            f"| {row['name']} | {1e3 * row['real_s']:.1f} | {1e3 * row['synthetic_s']:.1f} | {more} | {cpu} "
            f"| {1e3 * row['waited_s']:.2f} | {row['samples_per_s']:,.0f} | {1e3 * row['cpu_s_a_batch']:.1f} |"
        )
    if words.json:
        words.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

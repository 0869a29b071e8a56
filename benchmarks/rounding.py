"""What int8 costs in accuracy: tuned models judged in fp32 and in int8, by every backend that is here.

    python -m benchmarks.rounding sst2=RUN:dev.tsv squad=RUN:dev-v1.1.json [--limit 2000]

RUN is a run of `phalanx tune`. sst2 is judged by accuracy, squad by exact match and F1, in per cent.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from phalanx.data.examples import Columns, squad, table
from phalanx.errors import InputError
from phalanx.infer import backends, load_encoder
from phalanx.infer.encoder_model import EncoderModel
from phalanx.models.family import spec_of
from phalanx.run.folder import RunFolder
from phalanx.score.squad import Reference, score

BATCH = 64


def judge_sst2(model: EncoderModel, file: Path, limit: int) -> dict[str, float]:
    """Sentences."""
    rows = table(file, Columns("sentence", "label"))[:limit]
    labels = [found.label for batch in _batches(rows) for found in model.classified([row.text for row in batch])]
    right = sum(label == row.label for label, row in zip(labels, rows, strict=True))
    return {"accuracy": 100 * right / len(rows)}


def judge_squad(model: EncoderModel, file: Path, limit: int) -> dict[str, float]:
    """Questions."""
    questions = squad(file)[:limit]
    answers = [found.text for batch in _batches(questions)
               for found in model.answers([(one.question, one.context) for one in batch])]  # fmt: skip
    ids = [one.id for one in questions]
    references = [Reference(one.id, tuple(text for _, text in one.answers)) for one in questions]
    return score(references, dict(zip(ids, answers, strict=True)))


JUDGES: dict[str, Callable[[EncoderModel, Path, int], dict[str, float]]] = {"sst2": judge_sst2, "squad": judge_squad}


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[i : i + BATCH] for i in range(0, len(items), BATCH)]


def main() -> None:
    """Print a table for each task."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="+", help="TASK=RUN:FILE")
    parser.add_argument("--limit", type=int, default=1 << 30)
    arguments = parser.parse_args()
    for asked in arguments.tasks:
        task, _, where = asked.partition("=")
        run, _, file = where.rpartition(":")
        print(f"\n{task}\n| backend | precision | scores | seconds |\n|---|---|---|---|")
        for precision in ("fp32", "int8"):
            for name in backends.NAMES:
                if backends.unavailable(name, "encoder", spec_of(RunFolder.open(run).config().model), precision):
                    continue
                try:
                    model = load_encoder(run, name, precision)
                    model.ready()
                except InputError as error:
                    print(f"| {name} | {precision} | {error} | |")
                    continue
                began = time.perf_counter()
                scores = JUDGES[task](model, Path(file), arguments.limit)
                told = ", ".join(f"{key} {value:.2f}" for key, value in scores.items())
                print(f"| {name} | {precision} | {told} | {time.perf_counter() - began:.0f} |", flush=True)


if __name__ == "__main__":
    main()

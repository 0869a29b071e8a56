"""Tiny labelled files of every kind, and what a rank tells of a run on them."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist

from phalanx import recipe, registry
from phalanx.data.tokenize import load_tokenizer
from phalanx.train.machine import this_machine
from phalanx.train.resolve import resolve
from phalanx.train.trainer import Trainer
from tests.train.runs import SIZES, Corpus, Record

COUNT = 26
FORMS = {"span": ["examples.form=squad2", "examples.stride=8"], "choice": ["examples.form=race"],
         "tokens": ["examples.form=tags", "examples.text=words", "examples.label=tags"],
         "completion": ["examples.text=words"], "classes": ["examples.text=words", "examples.pair=more"],
         "value": ["examples.text=words", "examples.pair=more"], "stars": ["examples.text=words"]}  # fmt: skip
FAMILIES = {
    "gpt": ["model.family=gpt2"],
    "bert": ["model.family=bert", "model.segments=2"],
    "modernbert": ["model.family=modernbert", "model.window=10", "model.pooling=mean"],
}
OUTSIDE = {"stars": "tests.strangers.tasks:Stars"}  # tasks of other packages, with heads of their own
TINY = ["model.heads=4", "model.dropout=0.1", "train.batch=8", "train.eval_sequences=1000"]


def write(folder: Path, kind: str) -> Path:
    """Examples about the corpus's own words."""
    dice = random.Random(3)
    words = sorted(set((folder / "text.txt").read_text().replace(".", " ").split()))
    rows = [_row(kind, n, [dice.choice(words) for _ in range(dice.randint(4, 14))], dice) for n in range(COUNT)]
    file = folder / f"{kind}.{'json' if kind == 'span' else 'jsonl'}"
    if kind == "span":
        file.write_text(json.dumps({"data": [{"paragraphs": rows}]}))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _row(kind: str, n: int, words: list[str], dice: random.Random) -> dict[str, Any]:
    text = " ".join(words)
    if kind == "span":
        context, answer = " ".join(words * 3), {"text": words[2], "answer_start": len(" ".join(words[:2])) + 1}
        asked = {"id": str(n), "question": words[2], "answers": [answer], "is_impossible": n % 5 == 0}
        return {"context": context, "qas": [asked]}
    if kind == "choice":
        return {"article": text, "question": "_", "options": words[:3], "answer": "ABC"[n % 3]}
    if kind == "tokens":
        return {"words": words, "tags": [("O", "B-X", "I-X")[len(word) % 3] for word in words]}
    label: Any = {"classes": n % 3, "value": n / 10, "completion": words[0], "stars": 1 + n % 5}[kind]
    return {"words": text, "more": dice.choice(words), "label": label}


class Told(NamedTuple):
    """Each step's loss and gradient norm, and all values of every evaluation."""

    losses: list[float]
    norms: list[float]
    valids: list[Mapping[str, float]]


def tuned(folder: Path, kind: str, *words: str) -> Told:
    """Fine-tune a tiny model from random weights, and tell. Nothing is saved."""
    processes = dist.get_world_size() if dist.is_initialized() else 1
    family = "gpt" if kind == "completion" else "bert"
    base = FAMILIES["modernbert" if "model.family=modernbert" in words else family]
    file, tokenizer = str(write_once(folder, kind)), load_tokenizer(str(Corpus(folder).file(family)))
    size = 2 if "layout.pp=2" in words else 4  # of the four examples of a replica, a pipeline wants two micro-batches
    batch = ["train.batch=12", "layout.micro_batch=3"] if kind == "choice" else [f"layout.micro_batch={size}"]
    task = OUTSIDE.get(kind, kind)
    files = [f"task={task}", f"data.train={file}", f"data.valid={file}"]
    said = [*SIZES, *TINY, *base, *files, *FORMS[kind], *words, *batch]
    config = recipe.from_words(said)
    config = resolve(config, this_machine(config.train, processes, tokenizer.vocab, files=True))
    record: Any = Record()
    trainer = Trainer(config, registry.TASKS.find(task)(config, tokenizer), None, record)
    trainer.fit()
    steps = record.steps.values()
    return Told([v["loss"] for v in steps], [v["grad_norm"] for v in steps], list(record.valids.values()))


def tuned_each(folder: Path, kinds: Sequence[str], *words: str) -> dict[str, Told]:
    """`tuned` of several kinds, one after the other in the same processes."""
    return {kind: tuned(folder, kind, *words) for kind in kinds}


def write_once(folder: Path, kind: str) -> Path:
    """The file of a kind: the ranks of a run share it, and the first of them writes."""
    if not dist.is_initialized() or dist.get_rank() == 0:
        write(folder, kind)
    if dist.is_initialized():
        dist.barrier()
    return folder / f"{kind}.{'json' if kind == 'span' else 'jsonl'}"

"""Tiny sets, configurations and runs for the tests of training."""

import json
import math
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phalanx import recipe, registry
from phalanx.config import Config
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.data.vocabulary import train_tokenizer
from phalanx.run.folder import RunFolder
from phalanx.run.verdict import judge
from phalanx.train.machine import this_machine
from phalanx.train.resolve import resolve
from phalanx.train.trainer import Trainer
from tests.data.sets import write_set

SIZES = ["model.layers=2", "model.hidden=32", "model.heads=2", "model.positions=32", "data.sequence=32",
         "layout.micro_batch=3", "train.batch=8", "train.steps=6", "train.eval_every=3", "train.eval_sequences=6",
         "train.compile=off", "precision.dtype=fp32", "optim.lr=5e-3", "optim.warmup=2", "save.every=3",
         "data.split=0.8,0.2,0", "train.device=cpu"]  # fmt: skip
FAMILIES = {
    "gpt": ["task=clm", "model.family=gpt2"],
    "bert": ["task=mlm", "model.family=bert", "model.segments=2", "model.norm_first=false", "model.gelu=erf"],
    "roberta": ["task=mlm", "model.family=roberta", "data.pairs=none", "model.first_position=1"],  # padding is token 0
    "distilbert": ["task=mlm", "model.family=distilbert", "data.pairs=none"],
    "llama": ["task=clm", "model.family=llama", "model.kv_heads=2", "model.width=12"],
    "modernbert": ["task=mlm", "model.family=modernbert", "model.window=10", "data.pairs=none"],
    "qwen3": ["task=clm", "model.family=qwen3", "model.kv_heads=2", "model.width=12"],
    "olmo": ["task=clm", "model.family=olmo", "model.kv_heads=2", "model.width=12", "model.window=8",
             "model.window_layers=10", "model.rope_scaling=yarn", "model.rope_factor=8", "model.rope_original=16"],
    "gemma3": ["task=clm", "model.family=gemma3", "model.kv_heads=1", "model.width=12", "model.window=8",
               "model.window_layers=10", "model.rope_scaling=linear", "model.rope_factor=8", "model.query_scale=10"],
    "windows": ["task=clm", "model.family=tests.strangers.families:Toy", "model.window=5"],
}  # fmt: skip
SETS = {  # families that read another's
    **dict.fromkeys(("llama", "qwen3", "olmo", "gemma3", "windows"), "gpt"),
    **dict.fromkeys(("roberta", "distilbert", "modernbert"), "bert"),
}  # fmt: skip
QUIETLY = ["train.eval_every=0", "save.every=0"]
TIMES = {"tokens_per_s", "mfu", "memory_gib", "seconds", "seconds_left"}  # what two equal runs may differ in


class Corpus(NamedTuple):
    """One text as two sets of tokens: a GPT's, and a BERT's in sentences."""

    folder: Path

    def words(self, family: str) -> list[str]:
        """The overrides that make a tiny run of a family on this text."""
        tokens = f"data.train={self.folder / SETS.get(family, family)}", f"data.tokenizer={self.file(family)}"
        return [*FAMILIES[family], *SIZES, *tokens]

    def file(self, family: str) -> Path:
        """The tokenizer.json of a family's set."""
        return self.folder / f"{SETS.get(family, family)}.json"

    def tokenizer(self, family: str) -> Tokenizer:
        """The tokenizer of a family's set."""
        return load_tokenizer(str(self.file(family)))

    def config(self, family: str, *overrides: str, processes: int = 1) -> Config:
        """A resolved configuration of a tiny run."""
        config = recipe.from_words([*self.words(family), *overrides])
        return resolve(config, this_machine(config.train, processes, self.tokenizer(family).vocab))


def make_corpus(folder: Path) -> Corpus:
    """Sentences of a hundred invented words, each word a likely guess after the one before it."""
    dice = random.Random(5)
    words = ["".join(dice.choices("abcdefgilmnorstu", k=dice.randint(2, 7))) for _ in range(100)]
    documents = [[_sentence(dice, words) for _ in range(dice.randint(3, 9))] for _ in range(40)]
    text = folder / "text.txt"
    text.write_text("\n\n".join("\n".join(sentences) for sentences in documents))
    corpus = Corpus(folder)
    for family, kind, vocab in ("gpt", "bpe", 320), ("bert", "wordpiece", 320):
        tokenizer = train_tokenizer([str(text)], kind, vocab, str(corpus.file(family)))
        if family == "bert":
            encoded = [[tokenizer.encode(sentence) for sentence in sentences] for sentences in documents]
        else:
            assert tokenizer.eod is not None
            encoded = [[[*tokenizer.encode(" ".join(sentences)), tokenizer.eod]] for sentences in documents]
        write_set(folder / family, encoded, tokenizer.vocab)
    return corpus


def _sentence(dice: random.Random, words: list[str]) -> str:
    place = dice.randrange(len(words))
    spoken = []
    for _ in range(dice.randint(3, 12)):
        spoken.append(words[place])
        place = (place * 7 + dice.choice((1, 1, 1, 2))) % len(words)
    return " ".join(spoken) + "."


class Record:
    """Stands where the monitor stands, and keeps what it is told; -1 where that is no finite number."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, float]] = {}
        self.valids: dict[int, dict[str, float]] = {}
        self.notes: list[str] = []

    @contextmanager
    def running(self, *_: object) -> Iterator[None]:
        yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        yield

    def step(self, step: int, values: Mapping[str, float]) -> None:
        assert step not in self.steps
        self.steps[step] = {name: value if math.isfinite(value) else -1.0 for name, value in values.items()}

    def valid(self, step: int, values: Mapping[str, float]) -> None:
        self.valids[step] = dict(values)

    def judged(self) -> str:
        kinds = ("train", self.steps), ("valid", self.valids)
        return judge([{"step": step, "kind": kind, **v} for kind, told in kinds for step, v in told.items()])

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def losses(self) -> list[float]:
        return [values["loss"] for values in self.steps.values()]


def trainer(path: Path, config: Config) -> tuple[Trainer, Record]:
    """A trainer in the run folder `path`, made if there is none, and what will be told of it."""
    folder = RunFolder(path)
    if not folder.exists:
        folder = RunFolder.create(path, config, load_tokenizer(config.data.tokenizer).json())
    record: Any = Record()
    task = registry.TASKS.find(config.task)(config, load_tokenizer(config.data.tokenizer))
    return Trainer(config, task, folder, record), record


def fit(path: Path, config: Config) -> Record:
    """Train in `path` to the end, or go on there."""
    made, record = trainer(path, config)
    made.fit()
    return record


def curve(path: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl tells of a run, without its starts and its speed."""
    records = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [
        {name: value for name, value in record.items() if name not in TIMES}
        for record in records
        if record["kind"] != "start"
    ]


def starts_and_steps(path: Path) -> tuple[int, int]:
    """How many processes began to train in a run folder, and the steps that the last one has done."""
    text = (path / "metrics.jsonl").read_text() if (path / "metrics.jsonl").exists() else ""
    return text.count('"start"'), text.rpartition('"start"')[2].count('"train"')


def hurry() -> None:
    """One thread, as the models are tiny and the machine is shared; and no waiting for disks, as no power will fail."""
    torch.set_num_threads(1)
    os.fsync = lambda _: None


def same_bits(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether 32-bit tensors are equal to the bit, NaN included."""
    raw = [[tensor.flatten().view(torch.int32) for tensor in tensors] for tensors in (one, other)]
    return all(torch.equal(a, b) for a, b in zip(*raw, strict=True))

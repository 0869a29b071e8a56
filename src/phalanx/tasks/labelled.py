"""The base of tasks on labelled files: it reads them, holds some out, and judges the model's answers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from phalanx.config import Config
from phalanx.data.examples import Columns
from phalanx.data.labelled import ByLength, Examples
from phalanx.data.order import Permutation
from phalanx.data.source import Array, Source, Stream
from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError
from phalanx.heads.head import TaskHead, head_of
from phalanx.models.family import sketch_of
from phalanx.nn.batch import Batch
from phalanx.train.task import Task


class Held(Examples):
    """Samples together with the `examples` that they were made of."""

    examples: Sequence[Any] = ()


class Labelled(Task, ABC):
    """A task on labelled files, data.train and data.valid; without the latter data.split holds some examples out."""

    labelled = True
    head: ClassVar[str] = ""  # that it trains, by name or "module:Name"; "" for one of pretraining
    losses: ClassVar[tuple[str, ...]]  # by default that of the head
    metrics: ClassVar[tuple[str, ...]]  # what `judge` gives; the best checkpoint goes by the first
    forms: ClassVar[tuple[str, ...]] = ("table",)  # of the files that it reads

    def __init_subclass__(cls) -> None:
        if cls.head:
            cls.losses = (cls.head,)

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        if config.examples.form not in self.forms:
            raise InputError(f"task={config.task} reads examples.form={' or '.join(self.forms)}")
        if config.examples.metric not in ("", "loss", *self.metrics):
            raise InputError(f"examples.metric={config.examples.metric} is none of {', '.join(self.metrics)} or loss")
        if not self.metrics:
            raise InputError(f"task={config.task} has no metrics; name those that judge() gives, the best first")
        self.columns = Columns(config.examples.text, config.examples.label, config.examples.pair)

    @property
    def best_by(self) -> str:
        """The value that the best checkpoint has most of."""
        return self.config.examples.metric or self.metrics[0]

    @property
    def group(self) -> int:
        """The number of samples that belong to one example."""
        return 1

    @classmethod
    def fitted(cls, config: Config) -> Config:
        """Return the configuration with what the training files say, and with the task's head."""
        return config.model_copy(update={"model": config.model.tuned(cls.head)})

    @cached_property
    def model_head(self) -> TaskHead:
        """The head that it trains, as the model has it."""
        head = head_of(sketch_of(self.config.model), self.config.examples.labels)
        assert head is not None
        return head

    def loss_counts(self, batch: Batch) -> dict[str, Tensor]:
        """Return how many answers the head is asked for."""
        count = self.model_head.count(batch)
        return {} if count is None else {self.head: count}

    @abstractmethod
    def read(self, file: Path) -> Sequence[Any]:
        """Return the examples of a file; InputError names the line that is wrong."""

    @abstractmethod
    def encode(self, examples: Sequence[Any]) -> Held:
        """Return the samples of some examples."""

    @abstractmethod
    def predictions(self, answers: Sequence[Array], source: Held) -> list[dict[str, Any]]:
        """Return a record for each example: the model's answer, and what is right."""

    @abstractmethod
    def judge(self, answers: Sequence[Array], source: Held) -> dict[str, float]:
        """Return all metrics of the answers."""

    def held(self, examples: Sequence[Any]) -> Held:
        """Return the samples of some examples, which keep these."""
        source = self.encode(examples)
        source.examples = examples
        return source

    def of(self, files: Sequence[str], limit: int | None = None) -> Held:
        """Return the samples of all examples of some files, or of `limit` from all over them, always the same."""
        examples = [example for file in files for example in self.read(Path(file))]
        if limit is not None and limit < len(examples):
            order = Permutation(len(examples), 0)
            examples = [examples[k] for k in sorted(order(i) for i in range(limit))]
        return self.held(examples)

    @cached_property
    def _split(self) -> tuple[list[Any], list[Any]]:
        """The examples to train on, and those held out of them. InputError where none can be."""
        if not self.config.data.train:
            raise InputError("data.train is empty; name a file of labelled examples")
        examples = [example for file in self.config.data.train for example in self.read(Path(file))]
        if self.config.data.valid:
            return examples, []

        shares, order = self.config.data.split, Permutation(len(examples), 0)
        count = max(shares[1] > 0, round(len(examples) * shares[1] / max(sum(shares), 1e-9)))
        if len(examples) <= count:
            raise InputError(
                f"{', '.join(self.config.data.train)}: of {len(examples)} examples none can be held out; give more, "
                "or data.valid, or data.split=1,0,0"
            )

        mixed = [examples[order(i)] for i in range(len(examples))]
        return mixed[count:], mixed[:count]

    @cached_property
    def train(self) -> Stream:
        """Training samples without end."""
        return ByLength(self.training, self.config.train.seed, self.config.train.batch, self.group)

    @cached_property
    def training(self) -> Held:
        """Training samples, once."""
        return self.held(self._split[0])

    @cached_property
    def valid(self) -> Source | None:
        """All held-out samples."""
        files = self.config.data.valid
        if files:
            return self.of(files, self.config.train.eval_sequences)
        return self.held(self._split[1]) if self._split[1] else None

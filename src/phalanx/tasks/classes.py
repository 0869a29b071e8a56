"""Classes and numbers of texts and of pairs: sentiment, entailment, paraphrase, similarity (BERT)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from phalanx.config import Config
from phalanx.data.examples import Columns, Row, in_order, table
from phalanx.data.labelled import Assembler
from phalanx.data.source import Array
from phalanx.errors import InputError
from phalanx.nn.batch import Batch
from phalanx.score.classes import METRICS
from phalanx.tasks.labelled import Held, Labelled


class _Texts(Labelled):
    """A text or two, and one answer."""

    def encode(self, examples: Sequence[Row]) -> Held:
        """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP]."""
        assemble = Assembler(self.tokenizer, self.config.data.sequence)
        texts = assemble.encode([row.text for row in examples])
        pairs = assemble.encode([row.pair or "" for row in examples]) if self.columns.pair else [None] * len(texts)
        samples = [assemble.join(a, b) for a, b in zip(texts, pairs, strict=True)]
        asked = [one._replace(**self.answer(row)) for one, row in zip(samples, examples, strict=True)]
        return Held(asked, self.config.data.sequence, assemble.pad)

    def answer(self, row: Row) -> dict[str, Any]:
        """What is right, as a sample says it."""
        raise NotImplementedError


class Classes(_Texts):
    """The class of a text or a pair."""

    losses = ("classes",)
    metrics = ("accuracy", "f1", "matthews")

    @classmethod
    def fitted(cls, config: Config) -> Config:
        """With the classes of the training files."""
        config, examples = super().fitted(config), config.examples
        labels = examples.labels
        if not labels:
            columns = Columns(examples.text, examples.label, examples.pair)
            labels = in_order(row.label.strip() for file in config.data.train for row in table(Path(file), columns))
        model = config.model.tuned(config.task, len(labels))
        return config.model_copy(update={"model": model, "examples": examples.model_copy(update={"labels": labels})})

    def read(self, file: Path) -> list[Row]:
        """The rows of a table; InputError for a class that the training files have not."""
        rows, known = table(file, self.columns), self.config.examples.labels
        for row in rows:
            if row.label.strip() not in known:
                raise InputError(
                    f"{file}, line {row.line}: the class {row.label.strip()!r} is not among those of training: "
                    f"{', '.join(known[:20])}"
                )
        return rows

    def answer(self, row: Row) -> dict[str, Any]:
        """Its number."""
        return {"related": self.config.examples.labels.index(row.label.strip())}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Texts with a class."""
        return {} if batch.related is None else {"classes": (batch.related >= 0).sum()}

    def judge(self, answers: Sequence[Array], source: Held) -> dict[str, float]:
        """Accuracy; F1 is that of the second of two classes."""
        said, right = np.stack(answers).argmax(-1), np.array([one.related for one in source.encoded])
        names = self.metrics if len(self.config.examples.labels) == 2 else ("accuracy", "matthews")
        return {name: METRICS[name](said, right) for name in names}

    def predictions(self, answers: Sequence[Array], source: Held) -> list[dict[str, Any]]:
        """A record for each text: the likeliest class, the right one, and the probabilities of all."""
        names, found = self.config.examples.labels, []
        for row, logits in zip(source.examples, answers, strict=True):
            chances = np.exp(logits - logits.max())
            chances = (chances / chances.sum()).tolist()
            said = names[int(logits.argmax())]
            right = row.label.strip()
            found.append(
                _texts(row)
                | {
                    "label": right,
                    "said": said,
                    "right": said == right,
                    "probabilities": dict(zip(names, chances, strict=True)),
                }
            )
        return found


class Value(_Texts):
    """A number that belongs to a text or a pair, as how alike two sentences are."""

    losses = ("value",)
    metrics = ("spearman", "pearson")

    def read(self, file: Path) -> list[Row]:
        """The rows of a table; InputError for a label that is no number."""
        rows = table(file, self.columns)
        for row in rows:
            if _number(row.label) is None:
                raise InputError(
                    f"{file}, line {row.line}: {row.label!r} is no finite number, and task=value needs one"
                )
        return rows

    def answer(self, row: Row) -> dict[str, Any]:
        """It."""
        return {"value": _number(row.label)}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Texts with a number."""
        return {} if batch.value is None else {"value": batch.value.isfinite().sum()}

    def judge(self, answers: Sequence[Array], source: Held) -> dict[str, float]:
        """Correlations."""
        said, right = np.stack(answers)[:, 0], np.array([one.value for one in source.encoded])
        return {name: METRICS[name](said, right) for name in self.metrics}

    def predictions(self, answers: Sequence[Array], source: Held) -> list[dict[str, Any]]:
        """A record for each text: the predicted number and the right one."""
        return [
            _texts(row) | {"label": _number(row.label), "said": float(said[0])}
            for row, said in zip(source.examples, answers, strict=True)
        ]


def _texts(row: Row) -> dict[str, Any]:
    return {"text": row.text} | ({} if row.pair is None else {"pair": row.pair})


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

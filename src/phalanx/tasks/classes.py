"""Classes and numbers of texts and of pairs: sentiment, entailment, paraphrase, similarity (BERT)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phalanx.config import Config
from phalanx.data.examples import Columns, Row, in_order, table
from phalanx.data.source import Array
from phalanx.errors import InputError
from phalanx.score.classes import METRICS
from phalanx.tasks.labelled import Held
from phalanx.tasks.texts import Texts, texts_of


class Classes(Texts):
    """The class of a text or a pair."""

    head = "classes"
    metrics = ("accuracy", "f1", "matthews")

    @classmethod
    def fitted(cls, config: Config) -> Config:
        """Return the configuration with the classes of the training files, unless it names them."""
        config, examples = super().fitted(config), config.examples
        labels = examples.labels
        if not labels:
            columns = Columns(examples.text, examples.label, examples.pair)
            labels = in_order(row.label.strip() for file in config.data.train for row in table(Path(file), columns))
        model = config.model.tuned(cls.head, len(labels))
        return config.model_copy(update={"model": model, "examples": examples.model_copy(update={"labels": labels})})

    def read(self, file: Path) -> list[Row]:
        """Return the rows of a table; InputError for a class that the training files have not."""
        rows, known = table(file, self.columns), self.config.examples.labels
        for row in rows:
            if row.label.strip() not in known:
                raise InputError(
                    f"{file}, line {row.line}: the class {row.label.strip()!r} is not among those of training: "
                    f"{', '.join(known[:20])}"
                )
        return rows

    def answer(self, row: Row) -> dict[str, Any]:
        """Return what a row is answered with: the number of its class."""
        return {"related": self.config.examples.labels.index(row.label.strip())}

    def judge(self, answers: Sequence[Array], source: Held) -> dict[str, float]:
        """Return the metrics; F1, which is that of the second class, only where there are two."""
        predicted, right = np.stack(answers).argmax(-1), np.array([sample.related for sample in source.encoded])
        names = self.metrics if len(self.config.examples.labels) == 2 else ("accuracy", "matthews")
        return {name: METRICS[name](predicted, right) for name in names}

    def predictions(self, answers: Sequence[Array], source: Held) -> list[dict[str, Any]]:
        """Return a record for each text: the likeliest class, the right one, and the probabilities of all."""
        records = []
        for row, logits in zip(source.examples, answers, strict=True):
            predicted, chances = self.model_head.decode(logits)
            right = row.label.strip()
            result = {"label": right, "said": predicted, "right": predicted == right, "probabilities": chances}
            records.append(texts_of(row) | result)
        return records


class Value(Texts):
    """A number that belongs to a text or a pair, as how alike two sentences are."""

    head = "value"
    metrics = ("spearman", "pearson")

    def read(self, file: Path) -> list[Row]:
        """Return the rows of a table; InputError for a label that is no finite number."""
        rows = table(file, self.columns)
        for row in rows:
            if _number(row.label) is None:
                raise InputError(
                    f"{file}, line {row.line}: {row.label!r} is no finite number, and task=value needs one"
                )
        return rows

    def answer(self, row: Row) -> dict[str, Any]:
        """Return what a row is answered with: its number."""
        return {"value": _number(row.label)}

    def judge(self, answers: Sequence[Array], source: Held) -> dict[str, float]:
        """Return the correlations with the examples' numbers."""
        predicted, right = np.stack(answers)[:, 0], np.array([sample.value for sample in source.encoded])
        return {name: METRICS[name](predicted, right) for name in self.metrics}

    def predictions(self, answers: Sequence[Array], source: Held) -> list[dict[str, Any]]:
        """Return a record for each text: the predicted number and the right one."""
        return [
            texts_of(row) | {"label": _number(row.label), "said": self.model_head.decode(logits).value}
            for row, logits in zip(source.examples, answers, strict=True)
        ]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

"""The result of an evaluation: values with their meanings, and each example's answer."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phalanx import durable
from phalanx.errors import InputError
from phalanx.units import aligned

MEANINGS = {
    "loss": "nats for each prediction, the task's losses added",
    "perplexity": "exp(nats) of the first loss",
    "bits_per_byte": "of the predicted text",
    "word_perplexity": "exp(nats / words), words being what white space separates",
    "tokens": "predicted",
    "samples": "sequences",
    "bytes": "of the predicted text",
    "words": "of the predicted text",
    "accuracy": "the share that is right",
    "f1": "harmonic mean of precision and recall",
    "matthews": "Matthews' correlation of said and true classes",
    "spearman": "correlation of ranks",
    "pearson": "correlation",
    "exact_match": "per cent of answers equal to a reference, without case, punctuation and articles",
    "has_answer_exact_match": "the same, of questions with an answer",
    "has_answer_f1": "per cent, of questions with an answer",
    "no_answer_exact_match": "per cent of questions without an answer that were left unanswered",
    "no_answer_f1": "the same",
    "best_threshold": "of silence, the one that gives the highest F1 here",
    "best_f1": "per cent, with that threshold",
    "exact": "completions that are greedily right to the last token",
    "token_accuracy": "tokens that are greedily right, given those before",
}


@dataclass(frozen=True)
class Scores:
    """Values by name, what each of them means, how many examples there were, each example's own result, and what must
    be known before the values are compared with others'.
    """

    values: dict[str, float]
    meanings: dict[str, str]
    examples: int
    predictions: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""

    def lines(self) -> list[str]:
        """Return lines for a terminal: each value with its meaning, the number of examples, and the note."""
        rows = [[name, _number(value), self.meanings.get(name, "")] for name, value in self.values.items()]
        end = [f"{self.examples:,} examples", *([self.note] if self.note else [])]
        return [*aligned(rows, left=(0, 2), space="  "), *end]

    def write(self, file: Path) -> None:
        """Write each example's result, a JSON object a line; InputError where the task has none."""
        if not self.predictions:
            raise InputError(f"{file} is not written: this task has no answers of single examples")
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in self.predictions)
        durable.write(file, text.encode())


def _number(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() and abs(value) >= 100 else f"{value:.4f}"

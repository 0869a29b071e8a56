"""Prompt and completion: a GPT learns to go on as the examples do; the prompt itself is not predicted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from phalanx.config import Config
from phalanx.data.examples import Row, table
from phalanx.data.labelled import Encoded
from phalanx.data.source import Array
from phalanx.errors import InputError
from phalanx.models.family import sketch_of
from phalanx.nn.batch import Batch
from phalanx.tasks.labelled import Held, Labelled


class Completion(Labelled):
    """Prompt, completion and the end-of-text token; too long a prompt loses its beginning."""

    losses = ("lm",)
    metrics = ("exact", "token_accuracy")

    @property
    def best_by(self) -> str:
        """Most completions can be written in several ways: the loss, unless another metric is asked for."""
        return self.config.examples.metric or "loss"

    @classmethod
    def fitted(cls, config: Config) -> Config:
        """Return the configuration as it is: a GPT has one head."""
        if "lm" not in sketch_of(config.model).losses:
            raise InputError(f"task=completion is for models that write (model.family=gpt2), not {config.model.family}")
        return config

    def read(self, file: Path) -> list[Row]:
        """Return the rows of a table; InputError for a completion that is empty."""
        rows = table(file, self.columns)
        for row in rows:
            if not row.label:
                raise InputError(f"{file}, line {row.line}: the completion is empty")
        return rows

    def encode(self, examples: Sequence[Row]) -> Held:
        """Return samples whose labels are the completion's tokens and the end.

        InputError for a completion that is longer than a sequence.
        """
        length, end = self.config.data.sequence, [] if self.tokenizer.eod is None else [self.tokenizer.eod]
        encoded = []

        for row in examples:
            text, answer = self.tokenizer.encode(row.text), self.tokenizer.encode(row.label) + end
            prompt = self.tokenizer.begin + text or end  # as `generate` begins
            prompt = prompt[-max(1, length + 1 - len(answer)) :]
            if len(prompt) + len(answer) > length + 1:
                raise InputError(
                    f"line {row.line}: a completion of {len(answer)} tokens does not fit data.sequence={length}"
                )

            tokens = np.array(prompt + answer, np.int64)
            labels = np.where(np.arange(1, len(tokens)) < len(prompt), -1, tokens[1:])
            encoded.append(Encoded(tokens[:-1], len(tokens), labels))
        return Held(encoded, length, self.tokenizer.eod or 0, causal=True)

    def loss_counts(self, batch: Batch) -> dict[str, Tensor]:
        """Return how many tokens are predicted."""
        assert batch.labels is not None
        return {"lm": (batch.labels >= 0).sum()}

    def judge(self, answers: Sequence[Array], source: Held) -> dict[str, float]:
        """Return the share of completions that are greedily right to the last token, and of tokens."""
        right = [rows[:, 1] > 0 for rows in self._predicted(answers, source)]
        return {
            "exact": float(np.mean([r.all() for r in right])),
            "token_accuracy": float(np.concatenate(right).mean()),
        }

    def predictions(self, answers: Sequence[Array], source: Held) -> list[dict[str, Any]]:
        """Return a record for each completion: whether greedy decoding gives it, and its natural log-probability."""
        return [
            {
                "text": row.text,
                "label": row.label,
                "right": bool(rows[:, 1].all()),
                "log_probability": -float(rows[:, 0].sum()),
            }
            for row, rows in zip(source.examples, self._predicted(answers, source), strict=True)
        ]

    def _predicted(self, answers: Sequence[Array], source: Held) -> list[Array]:
        """Return loss and verdict of each example's predicted tokens: [tokens, 2]."""
        predicted = []
        for sample, rows in zip(source.encoded, answers, strict=True):
            assert sample.labels is not None
            predicted.append(rows[: len(sample.labels)][sample.labels >= 0])
        return predicted

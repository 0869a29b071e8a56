"""The base of tasks about a text, or about a pair of texts: an encoder's head gives one answer for each."""

from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from phalanx.data.examples import Row, table
from phalanx.data.labelled import Assembler
from phalanx.data.source import Array
from phalanx.errors import InputError
from phalanx.tasks.labelled import Held, Labelled


class Texts(Labelled):
    """A task on the rows of a table, each with a text or two and a label."""

    def answer(self, row: Row) -> dict[str, Any]:
        """Return what is right of a row, under the field that the head asks for: {"related": 1}, or {"value": 0.5}."""
        raise NotImplementedError

    def read(self, file: Path) -> list[Row]:
        """Return the rows of a table."""
        return table(file, self.columns)

    def encode(self, examples: Sequence[Row]) -> Held:
        """Return a sample for each row: [CLS] text [SEP], or [CLS] text [SEP] pair [SEP]."""
        assemble = Assembler(self.tokenizer, self.config.data.sequence)
        texts = assemble.encode([row.text for row in examples])
        pairs = assemble.encode([row.pair or "" for row in examples]) if self.columns.pair else [None] * len(texts)
        samples = [assemble.join(a, b) for a, b in zip(texts, pairs, strict=True)]
        labelled = [sample._replace(**self._answer(row)) for sample, row in zip(samples, examples, strict=True)]
        return Held(labelled, self.config.data.sequence, assemble.pad)

    def _answer(self, row: Row) -> dict[str, Any]:
        """Return what `answer` does. InputError where that is no number."""
        answer = self.answer(row)
        for field, value in answer.items():
            kind, wanted = (Real, "a number") if field == "value" else (Integral, "a whole number")
            if field in ("related", "value") and not isinstance(value, kind):
                raise InputError(f"task={self.config.task}: answer() gave {field}={value!r:.60}, not {wanted}")
        return answer

    def predictions(self, answers: Sequence[Array], source: Held) -> list[dict[str, Any]]:
        """Return a record for each row: its texts, its label, and the head's answer."""
        return [
            texts_of(row) | {"label": row.label, "said": self.model_head.decode(logits)._asdict()}
            for row, logits in zip(source.examples, answers, strict=True)
        ]


def texts_of(row: Row) -> dict[str, Any]:
    """Return the text, or the two texts, of a row, as a record has them."""
    return {"text": row.text} | ({} if row.pair is None else {"pair": row.pair})

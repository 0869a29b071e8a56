"""Questions whose answer is a span of a context: SQuAD 1.1, and 2.0, where some have none (BERT)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phalanx.data.examples import Question, squad
from phalanx.data.labelled import Assembler
from phalanx.data.source import Array
from phalanx.data.windows import Window, windows
from phalanx.heads.span import SpanHead
from phalanx.score import squad as scores
from phalanx.tasks.labelled import Held, Labelled


class _Windows(Held):
    """Samples together with the windows (`parts`) that they are."""

    parts: list[Window]


class Span(Labelled):
    """Windows over the context; of all windows of a question the likeliest span answers it."""

    head = "span"
    metrics = ("f1", "exact_match")
    forms = ("squad", "squad2")

    @property
    def silent(self) -> bool:
        """Whether a question may have no answer."""
        return self.config.examples.form == "squad2"

    def read(self, file: Path) -> list[Question]:
        """Return the questions of a file."""
        return squad(file)

    def encode(self, examples: Sequence[Question]) -> Held:
        """Return a sample for each window."""
        assemble = Assembler(self.tokenizer, self.config.data.sequence)
        encoded, parts = windows(examples, assemble, self.config.examples.stride)
        source = _Windows(encoded, self.config.data.sequence, assemble.pad)
        source.parts = parts
        return source

    def judge(self, answers: Sequence[Array], source: Held) -> dict[str, float]:
        """Return exact match and F1, in per cent; of 2.0 also F1 with the threshold that would give the most."""
        answered = self._answers(answers, source)
        references = [scores.Reference(q.id, tuple(text for _, text in q.answers)) for q in source.examples]
        values = scores.score(
            references, {q.id: text for q, (text, _, _) in zip(source.examples, answered, strict=True)}
        )
        if self.silent:
            silence = {q.id: lead for q, (_, _, lead) in zip(source.examples, answered, strict=True)}
            spans = {q.id: span for q, (_, span, _) in zip(source.examples, answered, strict=True)}
            threshold = scores.threshold(references, spans, silence)
            predicted = {id: "" if silence[id] > threshold else text for id, text in spans.items()}
            values |= {"best_threshold": threshold, "best_f1": scores.score(references, predicted)["f1"]}
        return values

    def predictions(self, answers: Sequence[Array], source: Held) -> list[dict[str, Any]]:
        """Return a record for each question: its predicted and right answers, and how much likelier no answer is."""
        return [
            {
                "id": q.id,
                "question": q.question,
                "said": predicted,
                "label": [text for _, text in q.answers],
                "no_answer": lead,
            }
            for q, (predicted, _, lead) in zip(source.examples, self._answers(answers, source), strict=True)
        ]

    def _answers(self, answers: Sequence[Array], source: Held) -> list[tuple[str, str, float]]:
        """Return for each question its answer, the text of its likeliest span, and no answer's score minus that span's.

        The answer is that text, or empty where the task allows no answer and the difference exceeds the threshold.
        """
        answered, head = [], self.model_head
        assert isinstance(source, _Windows) and isinstance(head, SpanHead)
        spans = head.answers(source.parts, answers, len(source.examples), self.config.examples.longest)
        for span, question in zip(spans, source.examples, strict=True):
            text = question.context[span.start : span.stop]
            quiet = self.silent and span.silence > self.config.examples.threshold
            answered.append(("" if quiet else text, text, span.silence))
        return answered

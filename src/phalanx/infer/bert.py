"""A BERT that answers, classifies, fills and embeds. What it can do follows from what it was trained for."""

from collections.abc import Callable, Sequence
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from phalanx.data.examples import Question
from phalanx.data.labelled import Assembler, Encoded
from phalanx.data.source import Array
from phalanx.data.windows import windows
from phalanx.errors import InputError
from phalanx.infer import backends
from phalanx.infer.answer import spoken
from phalanx.infer.backends import Program, Wanted
from phalanx.infer.choose import choose
from phalanx.infer.fill import Blank, fill, fill_all
from phalanx.infer.loaded import Loaded

Text = str | tuple[str, str]  # or a pair


class Answer(NamedTuple):
    """A part of a context: context[start:stop] is text. Empty where the model says that there is none."""

    text: str
    start: int
    stop: int
    score: float  # how much likelier than no answer, in nats


class Class(NamedTuple):
    """The likeliest class, and the probability of each."""

    label: str
    probabilities: dict[str, float]


class Bert:
    """One model; its methods may be called from several threads, one of which computes at a time."""

    def __init__(self, loaded: Loaded, backend: str, precision: str, say: Callable[[str], None]) -> None:
        self.loaded, self.backend, self.precision, self.say = loaded, backend, precision, say
        self.lock = Lock()
        self.head = loaded.config.model.head

    @cached_property
    def assemble(self) -> Assembler:
        """Texts to rows."""
        return Assembler(self.loaded.tokenizer, self.loaded.context)

    @cached_property
    def said(self) -> Program:
        """What the head says to rows."""
        return self._program(hidden=False)

    @cached_property
    def body(self) -> Program:
        """What lies under the head."""
        return self._program(hidden=True)

    def ready(self) -> None:
        """Make now what the first calls would make: graphs of a few lengths, where there are graphs."""
        program = self.said if self.head else self.body
        for length in (16, 128, self.loaded.context):
            tokens = np.zeros(min(length, self.loaded.context), np.int64)
            program([Encoded(tokens, len(tokens))])

    def answer(self, question: str, context: str) -> Answer:
        """The part of `context` that answers `question`. InputError where the model was not tuned for that."""
        return self.answers([(question, context)])[0]

    def answers(self, asked: Sequence[tuple[str, str]]) -> list[Answer]:
        """Of questions with their contexts, however long: these are read in windows that overlap."""
        self._must("span", "answer questions", "squad")
        for question, context in asked:
            _some(question, "question")
            _some(context, "context")
        examples = self.loaded.config.examples
        questions = [Question("", question, context, ()) for question, context in asked]
        stride = min(examples.stride, max(1, self.loaded.context // 2))
        rows, parts = windows(questions, self.assemble, stride)
        found = []
        spans = spoken(parts, self._run(self.said, rows), len(asked), examples.longest)
        for (_, context), span in zip(asked, spans, strict=True):
            start, stop = span.start, span.stop
            if examples.form == "squad2" and span.silence > examples.threshold:
                start = stop = 0
            found.append(Answer(context[start:stop], start, stop, -span.silence))
        return found

    def classify(self, text: Text) -> Class:
        """The class of a text or a pair. InputError where the model was not tuned for classes."""
        return self.classified([text])[0]

    def classified(self, texts: Sequence[Text]) -> list[Class]:
        """The class of each."""
        self._must("classes", "classify", "classes")
        names = self.loaded.config.examples.labels or tuple(map(str, range(self.loaded.config.model.classes)))
        found = []
        for logits in self._run(self.said, self._rows(texts)):
            chances = np.exp(logits - logits.max())
            chances = (chances / chances.sum()).tolist()
            found.append(Class(names[int(logits.argmax())], dict(zip(names, chances, strict=True))))
        return found

    def values(self, texts: Sequence[Text]) -> list[float]:
        """The number of each, of a model tuned for task=value."""
        self._must("value", "give numbers", "stsb")
        return [float(logits[0]) for logits in self._run(self.said, self._rows(texts))]

    def fill(self, text: str, top: int = 5) -> list[Blank]:
        """The likeliest words of every mask."""
        return self.fills([(text, top)])[0]

    def fills(self, asked: Sequence[tuple[str, int]]) -> list[list[Blank]]:
        """Of several texts, each with how many words of a mask are wanted."""
        with self.lock:
            if self.loaded.config.task != "mlm" or self.head:
                return [fill(self.loaded, text, top) for text, top in asked]
            return fill_all(self.loaded, asked, self.body)

    def embed(self, texts: Sequence[str]) -> Array:
        """float32 [texts, hidden], of length 1: the mean over tokens of what lies under the head (Reimers and Gurevych,
        arXiv 1908.10084). Texts past the context lose their ends.
        """
        hidden = self._run(self.body, self._rows(texts))
        means = np.stack([one.mean(0) for one in hidden]) if hidden else np.zeros((0, self.loaded.config.model.hidden))
        unit: Array = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        return unit.astype(np.float32)

    def lengths(self, texts: Sequence[Text]) -> list[int]:
        """Tokens of each, as far as the model sees."""
        return [len(row.tokens) for row in self._rows(texts)]

    def _rows(self, texts: Sequence[Text]) -> list[Encoded]:
        pairs = [(text, None) if isinstance(text, str) else text for text in texts]
        for first, _ in pairs:
            _some(first, "text")
        firsts = self.assemble.encode([first for first, _ in pairs])
        seconds = self.assemble.encode([second or "" for _, second in pairs])
        return [
            self.assemble.join(a, None if pair[1] is None else b)
            for a, b, pair in zip(firsts, seconds, pairs, strict=True)
        ]

    def _run(self, program: Program, rows: Sequence[Encoded]) -> list[Array]:
        if not rows:
            return []
        with self.lock:
            found = program(rows)
        if not all(np.isfinite(one).all() for one in found):
            raise InputError(f"{self.loaded.run}: the answers are not finite; train again with a lower optim.lr")
        return found

    def _program(self, hidden: bool) -> Program:
        if self.backend == "auto":
            return choose(self.loaded, self.precision, hidden, self.say)
        return backends.build(self.backend, Wanted(self.loaded, self.precision, hidden))

    def _must(self, head: str, what: str, task: str) -> None:
        if self.head != head:
            run = self.loaded.run
            was = f"was tuned for task={self.loaded.config.task}" if self.head else "was not tuned for it"
            raise InputError(f"{run} cannot {what}: it {was}; make one that can: phalanx tune {run} --task {task}")


def _some(text: Any, what: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"the {what} is empty; give some text")

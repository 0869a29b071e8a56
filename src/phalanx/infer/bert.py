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
Given = Text | Sequence[int]  # or the tokens of a text

DOES = {"span": ["answer"], "classes": ["classify"], "value": ["classify"], "": ["fill", "embed"]}  # by head
TEXTS = 256  # whose tokens' vectors are in memory at once


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
        return Assembler(self.loaded.tokenizer.for_prompts(), self.loaded.context)

    @cached_property
    def said(self) -> Program:
        """What the head says to rows."""
        return self._program(hidden=False)

    @cached_property
    def body(self) -> Program:
        """What lies under the head."""
        return self._program(hidden=True)

    @property
    def can(self) -> list[str]:
        """What may be asked of it: answer, classify, or fill and embed. Nothing that needs weights that it lacks."""
        loaded = self.loaded
        cannot = {
            "fill": loaded.config.task == "clm" or loaded.origin.lacking("masked"), "embed": loaded.origin.no_vectors,
            "answer": loaded.origin.lacking("answer"), "classify": loaded.origin.lacking("answer"),
        }  # fmt: skip
        return [what for what in DOES.get(self.head, []) if not cannot[what]]

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
        _all_some([question for question, _ in asked], "question")
        _all_some([context for _, context in asked], "context")
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
        """The class of each. Where classes do not exclude one another, their probabilities need not sum to 1."""
        self._must("classes", "classify", "classes")
        names = self.loaded.config.examples.labels or tuple(map(str, range(self.loaded.config.model.classes)))
        found = []
        for logits in self._run(self.said, self._rows(texts)):
            chances = (_sigmoid(logits) if self.loaded.origin.multilabel else _softmax(logits)).tolist()
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

    def embed(self, texts: Sequence[str | Sequence[int]]) -> Array:
        """float32 [texts, hidden]: the mean over tokens of what lies under the head (Reimers and Gurevych, arXiv
        1908.10084). Of length 1, but where a folder of sentence-transformers has no Normalize. Texts past the context
        lose their ends. InputError where the folder means other vectors than these.
        """
        return self.embedded(texts)[0]

    def embedded(self, texts: Sequence[str | Sequence[int]]) -> tuple[Array, list[int]]:
        """The same, and how many tokens of each text the model sees."""
        if self.loaded.origin.no_vectors:
            raise InputError(f"{self.loaded.run} cannot embed: {self.loaded.origin.no_vectors}")
        rows = self._rows(texts)
        means = np.zeros((len(rows), self.loaded.config.model.hidden), np.float32)
        for start in range(0, len(rows), TEXTS):
            for at, hidden in enumerate(self._run(self.body, rows[start : start + TEXTS]), start):
                means[at] = hidden.mean(0)
        if self.loaded.origin.normalize:
            means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        return means, [len(row.tokens) for row in rows]

    def _rows(self, texts: Sequence[Given]) -> list[Encoded]:
        _all_some([text[0] if isinstance(text, tuple) else text for text in texts], "text")
        pairs = [text if isinstance(text, tuple) else (text if isinstance(text, str) else "", None) for text in texts]
        firsts = self.assemble.encode([first for first, _ in pairs])
        seconds = self.assemble.encode([second or "" for _, second in pairs])
        return [
            self.assemble.join(self._known(text) if isinstance(text, list) else a, None if pair[1] is None else b)
            for text, a, b, pair in zip(texts, firsts, seconds, pairs, strict=True)
        ]

    def _known(self, ids: Sequence[int]) -> Array:
        """Tokens of a text, with or without [CLS] and [SEP] around them. InputError for what no text of this tokenizer
        has: another tokenizer's tokens would give a vector that means nothing.
        """
        words = self.assemble.tokenizer
        foreign = next((i for i in words.known(ids) if not words.makes(i)), None)
        if foreign is not None:
            raise InputError(
                f"token {foreign} ({words.token(foreign)}) is in no text of this model's tokenizer, so the tokens are "
                "another's; send text (langchain: check_embedding_ctx_length=False)"
            )
        bare = [*ids]
        if bare[0] == self.assemble.cls:
            bare = bare[1:-1] if bare[-1] == self.assemble.sep else bare[1:]
        return np.array(bare, np.int64)

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
        if self.head == head and (reason := self.loaded.origin.lacking("answer")):
            raise InputError(f"{self.loaded.run} cannot {what}: {reason}; take a folder that was fine-tuned")
        if self.head != head:
            run = self.loaded.run
            was = f"was tuned for task={self.loaded.config.task}" if self.head else "was not tuned for it"
            raise InputError(f"{run} cannot {what}: it {was}; make one that can: phalanx tune {run} --task {task}")


def visible(text: str) -> bool:
    """Whether a text has a character that can be seen."""
    return any(character.isprintable() and not character.isspace() for character in text)


def _all_some(texts: Sequence[Any], what: str) -> None:
    """InputError where one is no text, or nothing of it can be seen; of many it says which, counted from 1."""
    for number, text in enumerate(texts, 1):
        if not (visible(text) if isinstance(text, str) else isinstance(text, list) and text):
            which = f"{what} {number} of {len(texts)}" if len(texts) > 1 else f"the {what}"
            raise InputError(f"{which} is empty; give some text")


def _softmax(logits: Array) -> Array:
    shares = np.exp(logits - logits.max())
    chances: Array = shares / shares.sum()
    return chances


def _sigmoid(logits: Array) -> Array:
    chances: Array = 1 / (1 + np.exp(-logits.clip(-80, 80)))
    return chances

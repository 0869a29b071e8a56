"""An encoder that answers, classifies, fills and embeds. What it can do follows from what it was trained for."""

from collections.abc import Callable, Sequence
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple, TypeGuard, cast

import numpy as np

from phalanx import registry
from phalanx.data.examples import Question
from phalanx.data.labelled import Assembler, Encoded
from phalanx.data.source import Array
from phalanx.data.windows import windows
from phalanx.errors import InputError
from phalanx.heads.classes import Class
from phalanx.heads.head import head_of
from phalanx.heads.span import SpanHead
from phalanx.infer import backends
from phalanx.infer.abilities import refusal, verbs
from phalanx.infer.autotune import fastest
from phalanx.infer.backends.protocol import EncoderProgram, ProgramSpec
from phalanx.infer.bundle import ModelBundle
from phalanx.infer.fill import Blank, fill_all

Text = str | tuple[str, str]  # or a pair
Given = Text | list[int]  # or the tokens of a text

TEXTS = 256  # whose tokens' vectors are in memory at once


class Answer(NamedTuple):
    """A part of a context: context[start:stop] is text. It is empty where the model says that there is no answer."""

    text: str
    start: int
    stop: int
    score: float  # how much likelier than no answer, in nats


class EncoderModel:
    """One model; its methods may be called from several threads, one of which computes at a time."""

    def __init__(self, bundle: ModelBundle, backend: str, precision: str, log: Callable[[str], None]) -> None:
        """`backend` is auto or a backend's name, `log` gets what auto measured. InputError for a backend that cannot
        compute the model in `precision`.
        """
        if backend != "auto":
            backends.require(backend, "encoder", bundle.spec, precision)
        self.bundle, self.backend, self.precision, self.log = bundle, backend, precision, log
        self.lock = Lock()
        self.head = head_of(bundle.spec, bundle.config.examples.labels, exclusive=not bundle.record.multilabel)

    @cached_property
    def assemble(self) -> Assembler:
        """The assembler of texts' tokens into rows, with [CLS] and [SEP]."""
        return Assembler(self.bundle.tokenizer.for_prompts(), self.bundle.context)

    @cached_property
    def scores(self) -> EncoderProgram:
        """The program of the whole model: its head's scores."""
        return self._program(hidden=False)

    @cached_property
    def body(self) -> EncoderProgram:
        """The program of what lies under the head: hidden states."""
        return self._program(hidden=True)

    @property
    def can(self) -> list[str]:
        """The verbs that the model may be asked for where it is served: answer, classify, fill, embed."""
        return [verb for verb in verbs(self.bundle.config) if not self.refusal(verb)]

    @property
    def mask(self) -> str:
        """The name of the token for a word to be guessed, as [MASK]; "" where there is none."""
        tokenizer = self.bundle.tokenizer
        return "" if tokenizer.mask is None else tokenizer.token(tokenizer.mask)

    def refusal(self, verb: str) -> str:
        """Return why the model cannot be asked for `verb` (`abilities.refusal`), and what would do; "" if it can."""
        return refusal(verb, self.bundle.run, self.bundle.config, self.bundle.record)

    def ready(self) -> None:
        """Make now what the first calls would make: graphs of a few lengths, where there are graphs."""
        program = self.scores if self.head else self.body
        for length in (16, 128, self.bundle.context):
            tokens = np.zeros(min(length, self.bundle.context), np.int64)
            program([Encoded(tokens, len(tokens))])

    def answer(self, question: str, context: str) -> Answer:
        """Return the part of `context` that answers `question`. InputError where the model was not tuned for that."""
        return self.answers([(question, context)])[0]

    def answers(self, asked: Sequence[tuple[str, str]]) -> list[Answer]:
        """Return the answers of questions with their contexts. Contexts longer than the model's are read in windows
        that overlap. InputError as in `answer`.
        """
        self._must("answer")
        _all_some([question for question, _ in asked], "question")
        _all_some([context for _, context in asked], "context")

        examples = self.bundle.config.examples
        questions = [Question("", question, context, ()) for question, context in asked]
        stride = min(examples.stride, max(1, self.bundle.context // 2))
        rows, parts = windows(questions, self.assemble, stride)

        answers, head = list[Answer](), cast(SpanHead, self.head)
        spans = head.answers(parts, self._run(self.scores, rows), len(asked), examples.longest)
        for (_, context), span in zip(asked, spans, strict=True):
            start, stop = span.start, span.stop
            if examples.form == "squad2" and span.silence > examples.threshold:
                start = stop = 0
            answers.append(Answer(context[start:stop], start, stop, -span.silence))
        return answers

    def predict(self, texts: Sequence[Text]) -> list[Any]:
        """Return the head's reading of each text or pair: a NamedTuple, whose fields depend on the head. InputError
        where the model was not tuned for texts.
        """
        self._must("classify")
        assert self.head is not None
        answers = self._run(self.scores, self._rows(texts))
        with registry.blamed("model.head", self.head.part.loss, "decode()"):
            return [self.head.decode(logits) for logits in answers]

    def classify(self, text: Text) -> Class:
        """Return the class of a text or a pair. InputError where the model was not tuned for classes."""
        return self.classified([text])[0]

    def classified(self, texts: Sequence[Text]) -> list[Class]:
        """Return the class of each text or pair. Where classes do not exclude one another, probabilities sum to
        anything.
        """
        self._must("classes")
        return self.predict(texts)

    def values(self, texts: Sequence[Text]) -> list[float]:
        """Return the number of each text. InputError where the model was not tuned for task=value."""
        self._must("value")
        return [prediction.value for prediction in self.predict(texts)]

    def fill(self, text: str, top: int = 5) -> list[Blank]:
        """Return the `top` likeliest words of every mask of a text."""
        return self.fills([(text, top)])[0]

    def fills(self, asked: Sequence[tuple[str, int]]) -> list[list[Blank]]:
        """Return the likeliest words of every mask of several texts, each with how many words are wanted."""
        self._must("fill")
        with self.lock:
            return fill_all(self.bundle, asked, self.body)

    def embed(self, texts: Sequence[str | list[int]]) -> Array:
        """Return vectors, float32 [texts, hidden]: the mean over tokens of what lies under the head (Reimers and
        Gurevych, arXiv 1908.10084). They are brought to length 1, but where a folder of sentence-transformers has no
        Normalize. A text may be given as its tokens; one past the context loses its end. InputError where the folder
        means other vectors.
        """
        return self.embedded(texts)[0]

    def embedded(self, texts: Sequence[str | list[int]]) -> tuple[Array, list[int]]:
        """Return the vectors that `embed` gives, and how many tokens of each text the model sees."""
        self._must("embed")
        rows = self._rows(texts)
        means = np.zeros((len(rows), self.bundle.config.model.hidden), np.float32)
        for start in range(0, len(rows), TEXTS):
            for at, hidden in enumerate(self._run(self.body, rows[start : start + TEXTS]), start):
                means[at] = hidden.mean(0)
        if self.bundle.record.normalize:
            means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        return means, [len(row.tokens) for row in rows]

    def _rows(self, texts: Sequence[Given]) -> list[Encoded]:
        _all_some([text[0] if _is_pair(text) else text for text in texts], "text")
        pairs = [text if _is_pair(text) else (text if isinstance(text, str) else "", None) for text in texts]
        firsts = self.assemble.encode([first for first, _ in pairs])
        seconds = self.assemble.encode([second or "" for _, second in pairs])
        return [
            self.assemble.join(self._known(text) if isinstance(text, list) else a, None if pair[1] is None else b)
            for text, a, b, pair in zip(texts, firsts, seconds, pairs, strict=True)
        ]

    def _known(self, ids: list[int]) -> Array:
        """Return the tokens of a text that the model sees, without [CLS] and [SEP] (or their like) where these are
        around them.
        InputError for what no text of this tokenizer has: another tokenizer's tokens would give a vector that means
        nothing.
        """
        bare, (begin, _, end) = ids, self.assemble.frame
        if tuple(bare[: len(begin)]) == begin:
            bare = bare[len(begin) :]
            bare = bare[: -len(end)] if tuple(bare[-len(end) :]) == end else bare
        bare = bare[: self.assemble.room]

        words = self.assemble.tokenizer
        foreign = next((i for i in words.known(bare) if i in words.unreachable), None)
        if foreign is not None:
            raise InputError(
                f"token {foreign} ({words.token(foreign)}) is in no text of this model's tokenizer, so the tokens are "
                "another's; send text (langchain: check_embedding_ctx_length=False)"
            )
        return np.array(bare, np.int64)

    def _run(self, program: EncoderProgram, rows: Sequence[Encoded]) -> list[Array]:
        if not rows:
            return []
        with self.lock:
            answers = program(rows)
        if not all(np.isfinite(answer).all() for answer in answers):
            raise self.bundle.broken()
        return answers

    def _program(self, hidden: bool) -> EncoderProgram:
        program = ProgramSpec(self.bundle, self.precision, hidden)
        if self.backend == "auto":
            return fastest(program, self.log)
        return backends.encoder_program(self.backend, program)

    def _must(self, verb: str) -> None:
        """Raise InputError where the model cannot be asked for `verb`."""
        if reason := self.refusal(verb):
            raise InputError(reason)


def visible(text: str) -> bool:
    """Return whether a text has a character that can be seen."""
    return any(character.isprintable() and not character.isspace() for character in text)


def _is_pair(text: Any) -> TypeGuard[tuple[str, str]]:
    """Return whether it is two texts. A tuple of tokens is none."""
    return isinstance(text, tuple) and all(isinstance(part, str) for part in text)


def _all_some(texts: Sequence[Any], what: str) -> None:
    """Raise InputError for a value that is no text, or of which nothing can be seen; of many it names which, from 1."""
    for number, text in enumerate(texts, 1):
        which = f"{what} {number} of {len(texts)}" if len(texts) > 1 else f"the {what}"
        if not isinstance(text, str | list):
            raise InputError(f"{which} is of the type {type(text).__name__}; give a str, or its tokens as a list[int]")
        if not (visible(text) if isinstance(text, str) else text):
            raise InputError(f"{which} is empty; give some text")

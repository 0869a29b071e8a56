"""Questions about contexts as samples: [CLS] question [SEP] context [SEP], a long context in windows that overlap."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from phalanx.data.examples import Question
from phalanx.data.labelled import Assembler, Encoded
from phalanx.data.source import Array
from phalanx.errors import InputError

ASKED = 64  # tokens of a question, at most, as Google's
BEGINS, ENDS = 1, 2  # what a label says of a token


class Window(NamedTuple):
    """A part of a context: whose it is, where it lies in the sequence, and where its tokens lie in the text."""

    question: int
    first: int
    places: Array  # int64 [tokens, 2], characters


def windows(questions: Sequence[Question], assemble: Assembler, stride: int) -> tuple[list[Encoded], list[Window]]:
    """Return the samples of all questions, and their windows. The label is the question's first answer where the window
    holds all of it, else [CLS].
    """
    question_tokens = assemble.encode([question.question for question in questions])
    contexts: dict[str, tuple[Array, Array]] = {}
    encoded, parts = [], []
    for number, (question, words) in enumerate(zip(questions, question_tokens, strict=True)):
        if question.context not in contexts:
            contexts[question.context] = assemble.tokenizer.encode_places(question.context)
        ids, places = contexts[question.context]

        words = words[:ASKED]
        room = assemble.pair_room - len(words)
        if room < 8:
            raise InputError(
                f"data.sequence={assemble.length} leaves {room} tokens for a context beside a question; use 128 or more"
            )

        answer = _tokens(question.answers[0], places) if question.answers else None
        for start in starts(len(ids), room, stride):
            sample = assemble.join(words, ids[start : start + room])
            labels = np.zeros(len(sample.tokens), np.int64)
            first, last = (0, 0) if answer is None else (sample.second + end - start for end in answer)
            if answer is None or first < sample.second or last >= len(sample.tokens) - len(assemble.frame.end):
                first = last = 0
            labels[first] += BEGINS
            labels[last] += ENDS

            encoded.append(sample._replace(labels=labels))
            parts.append(Window(number, sample.second, places[start : start + room]))
    return encoded, parts


def starts(length: int, room: int, stride: int) -> range:
    """Return where windows of `room` tokens begin: each `stride` after the one before, until one reaches the end."""
    stride = min(stride, room)
    return range(0, max(length - room, 0) + stride, stride) if length > room else range(1)


def _tokens(answer: tuple[int, str], places: Array) -> tuple[int, int] | None:
    """Return the first and last token of an answer; None where no token touches it."""
    start, stop = answer[0], answer[0] + len(answer[1])
    inside = np.flatnonzero((places[:, 1] > start) & (places[:, 0] < stop))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None

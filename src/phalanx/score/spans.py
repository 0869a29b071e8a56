"""The answer to a question by scores of where it begins and ends (Devlin et al., arXiv 1810.04805, section 4.2)."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Span(NamedTuple):
    """An answer's score, and its first and last token."""

    score: float
    first: int
    last: int


class Located(NamedTuple):
    """The likeliest span of a context, in characters, and by how much no answer is likelier than it."""

    score: float
    start: int
    stop: int
    silence: float


def best(scores: Floats, longest: int) -> Span:
    """Return the likeliest span of at most `longest` tokens, by scores [tokens, 2] to begin and to end: their highest
    sum.
    """
    count = len(scores)
    if not count:
        return Span(float("-inf"), 0, -1)
    sums = scores[:, :1] + scores[None, :, 1]
    distance = np.arange(count)[None] - np.arange(count)[:, None]
    sums = np.where((distance >= 0) & (distance < longest), sums, -np.inf)
    first, last = divmod(int(sums.argmax()), count)
    return Span(float(sums[first, last]), first, last)


def likeliest(
    windows: Sequence[tuple[int, int, NDArray[Any]]], scores: Sequence[Floats], questions: int, longest: int
) -> list[Located]:
    """Find the best span of each question over all windows of its context: the one of at most `longest` tokens whose
    start and end scores add up to most.

    A window is the number of its question, where it begins among the tokens of its row, and where each of its tokens
    lies in the context, in characters [tokens, 2]. `scores` holds those of each window's row, [tokens, 2].
    """
    spans, none = [(-math.inf, 0, 0)] * questions, [math.inf] * questions
    for (number, first, places), row in zip(windows, scores, strict=True):
        candidate = best(row[first : first + len(places)], longest)
        if candidate.score > spans[number][0]:
            spans[number] = candidate.score, int(places[candidate.first][0]), int(places[candidate.last][1])
        none[number] = min(none[number], float(row[0].sum()))
    return [Located(*span, silent - span[0]) for span, silent in zip(spans, none, strict=True)]

"""Questions answered with a part of a text (SQuAD's way: Devlin et al., arXiv 1810.04805, section 4.2 and 4.3)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from phalanx.data.source import Array
from phalanx.data.windows import Window
from phalanx.score.spans import best


class Spoken(NamedTuple):
    """The likeliest span of a context, in characters, and by how much no answer is likelier than it."""

    score: float
    start: int
    stop: int
    silence: float


def spoken(parts: Sequence[Window], answers: Sequence[Array], questions: int, longest: int) -> list[Spoken]:
    """Find the best span of each question over all windows of its context: the one of at most `longest` tokens whose
    start and end scores add up to most. `answers` holds the scores [tokens, 2] of each window in `parts`.
    """
    spans, none = [(-math.inf, 0, 0)] * questions, [math.inf] * questions
    for window, scores in zip(parts, answers, strict=True):
        number, first, places = window
        found = best(scores[first : first + len(places)], longest)
        if found.score > spans[number][0]:
            spans[number] = found.score, int(places[found.first][0]), int(places[found.last][1])
        none[number] = min(none[number], float(scores[0].sum()))
    return [Spoken(*span, nothing - span[0]) for span, nothing in zip(spans, none, strict=True)]

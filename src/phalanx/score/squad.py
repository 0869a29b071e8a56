"""SQuAD's exact match and F1, as its official scripts compute them (Rajpurkar et al., arXiv 1606.05250 and 1806.03822).

Answers are compared without case, punctuation, articles and surplus white space. Of several reference answers the best
counts. A question of version 2.0 may have none: then only silence is right.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Reference:
    """A question's number and what counts as its answer; nothing where it has none."""

    id: str
    answers: tuple[str, ...]


def normal(text: str) -> str:
    """Normalise an answer for comparison: lower case, without punctuation, articles and further blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 where an answer is hit, else 0; of no answers, 1 for silence."""
    return float(normal(prediction) in {normal(answer) for answer in answers or ("",)})


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Return the best overlap of words with an answer, 0 to 1."""
    return max(_overlap(normal(prediction).split(), normal(answer).split()) for answer in answers or ("",))


def _overlap(words: list[str], reference: list[str]) -> float:
    if not words or not reference:
        return float(words == reference)
    shared = sum((Counter(words) & Counter(reference)).values())
    return 2 * shared / (len(words) + len(reference))


def score(references: Iterable[Reference], predictions: Mapping[str, str]) -> dict[str, float]:
    """Return `exact_match` and `f1` in per cent over all questions; a question without a prediction counts as wrong.

    Where some questions have no answer, the same apart for those that have one and those that have none.
    """
    every = list(references)
    points = {r.id: _points(r, predictions.get(r.id)) for r in every}
    scores = _percent(points[r.id] for r in every)
    answerable = [r for r in every if r.answers]
    if len(answerable) < len(every):
        for name, some in ("has_answer", answerable), ("no_answer", [r for r in every if not r.answers]):
            scores |= {f"{name}_{key}": value for key, value in _percent(points[r.id] for r in some).items()}
    return scores


def _points(reference: Reference, prediction: str | None) -> tuple[float, float]:
    if prediction is None:
        return 0.0, 0.0
    return exact(prediction, reference.answers), f1(prediction, reference.answers)


def _percent(points: Iterable[tuple[float, float]]) -> dict[str, float]:
    columns = list(zip(*points, strict=True))
    hits, overlaps = columns if columns else ([0.0], [0.0])
    return {"exact_match": 100 * mean(hits), "f1": 100 * mean(overlaps)}


def threshold(references: Iterable[Reference], predictions: Mapping[str, str], silence: Mapping[str, float]) -> float:
    """Return the score of silence above which a question is best left unanswered, by F1: version 2.0's threshold.

    `silence` is how much likelier no answer is than the predicted one, in the unit of the model's scores.
    """
    every = sorted(references, key=lambda r: silence[r.id])
    points = sum(not r.answers for r in every)  # all left unanswered
    best, most = float("-inf"), float(points)
    gained = float(points)
    for reference in every:
        gained += f1(predictions[reference.id], reference.answers) if reference.answers else -1.0
        if gained > most:
            best, most = silence[reference.id], gained
    return best

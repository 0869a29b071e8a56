"""Sentences of a text, by the Punkt method with a model that nupunkt brings along, so nothing is downloaded."""

import re
from functools import cache

import nupunkt

BLANK_LINES = re.compile(r"\n\s*\n")
CONTROLS = re.compile(r"[\x0b\x0c\x1c-\x1f\x85]")  # white space to Python; BERT drops them, even inside a word
BLANKS = re.compile(r"[^\S\x0b\x0c\x1c-\x1f\x85]+")


def split_sentences(text: str) -> list[str]:
    """Return the sentences in order. Blank lines end one; single line breaks are blanks, as books are hard-wrapped."""
    join = _join_around_controls if CONTROLS.search(text) else _join
    paragraphs = map(join, BLANK_LINES.split(text))
    return [sentence for paragraph in paragraphs if paragraph for sentence in _splitter().tokenize(paragraph)]


def _join(paragraph: str) -> str:
    return " ".join(paragraph.split())


def _join_around_controls(paragraph: str) -> str:
    return BLANKS.sub(" ", paragraph).strip()


@cache
def _splitter() -> nupunkt.PunktSentenceTokenizer:
    return nupunkt.load_default_model()

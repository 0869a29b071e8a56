"""Sentences of a text, by the Punkt method with a model that nupunkt brings along, so nothing is downloaded."""

import re
from functools import cache

import nupunkt

BLANK_LINES = re.compile(r"\n\s*\n")


def split_sentences(text: str) -> list[str]:
    """The sentences in order. Blank lines end a sentence; single line breaks are blanks, as books are hard-wrapped."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in BLANK_LINES.split(text))
    return [sentence for paragraph in paragraphs if paragraph for sentence in _splitter().tokenize(paragraph)]


@cache
def _splitter() -> nupunkt.PunktSentenceTokenizer:
    return nupunkt.load_default_model()

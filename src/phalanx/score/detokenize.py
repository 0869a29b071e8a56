"""WikiText as people would have written it: the inverse of its tokenization, as the Megatron paper applied it before
counting a perplexity per word (arXiv 1909.08053, section 5.3; tasks/zeroshot_gpt of its code has the rules).
"""

import re

_BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"))
_PAIRS = [re.compile(rf"{re.escape(a)} ([^{re.escape(b)}]*?) {re.escape(b)}") for a, b in _BRACKETS]
_QUOTES = [re.compile(r'" ([^"]*?) "'), re.compile(r"' ([^']*?) '")]


def wikitext(text: str) -> str:
    """Return a text with numbers and contractions joined, punctuation at its word, brackets and quotes around their
    words.
    """
    text = text.replace("s '", "s'")
    for mark in "-,.":
        text = text.replace(f" @{mark}@ ", mark)
    for mark in ":;.!?,":
        text = text.replace(f" {mark} ", f"{mark} ")
    for pattern, (left, right) in zip(_PAIRS, _BRACKETS, strict=True):
        text = pattern.sub(rf"{left}\1{right}", text)
    for pattern, mark in zip(_QUOTES, "\"'", strict=True):
        text = pattern.sub(rf"{mark}\1{mark}", text)
    for count in (4, 3, 2):
        text = text.replace(" ".join("=" * count), "=" * count)
    text = text.replace(" ° ", "°").replace(" \n", "\n").replace("\n ", "\n")
    return text.replace(" N ", " 1 ").replace(" 's", "'s")

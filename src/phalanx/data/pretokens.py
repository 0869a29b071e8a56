r"""How byte-level tokenizers cut a text before they merge, by patterns that need not look ahead.

GPT-2's pattern and its descendants have `\s+(?!\S)`, which the fastest regular expressions cannot do. What it decides
is that of blanks before a word the last stands apart; so a mark is put there, where it takes one, and the pattern goes
without. In the later patterns blanks up to the last end of a line are a piece before that, and only those behind it are
divided so. Where each number is set apart first (SmolLM2), blanks before one are a piece.
"""

import unicodedata
from functools import cache
from typing import Any, NamedTuple

BLANK = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"  # the patterns' \s; Python's has more
WITHIN_LINE = BLANK.replace(r"\t-\r", r"\t\x0b\x0c")

_AHEAD = r"|\s*[\r\n]+|\s+(?!\S)|\s+"  # how the later patterns end
_ALONE = r"|\s*[\r\n]+|\s+$|\s"
_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = [rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}{a}{_LOWER}{b}" for a, b in ("*+", "+*")]
_PATHS = _MARKS.replace("n]*", "n/]*")
LATER = (
    rf"{_WORD}|\p{{N}}{{1,3}}|{_MARKS}",  # Llama 3, OLMo 2, GPT-4: digits by three
    rf"{_WORD}|\p{{N}}|{_MARKS}",  # Qwen 2 and 3: each digit
    rf"{_CASED[0]}{_CONTRACTION}?|{_CASED[1]}{_CONTRACTION}?|\p{{N}}{{1,3}}|{_PATHS}",  # GPT-4o: ends before capitals
    rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_PATHS}",  # Mistral Nemo
)


class Pretokens(NamedTuple):
    """A pattern of pieces without looking ahead, which blanks leave their last one to the word behind them, and whether
    numbers are set apart before, so that blanks leave them none.
    """

    pieces: str
    blank: str
    digits: bool = False


GPT2 = Pretokens(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+$|\s", BLANK)
SMOLLM = Pretokens(GPT2.pieces.replace(r" ?\p{N}+", r"\p{N}"), BLANK, digits=True)
KNOWN = {f"{pattern}{_AHEAD}": Pretokens(f"{pattern}{_ALONE}", WITHIN_LINE) for pattern in LATER}
LLAMA3, QWEN2, GPT4O, TEKKEN = KNOWN


def pretokens(words: Any) -> Pretokens | None:
    """Return how a byte-level tokenizer cuts texts, by the `pre_tokenizer` of its tokenizer.json; None for others."""
    match words:
        case {"type": "ByteLevel", "add_prefix_space": False} if words.get("use_regex", True):
            return GPT2
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False} as level,
            ],
        } if level.get("use_regex", True):
            return SMOLLM
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        } if (behavior, invert) in (("Isolated", False), ("Removed", True)):  # the same, as no character is left over
            return KNOWN.get(pattern)
    return None


@cache
def numbers() -> tuple[str, str]:
    """Return a class of the characters that are numbers, for Python's regular expressions, and one of those of which
    Python's tables do not know it, as they are older than the library's.
    """
    kinds = [unicodedata.category(chr(i)) for i in range(0x110000)]
    return _ranges([i for i, kind in enumerate(kinds) if kind[0] == "N"]), _ranges(
        [i for i, kind in enumerate(kinds) if kind == "Cn"]
    )


def _ranges(points: list[int]) -> str:
    """Return a class of characters, whose code points are in order."""
    starts = [i for n, i in enumerate(points) if not n or points[n - 1] != i - 1]
    ends = [i for n, i in enumerate(points) if n + 1 == len(points) or points[n + 1] != i + 1]
    return "[{}]".format("".join(f"\\U{a:08x}-\\U{b:08x}" for a, b in zip(starts, ends, strict=True)))

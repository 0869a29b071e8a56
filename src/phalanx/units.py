"""How numbers are written for people: in the console, in reports, and alike in both."""

import math
import re
from collections.abc import Collection, Iterable, Sequence

from phalanx.errors import InputError


def count(number: float) -> str:
    """Return a number as three digits and a letter: 950, 41.2k, 8.34B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size * 0.9995:
            scaled = number / size
            return f"{scaled:.{max(0, 2 - int(math.log10(abs(scaled) + 1e-3)))}f}{letter}"
    return f"{number:.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.3g}"


def duration(seconds: float) -> str:
    """Return seconds as 0:07, 12:31, 1:02:03 or 3d 04:05:06; a dash where they are not finite."""
    if not math.isfinite(seconds):
        return "–"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02}:{minute:02}:{second:02}"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def ranks(numbers: Iterable[int], most: int = 8) -> str:
    """Return the names of ranks, in order: rank 3; ranks 0, 1, 2; past `most` of them they end with "and more"."""
    names = [str(number) for number in sorted(numbers)]
    return f"rank{'s' * (len(names) > 1)} {', '.join(names[:most])}{' and more' * (len(names) > most)}"


def parse_count(text: str, where: str) -> float:
    """Return the number that `count` would have written: 300B, 8.3b, 950. InputError names `where` it stood."""
    scales = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([KMBT]?)", text.replace(",", "").strip().upper().replace("E", "e"))
    if not match or not 0 < float(match[1]) < math.inf:
        raise InputError(f"{where} {text!r} is no number; write one like 300B or 2.5e9")
    return float(match[1]) * scales[match[2]]


def aligned(rows: Sequence[Sequence[str]], left: Collection[int], space: str = " ") -> list[str]:
    """Return the lines of a table whose columns are as wide as their widest cell; those of `left` begin at the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        space.join(
            cell.ljust(w) if n in left else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]

"""A layout in few letters, and the way back: tp4 pp2×6 dp64 zero2 mb4 block."""

import re
from typing import Any

from phalanx import recipe
from phalanx.config import LayoutConfig
from phalanx.errors import InputError

_WORDS: dict[str, tuple[str, Any]] = {
    "wide": ("sequence_parallel", False),  # the residual stream whole on every tensor-parallel rank
    "ring": ("context", "ring"),
    "1f1b": ("schedule", "1f1b"),
    "interleaved": ("schedule", "interleaved"),
    "zbv": ("schedule", "zbv"),
    "replicated": ("shard", "none"),
    "zero2": ("shard", "zero2"),
    "zero3": ("shard", "zero3"),
    "attn": ("recompute", "attention"),
    "block": ("recompute", "block"),
}
_NUMBERS = {"tp": "tp", "cp": "cp", "pp": "pp", "×": "chunks", "x": "chunks", "dp": "dp", "mb": "micro_batch"}


def short(layout: LayoutConfig) -> str:
    """Return the layout's keys that differ from those of one process, as short words, axes first."""
    words = [f"{axis}{getattr(layout, axis)}" for axis in ("tp", "cp", "pp") if getattr(layout, axis) > 1]
    if layout.chunks > 1:
        words[-1] += f"×{layout.chunks}"
    words += [f"dp{layout.dp}", f"mb{layout.micro_batch}"]
    skipped = {"interleaved", "1f1b", "replicated"} | (
        {"wide"} if layout.tp == 1 else {"ring"} if layout.cp == 1 else set()
    )
    words += [word for word, (key, value) in _WORDS.items() if getattr(layout, key) == value and word not in skipped]
    return " ".join(words)


def pins(text: str) -> dict[str, Any]:
    """Return the keys of the layout section that a text names, as `short` writes them or as tp=4.

    InputError for all other words.
    """
    keys: dict[str, Any] = {}
    for word in re.sub(r"([a-z]+\d+)[×x](\d+)", r"\1 ×\2", text.replace(",", " ")).split():
        number = re.fullmatch(r"([a-z]+|×)=?(\d+)", word)
        if word in _WORDS:
            key, value = _WORDS[word]
        elif number and number[1] in _NUMBERS:
            key, value = _NUMBERS[number[1]], int(number[2])
        else:
            known = ", ".join([*(f"{axis}4" for axis in ("tp", "cp", "pp", "dp", "mb")), *_WORDS])
            raise InputError(f"{word!r} says nothing about a layout; use words like {known}")
        keys[key] = value

    if "chunks" in keys:
        keys["schedule"] = "interleaved"
    recipe.validate({"layout": keys})
    return keys

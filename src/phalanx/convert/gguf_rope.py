"""Scaled rotary positions in a GGUF file: keys for most kinds; for Llama 3's a tensor of factors, by which the
frequency of each pair of numbers is divided.
"""

import math
from collections.abc import Mapping
from typing import Any

from phalanx.errors import InputError
from phalanx.foreign import short
from phalanx.spec.rope import BOUNDS, Rope

FACTORS = "rope_freqs.weight"
_LOW, _HIGH = BOUNDS["llama3"]
LLAMA3 = {"low_freq_factor": _LOW, "high_freq_factor": _HIGH, "original_max_position_embeddings": 8192}
_SCALING = "rope.scaling."
_KEYS = {
    "type": "rope_type", "factor": "factor", "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow",
}  # fmt: skip
KNOWN = "linear", "yarn"  # kinds that keys alone describe


def scaling_of(
    own: dict[str, Any], factors: list[float] | None, config: Mapping[str, Any], width: Any
) -> dict[str, Any]:
    """Return config.json's rope_scaling by the keys of a file, which are taken out of `own`, and by the `factors` of
    its tensor, if it has that; empty where frequencies are not scaled. InputError for factors that are not Llama 3's.
    """
    scaling = {theirs: own.pop(_SCALING + key) for key, theirs in _KEYS.items() if _SCALING + key in own}
    if factors is not None:
        if (kind := scaling.get("rope_type", "none")) != "none":
            raise InputError(f"{_SCALING}type={short(kind)} beside {FACTORS} is not known here")
        return _llama3(factors, config.get("rope_theta"), width, scaling)
    return scaling if scaling.get("rope_type", "none") != "none" else {}


def _llama3(factors: list[float], theta: Any, width: Any, scaling: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scaling whose factors these are, with `scaling`'s original length or Llama 3's."""
    original = scaling.get("original_max_position_embeddings", LLAMA3["original_max_position_embeddings"])
    rope = LLAMA3 | {"original_max_position_embeddings": original, "rope_type": "llama3", "factor": max(factors)}
    positive = all(type(each) in (int, float) and each > 0 for each in (theta, width, original))
    try:
        wanted = factors_of(rope, theta, width) if positive else []
    except ArithmeticError:  # of a base or factors that are infinite, or next to it
        wanted = []
    if len(wanted) != len(factors) or not all(map(lambda a, b: math.isclose(a, b, rel_tol=1e-4), wanted, factors)):
        raise InputError(f"{FACTORS} holds other factors than Llama 3's, {short(factors)}, which are not known here")
    return rope


def scaling_facts(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a file for config.json's rope_scaling. InputError for a kind that is not known there."""
    kind = rope.get("rope_type", "default")
    if kind in ("default", "llama3"):
        original = rope.get("original_max_position_embeddings")
        return {} if original is None else {f"{_SCALING}original_context_length": original}
    if kind not in KNOWN:
        raise InputError(f"rotary positions of the type {kind} have no name in GGUF")
    return {_SCALING + key: rope[theirs] for key, theirs in _KEYS.items() if rope.get(theirs) is not None}


def factors_of(rope: Mapping[str, Any], theta: float, width: int) -> list[float]:
    """Return by what Llama 3's scaling divides the frequency of each pair of a head's numbers; [] of another kind."""
    if rope.get("rope_type") != "llama3":
        return []
    factor, low, high, original = (
        rope[key] for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    plain, scaled = Rope(theta, width), Rope(theta, width, "llama3", factor, original, low, high)
    return [before / after for before, after in zip(plain.frequencies(), scaled.frequencies(), strict=True)]

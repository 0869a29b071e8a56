"""Models of every kind that there is: all presets, and odd sizes with every head, before and behind their norms."""

from collections.abc import Iterator

from phalanx import registry
from phalanx.config import ModelConfig
from phalanx.models.family import configured, with_preset

ODD = {"layers": 3, "hidden": 40, "heads": 5, "ffn": 56, "positions": 12, "vocab": 77, "pad_vocab_to": 8}
DECODERS = ("llama", "qwen3", "olmo", "gemma3")
HEADS = ("", "classes", "value", "span", "choice", "tokens")


def odd() -> Iterator[ModelConfig]:
    """Small ones that no power of two divides."""
    yield configured(**with_preset({"family": "gpt2", **ODD}))
    for head in HEADS:
        for first in (False, True):
            section = {"family": "bert", **ODD, "head": head, "classes": 3, "norm_first": first}
            yield configured(**with_preset(section))


def encoders() -> Iterator[ModelConfig]:
    """Small RoBERTas and DistilBERTs, with a head of pretraining and with pooled ones of fine-tuning."""
    for family, head, first in (("roberta", "", False), ("roberta", "classes", True), ("xlm-roberta", "choice", False),
                                ("distilbert", "", True), ("distilbert", "value", False)):  # fmt: skip
        section = {"family": family, **ODD, "head": head, "classes": 3, "norm_first": first}
        yield configured(**with_preset(section))
    for head in "", "tokens":
        yield configured(**with_preset({"family": "modernbert", **ODD, "head": head, "classes": 3, "window": 4}))


def decoders() -> Iterator[ModelConfig]:
    """Small ones with grouped queries, heads of a width of their own, biases, heads tied or not; with windows, scaled
    positions and layers without positions, with norms of queries and keys, on branches, before and on them.
    """
    for kv_heads, width, tied, bias in ((5, 8, True, False), (1, 6, False, True)):
        keys = {"kv_heads": kv_heads, "width": width, "tied": tied, "qkv_bias": bias}
        yield configured(**with_preset({"family": "llama", **ODD, **keys}))
    scaled = {"rope_scaling": "yarn", "rope_factor": 8.0, "rope_original": 16}
    mixed = {"window": 4, "window_layers": "110", "width": 6, "kv_heads": 1}
    yield configured(**with_preset({"family": "llama", **ODD, **mixed, "rope_layers": "10"}))
    for family in DECODERS[1:]:
        yield configured(**with_preset({"family": family, **ODD, **mixed, **scaled}))


def presets() -> Iterator[ModelConfig]:
    """Every named size of every family."""
    for family in registry.MODELS.places:
        for preset in registry.MODELS.find(family).PRESETS:
            yield configured(**with_preset({"family": family, "preset": preset, "vocab": 30522}))


def name(model: ModelConfig) -> str:
    """What a test's name says of a model."""
    first = "pre" if getattr(model, "norm_first", True) else "post"
    return "-".join(word for word in (model.family, model.preset or "odd", getattr(model, "head", ""), first) if word)

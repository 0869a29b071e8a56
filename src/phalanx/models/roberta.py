"""RoBERTa (arXiv 1907.11692) and XLM-RoBERTa (arXiv 1911.02116): BERTs without segments and without a question about
pairs, whose positions begin behind those of padding.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import PositiveFloat

from phalanx.errors import InputError
from phalanx.foreign import short
from phalanx.models.encoder import (
    BLOCKS,
    KEYS,
    EncoderConfig,
    answer_head,
    embeddings,
    masked_head,
    post_ln_alone,
    write_sizes,
)
from phalanx.models.family import Preset, sized
from phalanx.models.gpt2 import stack
from phalanx.models.hugging_face import ABSOLUTE, Facts, HuggingFace
from phalanx.section import Size
from phalanx.spec.links import Names
from phalanx.spec.model import Spec


class RobertaConfig(EncoderConfig):
    """The network: a RoBERTa."""

    family: str = "roberta"
    norm_eps: PositiveFloat = 1e-5
    first_position: Size = 2
    """Row of the position table that a text's first token has: one behind the number of the padding token."""

    @property
    def usual_vocab(self) -> int:
        """Tokens of RoBERTa's tokenizer."""
        return 50_265

    def spec(self) -> Spec:
        """Return an encoder with the head of its pretraining, or with the one of fine-tuning (`head`)."""
        head = answer_head(self) if self.head else masked_head(self)
        return stack(self, causal=False, heads=(head,), segments=1, offset=self.first_position)


class XLMRobertaConfig(RobertaConfig):
    """The network: an XLM-RoBERTa."""

    family: str = "xlm-roberta"

    @property
    def usual_vocab(self) -> int:
        """Tokens of XLM-RoBERTa's tokenizer."""
        return 250_002


_NAMES = Names(
    block="roberta.encoder.layer.{}.",
    blocks=BLOCKS,
    once=embeddings("roberta."),
    heads={
        "mlm": {
            "masked.transform": "lm_head.dense",
            "masked.norm": "lm_head.layer_norm",
            "masked.decoder": "lm_head.decoder",
            "masked.decoder.bias": "lm_head.bias",
        }
    },
    stem="roberta.",
    second={"lm_head.decoder.bias": "lm_head.bias"},
    buffers=("embeddings.position_ids",),
)
_ABSENT = {"max_position_embeddings": 512, "layer_norm_eps": 1e-12, "pad_token_id": 1, "type_vocab_size": 2}


def _read(facts: Facts) -> dict[str, Any]:
    """Return the keys of [model] that config.json says otherwise: its positions count those before the first."""
    facts = {**_ABSENT, **facts}
    for key in ("max_position_embeddings", "pad_token_id"):
        if type(facts[key]) is not int or not 0 <= facts[key] < 1 << 24:
            raise InputError(f"{key}={short(facts[key])} will not do: it is to be a whole number")
    if type(facts["type_vocab_size"]) is not int or facts["type_vocab_size"] != 1:
        kinds = short(facts["type_vocab_size"])
        raise InputError(f"type_vocab_size={kinds} is not known here: RoBERTa's tokenizers tell no segments apart")

    first = facts["pad_token_id"] + 1
    if facts["max_position_embeddings"] <= first:
        raise InputError(f"max_position_embeddings={facts['max_position_embeddings']} leaves none behind row {first}")
    positions = facts["max_position_embeddings"] - first
    return {"positions": positions, "first_position": first, "norm_eps": facts["layer_norm_eps"]}


def _write(model: RobertaConfig) -> dict[str, Any]:
    rows = model.positions + model.first_position
    positions = {"max_position_embeddings": rows, "pad_token_id": model.first_position - 1, "type_vocab_size": 1}
    return {**write_sizes(model), **positions}


def _why_not(model: RobertaConfig) -> str:
    """Return why a model is none of theirs: its head over the vocabulary has the exact GELU there, whatever its blocks
    have.
    """
    if model.gelu != "erf":
        return f"has model.gelu={model.gelu}, and Hugging Face's RoBERTa the exact one (erf)"
    return post_ln_alone(model, "RoBERTa")


_ROBERTA = HuggingFace(
    _NAMES, "RobertaForMaskedLM", KEYS, _read, _write, {**ABSOLUTE, "hidden_act": "gelu"}, _why_not, "Roberta",
    "roberta.pooler.dense", {"ForSequenceClassification": ("classifier.dense", "classifier.out_proj")},
)  # fmt: skip
_PRESETS: Mapping[str, Preset] = {"base": sized(12, 768, 12), "large": sized(24, 1024, 16)}


class Roberta:
    """RoBERTa in its two sizes (arXiv 1907.11692)."""

    TASK = "mlm"
    Config = RobertaConfig
    PRESETS = _PRESETS
    HUGGING_FACE: Mapping[str, HuggingFace] = {"roberta": _ROBERTA}


class XLMRoberta:
    """XLM-RoBERTa, RoBERTa of a hundred languages, in its two sizes (arXiv 1911.02116)."""

    TASK = "mlm"
    Config = XLMRobertaConfig
    PRESETS = _PRESETS
    HUGGING_FACE: Mapping[str, HuggingFace] = {
        "xlm-roberta": replace(_ROBERTA, architecture="XLMRobertaForMaskedLM", tuned="XLMRoberta")
    }

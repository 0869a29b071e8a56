"""BERT: both ways, with its two heads of pretraining or the one of a task to be fine-tuned."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from phalanx.models.encoder import (
    BLOCKS,
    RATES,
    SIZES,
    EncoderConfig,
    answer_head,
    classifier,
    embeddings,
    masked_head,
    pooler,
    read_gelu,
    write_sizes,
)
from phalanx.models.family import Preset, sized
from phalanx.models.gpt2 import stack
from phalanx.models.hugging_face import ABSOLUTE, Facts, HuggingFace
from phalanx.registry import TOKENIZERS
from phalanx.spec.links import Names
from phalanx.spec.model import Head, Spec


class BertConfig(EncoderConfig):
    """The network: a BERT, by default with the norms and the GELU of Google's."""

    family: str = "bert"
    segments: Annotated[int, Field(ge=0, le=1 << 24)] = 2
    """Kinds of segment embedding; 0 means none."""

    @property
    def usual_vocab(self) -> int:
        """Tokens of BERT's uncased tokenizer."""
        return TOKENIZERS["bert-uncased"]

    def spec(self) -> Spec:
        """Return an encoder with its two heads of pretraining, or with the one of fine-tuning (`head`)."""
        heads = (answer_head(self),) if self.head else (masked_head(self), _pair(self))
        return stack(self, causal=False, heads=heads, segments=self.segments)


_MEGATRON: Preset = {"norm_first": True, "norm_eps": 1e-5}


_POOLER = "bert.pooler.dense"  # of the question about pairs, and of heads of fine-tuning
_POST_LN = Names(
    block="bert.encoder.layer.{}.",
    blocks=BLOCKS,
    once=embeddings("bert."),
    heads={
        "mlm": {
            "masked.transform": "cls.predictions.transform.dense",
            "masked.norm": "cls.predictions.transform.LayerNorm",
            "masked.decoder": "cls.predictions.decoder",
            "masked.decoder.bias": "cls.predictions.bias",
        },
        "nsp": {"pair.pooler": _POOLER, "pair.classifier": "cls.seq_relationship"},
    },
    stem="bert.",
    second={"cls.predictions.decoder.bias": "cls.predictions.bias"},
    buffers=("embeddings.position_ids",),
)
_PRE_LN = _POST_LN._replace(
    blocks={**BLOCKS, "norm1": "attention.ln", "norm2": "ln"},
    once={**_POST_LN.once, "transformer.norm": "bert.encoder.ln"},
)


def _hugging_face(norm_first: bool) -> HuggingFace:
    """Return Hugging Face's `bert`, which is post-LN, or its `megatron-bert`, which is pre-LN."""

    def read(facts: Facts) -> dict[str, Any]:
        return {**read_gelu(facts), "norm_first": norm_first}

    def why_not(model: BertConfig) -> str:
        if not model.segments:
            return "is a BERT without segments (model.segments=0), which Hugging Face does not have"
        return "" if model.norm_first == norm_first else f"has model.norm_first={str(model.norm_first).lower()}"

    names, prefix = (_PRE_LN, "Megatron") if norm_first else (_POST_LN, "")
    keys, pretraining = {**SIZES, "segments": "type_vocab_size", **RATES}, f"{prefix}BertForPreTraining"
    return HuggingFace(names, pretraining, keys, read, write_sizes, ABSOLUTE, why_not, f"{prefix}Bert", _POOLER)


class Bert:
    """BERT in Google's post-LN sizes (arXiv 1810.04805, 1908.08962) and Megatron's pre-LN ones (arXiv 1909.08053)."""

    TASK = "mlm"
    Config = BertConfig
    PRESETS: Mapping[str, Preset] = {
        "tiny": sized(2, 128, 2),
        "mini": sized(4, 256, 4),
        "small": sized(4, 512, 8),
        "base": sized(12, 768, 12),
        "large": sized(24, 1024, 16),
        "megatron-345m": {**_MEGATRON, **sized(24, 1024, 16)},
        "megatron-1.3b": {**_MEGATRON, **sized(24, 2048, 32)},
        "megatron-3.9b": {**_MEGATRON, **sized(48, 2560, 40)},
    }
    HUGGING_FACE: Mapping[str, HuggingFace] = {"bert": _hugging_face(False), "megatron-bert": _hugging_face(True)}


def _pair(model: BertConfig) -> Head:
    """Return BERT's next-sentence head: a pooler of the first token, then two classes."""
    return Head("nsp", (pooler(model, "pair"), classifier(model, "pair", 2, pooled=True)), "tanh")

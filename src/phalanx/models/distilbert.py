"""DistilBERT (arXiv 1910.01108): half of a BERT's blocks, without segments and without a question about pairs."""

from collections.abc import Mapping
from typing import Any

from phalanx.models.encoder import EncoderConfig, answer_head, embeddings, masked_head, post_ln_alone, read_gelu
from phalanx.models.family import Preset, sized
from phalanx.models.gpt2 import stack
from phalanx.models.hugging_face import ABSOLUTE, Facts, HuggingFace, name_of
from phalanx.registry import TOKENIZERS
from phalanx.section import Fraction, Size
from phalanx.spec.links import Names
from phalanx.spec.model import Spec

NORM_EPS = 1e-12  # of all norms there, whatever config.json says


class DistilBertConfig(EncoderConfig):
    """The network: a DistilBERT."""

    family: str = "distilbert"
    layers: Size = 6
    head_dropout: Fraction = 0.2
    """Dropout before the last product of a head of fine-tuning that reads the first token."""

    @property
    def usual_vocab(self) -> int:
        """Tokens of BERT's uncased tokenizer."""
        return TOKENIZERS["bert-uncased"]

    def spec(self) -> Spec:
        """Return an encoder with the head of its pretraining, or with the one of fine-tuning (`head`)."""
        head = answer_head(self, "relu", self.head_dropout) if self.head else masked_head(self)
        return stack(self, causal=False, heads=(head,))


_NAMES = Names(
    block="distilbert.transformer.layer.{}.",
    blocks={
        "norm1": "sa_layer_norm",
        "attention.qkv": "attention.{q,k,v}_lin",
        "attention.out": "attention.out_lin",
        "norm2": "output_layer_norm",
        "feed_forward.up": "ffn.lin1",
        "feed_forward.down": "ffn.lin2",
    },
    once=embeddings("distilbert."),
    heads={
        "mlm": {
            "masked.transform": "vocab_transform",
            "masked.norm": "vocab_layer_norm",
            "masked.decoder": "vocab_projector",
        }
    },
    stem="distilbert.",
    buffers=("embeddings.position_ids",),
)
_KEYS = {
    "vocab": "vocab_size", "positions": "max_position_embeddings", "hidden": "dim", "layers": "n_layers",
    "heads": "n_heads", "ffn": "hidden_dim", "dropout": "dropout", "attention_dropout": "attention_dropout",
    "init_std": "initializer_range", "head_dropout": "seq_classif_dropout",
}  # fmt: skip


def _read(facts: Facts) -> dict[str, Any]:
    return {**read_gelu(facts, "activation"), "norm_eps": NORM_EPS}


def _write(model: DistilBertConfig) -> dict[str, Any]:
    return {"activation": name_of(model.gelu), "sinusoidal_pos_embds": False}


def _why_not(model: DistilBertConfig) -> str:
    if model.norm_eps != NORM_EPS:
        return f"has model.norm_eps={model.norm_eps}, and Hugging Face's DistilBERT {NORM_EPS}"
    return post_ln_alone(model, "DistilBERT")


class DistilBert:
    """DistilBERT in its one size (arXiv 1910.01108)."""

    TASK = "mlm"
    Config = DistilBertConfig
    PRESETS: Mapping[str, Preset] = {"base": sized(6, 768, 12)}
    HUGGING_FACE: Mapping[str, HuggingFace] = {
        "distilbert": HuggingFace(
            _NAMES, "DistilBertForMaskedLM", _KEYS, _read, _write, ABSOLUTE, _why_not, "DistilBert", "pre_classifier"
        )
    }

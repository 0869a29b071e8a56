"""BERT: both ways, with its two heads of pretraining or the one of a task to be fine-tuned."""

from collections.abc import Mapping
from typing import Any

from phalanx.config import ModelConfig
from phalanx.models.family import Section
from phalanx.models.gpt2 import activation_of, decoder_of, norm_of, stack
from phalanx.models.hugging_face import ABSOLUTE, Facts, HuggingFace, gelu_of, name_of
from phalanx.spec.leaves import Dim, Matrix
from phalanx.spec.links import Names
from phalanx.spec.model import Head, Spec

_GOOGLE = {"positions": 512, "segments": 2, "gelu": "erf", "norm_first": False, "norm_eps": 1e-12}
_MEGATRON = {**_GOOGLE, "norm_first": True, "norm_eps": 1e-5}


def _size(common: Section, layers: int, hidden: int, heads: int) -> Section:
    return {**common, "layers": layers, "hidden": hidden, "heads": heads}


_POOLED = {"answer.pooler": "bert.pooler.dense", "answer.classifier": "classifier"}
_POST_LN = Names(
    block="bert.encoder.layer.{}.",
    blocks={
        "norm1": "attention.output.LayerNorm",
        "attention.qkv": "attention.self.{query,key,value}",
        "attention.out": "attention.output.dense",
        "norm2": "output.LayerNorm",
        "feed_forward.up": "intermediate.dense",
        "feed_forward.down": "output.dense",
    },
    once={
        "transformer.embeddings.token": "bert.embeddings.word_embeddings",
        "transformer.embeddings.position": "bert.embeddings.position_embeddings",
        "transformer.embeddings.segment": "bert.embeddings.token_type_embeddings",
        "transformer.embeddings.norm": "bert.embeddings.LayerNorm",
    },
    heads={
        "mlm": {
            "masked.transform": "cls.predictions.transform.dense",
            "masked.norm": "cls.predictions.transform.LayerNorm",
            "masked.decoder": "cls.predictions.decoder",
            "masked.decoder.bias": "cls.predictions.bias",
        },
        "nsp": {"pair.pooler": "bert.pooler.dense", "pair.classifier": "cls.seq_relationship"},
        "classes": _POOLED,
        "value": _POOLED,
        "choice": _POOLED,
        "tokens": {"answer.classifier": "classifier"},
        "span": {"answer.classifier": "qa_outputs"},
    },
    stem="bert.",
    second={"cls.predictions.decoder.bias": "cls.predictions.bias"},
    buffers=("embeddings.position_ids",),
)
_PRE_LN = _POST_LN._replace(
    blocks={**_POST_LN.blocks, "norm1": "attention.ln", "norm2": "ln"},
    once={**_POST_LN.once, "transformer.norm": "bert.encoder.ln"},
)
_KEYS = {
    "vocab": "vocab_size", "positions": "max_position_embeddings", "hidden": "hidden_size",
    "layers": "num_hidden_layers", "heads": "num_attention_heads", "ffn": "intermediate_size",
    "segments": "type_vocab_size", "norm_eps": "layer_norm_eps", "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob", "init_std": "initializer_range",
}  # fmt: skip
_CLASSES = {
    "": "BertForPreTraining", "classes": "BertForSequenceClassification", "value": "BertForSequenceClassification",
    "span": "BertForQuestionAnswering", "choice": "BertForMultipleChoice", "tokens": "BertForTokenClassification",
}  # fmt: skip


def _hugging_face(norm_first: bool) -> HuggingFace:
    """Return Hugging Face's `bert`, which is post-LN, or its `megatron-bert`, which is pre-LN."""

    def read(facts: Facts) -> dict[str, Any]:
        return {"gelu": gelu_of(facts, "hidden_act", "gelu"), "norm_first": norm_first}

    def why_not(model: ModelConfig) -> str:
        if not model.segments:
            return "is a BERT without segments (model.segments=0), which Hugging Face does not have"
        return "" if model.norm_first == norm_first else f"has model.norm_first={str(model.norm_first).lower()}"

    names, prefix = (_PRE_LN, "Megatron") if norm_first else (_POST_LN, "")
    classes = {head: prefix + name for head, name in _CLASSES.items()}
    return HuggingFace(names, classes, _KEYS, read, _write, ABSOLUTE, why_not)


def _write(model: ModelConfig) -> dict[str, Any]:
    return {"intermediate_size": model.ffn or 4 * model.hidden, "hidden_act": name_of(model.gelu)}


class Bert:
    """Google's post-LN sizes (arXiv 1810.04805, 1908.08962) and Megatron's pre-LN sizes (arXiv 1909.08053)."""

    TASK = "mlm"
    DEFAULTS: Section = _GOOGLE
    PRESETS: Mapping[str, Section] = {
        "tiny": _size(_GOOGLE, 2, 128, 2),
        "mini": _size(_GOOGLE, 4, 256, 4),
        "small": _size(_GOOGLE, 4, 512, 8),
        "base": _size(_GOOGLE, 12, 768, 12),
        "large": _size(_GOOGLE, 24, 1024, 16),
        "megatron-345m": _size(_MEGATRON, 24, 1024, 16),
        "megatron-1.3b": _size(_MEGATRON, 24, 2048, 32),
        "megatron-3.9b": _size(_MEGATRON, 48, 2560, 40),
    }
    HUGGING_FACE: Mapping[str, HuggingFace] = {"bert": _hugging_face(False), "megatron-bert": _hugging_face(True)}

    @staticmethod
    def spec(model: ModelConfig) -> Spec:
        """Return an encoder with its two heads of pretraining, or with the one of fine-tuning (`model.head`)."""
        heads = (_answer(model),) if model.head else (_masked(model), _pair(model))
        return stack(model, causal=False, heads=heads)


def _masked(model: ModelConfig) -> Head:
    """BERT's masked-language-model head: a transform, a norm, and the vocabulary, at the masked positions only."""
    transform = Dim("embed", model.hidden), Dim("transform", model.hidden)
    chain = (
        ("masked.transform", Matrix(*transform, std=model.init_std, per="label")),
        ("masked.norm", norm_of(model)),
        ("masked.decoder", decoder_of(model, bias=True)),
    )
    return Head("mlm", chain, activation_of(model))


def _pair(model: ModelConfig) -> Head:
    """BERT's next-sentence head: a pooler of the first token, then two classes."""
    return Head("nsp", (_pooler(model, "pair"), _classifier(model, "pair", 2, pooled=True)), "tanh")


def _answer(model: ModelConfig) -> Head:
    """A head of fine-tuning (arXiv 1810.04805, section 4): of the pooled first token, or of every token."""
    pooled = model.head in ("classes", "value", "choice")
    width = {"span": 2, "value": 1, "choice": 1}.get(model.head, model.classes)
    classifier = _classifier(model, "answer", width, pooled)
    chain = (_pooler(model, "answer"), classifier) if pooled else (classifier,)
    candidates = model.classes if model.head == "choice" else 0
    return Head(model.head, chain, "tanh", 0.0 if model.head == "span" else model.dropout, candidates)


def _pooler(model: ModelConfig, head: str) -> tuple[str, Matrix]:
    inputs, outputs = Dim("embed", model.hidden), Dim("pooled", model.hidden)
    return f"{head}.pooler", Matrix(inputs, outputs, std=model.init_std, per="sequence")


def _classifier(model: ModelConfig, head: str, width: int, pooled: bool) -> tuple[str, Matrix]:
    inputs, outputs = Dim("pooled" if pooled else "embed", model.hidden), Dim("classes", width)
    matrix = Matrix(inputs, outputs, std=model.init_std, per="sequence" if pooled else "token")
    return f"{head}.classifier", matrix

"""BERT: both ways, with its two heads of pretraining or the one of a task to be fine-tuned."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat

from phalanx.config import MOST_CLASSES
from phalanx.heads.head import head_class
from phalanx.models.family import Preset, sized
from phalanx.models.gpt2 import StackConfig, activation_of, decoder_of, norm_of, stack
from phalanx.models.hugging_face import ABSOLUTE, Facts, HuggingFace, gelu_of, name_of
from phalanx.registry import TOKENIZERS
from phalanx.section import Size
from phalanx.spec.leaves import Dim, Matrix
from phalanx.spec.links import Names
from phalanx.spec.model import Head, Spec


class BertConfig(StackConfig):
    """The network: a BERT, by default with the norms and the GELU of Google's."""

    family: str = "bert"
    positions: Size = 512
    norm_first: bool = False
    norm_eps: PositiveFloat = 1e-12
    gelu: Literal["tanh", "erf"] = "erf"
    segments: Annotated[int, Field(ge=0, le=1 << 24)] = 2
    """Kinds of segment embedding; 0 means none."""
    head: str = ""
    """Fine-tuned: its head, which the task sets: classes, value, span, choice, tokens, or module:Name."""
    classes: Annotated[int, Field(ge=0, le=MOST_CLASSES)] = 0
    """Classes of head=classes or tokens, candidates of head=choice."""

    @property
    def usual_vocab(self) -> int:
        """Tokens of BERT's uncased tokenizer."""
        return TOKENIZERS["bert-uncased"]

    def spec(self) -> Spec:
        """Return an encoder with its two heads of pretraining, or with the one of fine-tuning (`head`)."""
        heads = (_answer(self),) if self.head else (_masked(self), _pair(self))
        return stack(self, causal=False, heads=heads, segments=self.segments)

    def tuned(self, head: str, classes: int | None = None) -> Self:
        """Return the section with another head, and so many classes or candidates; by default those it has."""
        return self.model_copy(update={"head": head, "classes": self.classes if classes is None else classes})


_MEGATRON: Preset = {"norm_first": True, "norm_eps": 1e-5}


_POOLER = "bert.pooler.dense"  # of the question about pairs, and of heads of fine-tuning
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
        "nsp": {"pair.pooler": _POOLER, "pair.classifier": "cls.seq_relationship"},
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


def _hugging_face(norm_first: bool) -> HuggingFace:
    """Return Hugging Face's `bert`, which is post-LN, or its `megatron-bert`, which is pre-LN."""

    def read(facts: Facts) -> dict[str, Any]:
        return {"gelu": gelu_of(facts, "hidden_act", "gelu"), "norm_first": norm_first}

    def why_not(model: BertConfig) -> str:
        if not model.segments:
            return "is a BERT without segments (model.segments=0), which Hugging Face does not have"
        return "" if model.norm_first == norm_first else f"has model.norm_first={str(model.norm_first).lower()}"

    names, prefix = (_PRE_LN, "Megatron") if norm_first else (_POST_LN, "")
    pretraining = f"{prefix}BertForPreTraining"
    return HuggingFace(names, pretraining, _KEYS, read, _write, ABSOLUTE, why_not, f"{prefix}Bert", _POOLER)


def _write(model: BertConfig) -> dict[str, Any]:
    return {"intermediate_size": model.ffn, "hidden_act": name_of(model.gelu)}


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


def _masked(model: BertConfig) -> Head:
    """Return BERT's masked-language-model head: a transform, a norm, and the vocabulary, at masked positions only."""
    transform = Dim("embed", model.hidden), Dim("transform", model.hidden)
    chain = (
        ("masked.transform", Matrix(*transform, std=model.init_std, per="label")),
        ("masked.norm", norm_of(model)),
        ("masked.decoder", decoder_of(model, bias=True)),
    )
    return Head("mlm", chain, activation_of(model))


def _pair(model: BertConfig) -> Head:
    """Return BERT's next-sentence head: a pooler of the first token, then two classes."""
    return Head("nsp", (_pooler(model, "pair"), _classifier(model, "pair", 2, pooled=True)), "tanh")


def _answer(model: BertConfig) -> Head:
    """Return a head of fine-tuning (arXiv 1810.04805, section 4): of the pooled first token, or of every token."""
    kind = head_class(model.head)
    classifier = _classifier(model, "answer", kind.width(model.classes), kind.pooled)
    chain = (_pooler(model, "answer"), classifier) if kind.pooled else (classifier,)
    candidates = model.classes if kind.grouped else 0
    return Head(model.head, chain, "tanh", model.dropout if kind.dropped else 0.0, candidates)


def _pooler(model: BertConfig, head: str) -> tuple[str, Matrix]:
    inputs, outputs = Dim("embed", model.hidden), Dim("pooled", model.hidden)
    return f"{head}.pooler", Matrix(inputs, outputs, std=model.init_std, per="sequence")


def _classifier(model: BertConfig, head: str, width: int, pooled: bool) -> tuple[str, Matrix]:
    inputs, outputs = Dim("pooled" if pooled else "embed", model.hidden), Dim("classes", width)
    matrix = Matrix(inputs, outputs, std=model.init_std, per="sequence" if pooled else "token")
    return f"{head}.classifier", matrix

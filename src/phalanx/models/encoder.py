"""What encoders of BERT's kind share: keys of [model], the masked-language-model head, the heads of fine-tuning."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat

from phalanx.config import MOST_CLASSES, ModelConfig
from phalanx.heads.head import head_class
from phalanx.models.gpt2 import StackConfig, activation_of, decoder_of, norm_of
from phalanx.models.hugging_face import Facts, gelu_of, name_of
from phalanx.registry import blamed
from phalanx.section import Size
from phalanx.spec.leaves import Dim, Matrix
from phalanx.spec.model import Head


class TunableConfig(ModelConfig):
    """The network: the keys of models that heads of fine-tuning stand on."""

    head: str = ""
    """Fine-tuned: its head, which the task sets: classes, value, span, choice, tokens, or module:Name."""
    classes: Annotated[int, Field(ge=0, le=MOST_CLASSES)] = 0
    """Classes of head=classes or tokens, candidates of head=choice."""

    def tuned(self, head: str, classes: int | None = None) -> Self:
        """Return the section with another head, and so many classes or candidates; by default those it has."""
        return self.model_copy(update={"head": head, "classes": self.classes if classes is None else classes})


class EncoderConfig(StackConfig, TunableConfig):
    """The network: the keys that encoders share, by default with the norms' order and the GELU of Google's BERT."""

    positions: Size = 512
    norm_first: bool = False
    norm_eps: PositiveFloat = 1e-12
    gelu: Literal["tanh", "erf"] = "erf"


# At Hugging Face, by config.json's keys of BERT and of those that were made of its class.
SIZES = {
    "vocab": "vocab_size", "positions": "max_position_embeddings", "hidden": "hidden_size",
    "layers": "num_hidden_layers", "heads": "num_attention_heads", "ffn": "intermediate_size",
}  # fmt: skip
RATES = {
    "norm_eps": "layer_norm_eps", "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob", "init_std": "initializer_range",
}  # fmt: skip
KEYS = {**SIZES, **RATES}
BLOCKS = {
    "norm1": "attention.output.LayerNorm",
    "attention.qkv": "attention.self.{query,key,value}",
    "attention.out": "attention.output.dense",
    "norm2": "output.LayerNorm",
    "feed_forward.up": "intermediate.dense",
    "feed_forward.down": "output.dense",
}


def embeddings(stem: str) -> dict[str, str]:
    """Return the names there of the embeddings of words, positions and segments and of their norm, after `stem`."""
    names = {"token": "word", "position": "position", "segment": "token_type"}
    tables = {f"transformer.embeddings.{ours}": f"{stem}embeddings.{name}_embeddings" for ours, name in names.items()}
    return tables | {"transformer.embeddings.norm": f"{stem}embeddings.LayerNorm"}


def read_gelu(facts: Facts, key: str = "hidden_act") -> dict[str, Any]:
    """Return model.gelu by the activation that config.json names under `key`. InputError for any other."""
    return {"gelu": gelu_of(facts, key, "gelu")}


def write_sizes(model: EncoderConfig) -> dict[str, Any]:
    """Return the facts of a BERT's config.json that the keys alone do not say."""
    return {"intermediate_size": model.ffn, "hidden_act": name_of(model.gelu)}


def post_ln_alone(model: EncoderConfig, kind: str) -> str:
    """Return why a pre-LN model is none of a `kind` that Hugging Face has behind its norms alone; "" for another."""
    return f"is pre-LN (model.norm_first=true), which Hugging Face's {kind} is not" if model.norm_first else ""


def masked_head(model: EncoderConfig) -> Head:
    """Return BERT's masked-language-model head: a transform, a norm, and the vocabulary, at masked positions only."""
    transform = Dim("embed", model.hidden), Dim("transform", model.hidden)
    chain = (
        ("masked.transform", Matrix(*transform, std=model.init_std, per="label")),
        ("masked.norm", norm_of(model)),
        ("masked.decoder", decoder_of(model, bias=True)),
    )
    return Head("mlm", chain, activation_of(model))


def answer_head(model: EncoderConfig, activation: Literal["tanh", "relu"] = "tanh", drop: float | None = None) -> Head:
    """Return the head of fine-tuning that `model.head` names (arXiv 1810.04805, section 4): of the pooled first token,
    behind an `activation`, or of every token. It drops `drop` of what its last product reads, by default model.dropout.
    """
    kind = head_class(model.head)
    with blamed("model.head", model.head, "width()"):
        width = kind.width(model.classes)
    matrix = classifier(model, "answer", width, kind.pooled)
    chain = (pooler(model, "answer"), matrix) if kind.pooled else (matrix,)
    drop = model.dropout if drop is None else drop
    return Head(model.head, chain, activation, drop if kind.dropped else 0.0, model.classes if kind.grouped else 0)


def pooler(model: EncoderConfig, head: str) -> tuple[str, Matrix]:
    """Return the product with the first token that a `head` begins with, and its path."""
    inputs, outputs = Dim("embed", model.hidden), Dim("pooled", model.hidden)
    return f"{head}.pooler", Matrix(inputs, outputs, std=model.init_std, per="sequence")


def classifier(model: EncoderConfig, head: str, width: int, pooled: bool) -> tuple[str, Matrix]:
    """Return the last product of a `head`, which gives `width` numbers, and its path."""
    inputs, outputs = Dim("pooled" if pooled else "embed", model.hidden), Dim("classes", width)
    matrix = Matrix(inputs, outputs, std=model.init_std, per="sequence" if pooled else "token")
    return f"{head}.classifier", matrix

"""ModernBERT (arXiv 2412.13663): rotary positions, gates, few biases; most blocks see a window on both sides."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from phalanx.config import ModelConfig
from phalanx.errors import InputError
from phalanx.foreign import short
from phalanx.heads.head import head_class
from phalanx.models.encoder import TunableConfig
from phalanx.models.family import Preset
from phalanx.models.gpt2 import decoder_of, words_of
from phalanx.models.hugging_face import FULL, SLIDING, Facts, HuggingFace
from phalanx.section import Fraction, Size
from phalanx.spec.leaves import Dim, Matrix, Norm, Per, Table
from phalanx.spec.links import Names
from phalanx.spec.model import MLP, Attention, Block, Embeddings, Head, Spec
from phalanx.spec.rope import Rope


class ModernBertConfig(TunableConfig):
    """The network: a ModernBERT."""

    family: str = "modernbert"
    layers: Size = 22
    positions: Size = 8192
    dropout: Fraction = 0.0
    init_cut: NonNegativeFloat = 2.0
    window: Size = 128
    """Tokens of a window, half of them before a token and half behind it."""
    global_every: Size = 3
    """Every so many blocks, the first among them, sees the whole text; the others see windows."""
    theta: PositiveFloat = 160_000.0
    """Base of the rotary positions' frequencies in blocks that see the whole text."""
    window_theta: PositiveFloat = 10_000.0
    """The same in blocks that see windows."""
    norm_bias: bool = False
    """Whether layer norms have biases."""
    attention_bias: bool = False
    """Whether the products of attention have biases."""
    mlp_bias: bool = False
    """Whether the products of feed-forward layers have biases."""
    head_bias: bool = False
    """Whether the transform of a head has a bias."""
    decoder_bias: bool = True
    """Whether the product with the vocabulary has a bias."""
    pooling: Literal["cls", "mean"] = "cls"
    """What a head that answers once for a text reads: its first token, or the mean of all."""

    @property
    def default_ffn(self) -> int:
        """One and a half times hidden, as in the smaller model."""
        return 3 * self.hidden // 2

    @property
    def usual_vocab(self) -> int:
        """Tokens of ModernBERT's tokenizer."""
        return 50_368

    def check(self) -> None:
        """Raise InputError for sizes that no ModernBERT can have."""
        super().check()
        if self.hidden // self.heads % 2:
            raise InputError(
                f"model.heads={self.heads} gives heads of width {self.hidden // self.heads}, which is not even: rotary "
                "positions turn pairs of numbers of a head"
            )

    def spec(self) -> Spec:
        """Return an encoder with the head of its pretraining, or with the one of fine-tuning (`head`)."""
        embed, std = Dim("embed", self.hidden), self.init_std
        norm = Norm(embed, self.norm_eps, bias=self.norm_bias)
        embeddings = Embeddings(Table(words_of(self), embed, std), norm=norm, drop=self.dropout)
        blocks = tuple(map(self._block, range(self.layers)))
        head = _answer(self) if self.head else _masked(self)
        return Spec(self.hidden, self.positions, embeddings, blocks, norm, (head,))

    def _block(self, number: int) -> Block:
        """Return a block. The first has no norm before its attention: the embeddings have one."""
        width = self.hidden // self.heads
        norm = Norm(Dim("embed", self.hidden), self.norm_eps, bias=self.norm_bias)
        attention = Attention(
            self.hidden, self.heads, self.heads, width, causal=False, bias=(self.attention_bias,) * 2,
            rope=Rope(self.theta, width), drop=self.attention_dropout, stds=self.stds,
        )  # fmt: skip
        if number % self.global_every:
            near = self.window // 2 + 1  # half the window, and the token itself
            attention = replace(attention, rope=Rope(self.window_theta, width), window=near)
        mlp = MLP(self.hidden, self.ffn, "gelu", gated=True, bias=self.mlp_bias, stds=self.stds)
        return Block(norm if number else None, attention, norm, mlp, drop=self.dropout)


def _masked(model: ModernBertConfig) -> Head:
    """Return the masked-language-model head: a transform, a norm, and the vocabulary, at masked positions only."""
    transform, norm = _transform(model, "masked.transform", "masked.norm", "label")
    return Head("mlm", (transform, norm, ("masked.decoder", decoder_of(model, model.decoder_bias))), "gelu")


def _answer(model: ModernBertConfig) -> Head:
    """Return the head of fine-tuning that `model.head` names: the transform of its pretraining, of the first token, of
    the mean of all or of every token, and one product more.
    """
    kind = head_class(model.head)
    per: Per = "sequence" if kind.pooled else "token"
    outputs = Dim("classes", kind.width(model.classes))
    last = Matrix(Dim("transform", model.hidden), outputs, std=model.hidden**-0.5, per=per)
    chain = *_transform(model, "answer.pooler", "answer.norm", per), ("answer.classifier", last)
    drop = model.dropout if kind.dropped else 0.0
    mean = kind.pooled and model.pooling == "mean"
    return Head(model.head, chain, "gelu", drop, model.classes if kind.grouped else 0, mean)


def _transform(
    model: ModernBertConfig, product: str, norm: str, per: Per
) -> tuple[tuple[str, Matrix], tuple[str, Norm]]:
    """Return the product and the norm that both kinds of heads begin with, by their paths."""
    inputs, outputs = Dim("embed", model.hidden), Dim("transform", model.hidden)
    _, std = model.stds
    matrix = Matrix(inputs, outputs, model.head_bias, std, per=per)
    return (product, matrix), (norm, Norm(outputs, model.norm_eps, bias=model.norm_bias))


_NAMES = Names(
    block="model.layers.{}.",
    blocks={
        "norm1": "attn_norm",
        "attention.qkv": "attn.Wqkv",
        "attention.out": "attn.Wo",
        "norm2": "mlp_norm",
        "feed_forward.up": "mlp.Wi",
        "feed_forward.down": "mlp.Wo",
    },
    once={
        "transformer.embeddings.token": "model.embeddings.tok_embeddings",
        "transformer.embeddings.norm": "model.embeddings.norm",
        "transformer.norm": "model.final_norm",
    },
    heads={
        "mlm": {"masked.transform": "head.dense", "masked.norm": "head.norm", "masked.decoder": "decoder"},
        "answer": {"answer.norm": "head.norm"},
    },
    stem="model.",
    buffers=("_inv_freq",),
)
_KEYS = {
    "vocab": "vocab_size", "positions": "max_position_embeddings", "hidden": "hidden_size",
    "layers": "num_hidden_layers", "heads": "num_attention_heads", "ffn": "intermediate_size", "norm_eps": "norm_eps",
    "init_std": "initializer_range", "window": "local_attention", "norm_bias": "norm_bias",
    "attention_bias": "attention_bias", "mlp_bias": "mlp_bias", "head_bias": "classifier_bias",
    "decoder_bias": "decoder_bias", "pooling": "classifier_pooling",
}  # fmt: skip
_USUAL = {
    "hidden_activation": "gelu", "classifier_activation": "gelu", "attention_dropout": 0.0, "embedding_dropout": 0.0,
    "mlp_dropout": 0.0, "classifier_dropout": 0.0, "tie_word_embeddings": True,
}  # fmt: skip


def _read(facts: Facts) -> dict[str, Any]:
    """Return what the keys alone do not say: which blocks see windows, and the bases of both kinds' frequencies."""
    window, near = facts.get("local_attention", 128), facts.get("sliding_window")
    if near is not None and (type(window) is not int or near != window // 2):  # their class reads both
        raise InputError(f"sliding_window={short(near)} is not half of local_attention={short(window)}")
    section = {"global_every": _global_every(facts)}
    return section | {"theta": _theta(facts, FULL), "window_theta": _theta(facts, SLIDING)}


def _global_every(facts: Facts) -> Any:
    """Return every how many blocks one sees the whole text, by the kinds of all blocks, or by older files' number."""
    kinds, layers = facts.get("layer_types"), facts.get("num_hidden_layers")
    if kinds is None:
        return facts.get("global_attn_every_n_layers", 3)
    if not isinstance(kinds, list) or len(kinds) != layers or not set(map(str, kinds)) <= {FULL, SLIDING}:
        raise InputError(f"layer_types is to be a list of {short(layers)} times {FULL} or {SLIDING}")

    every = next((number for number in range(1, len(kinds)) if kinds[number] == FULL), len(kinds))
    if kinds != _kinds(len(kinds), every):
        raise InputError("layer_types in no regular turn are not known here: every so many blocks sees the whole text")
    return every


def _kinds(layers: int, every: int) -> list[str]:
    return [SLIDING if number % every else FULL for number in range(layers)]


def _theta(facts: Facts, kind: str) -> Any:
    """Return the base of the frequencies of one kind of blocks. InputError for frequencies that are scaled."""
    if facts.get("rope_scaling") is not None:
        raise InputError(f"rope_scaling={short(facts['rope_scaling'])} is not known here")
    whole = facts.get("global_rope_theta", 160_000.0)
    near = facts.get("local_rope_theta", 10_000.0)
    usual = whole if kind == FULL or near is None else near

    ropes = facts.get("rope_parameters") or {}
    rope = ropes.get(kind) if isinstance(ropes, dict) else ropes
    if rope is None:
        return usual
    if not isinstance(rope, dict):
        raise InputError(f"rope_parameters of {kind} are {short(rope)}, and are to be an object")
    if (kind_of := rope.get("rope_type", "default")) != "default":
        raise InputError(f"rotary positions of the type {short(kind_of)} (rope_type) are not known here; default is")
    return rope.get("rope_theta", usual)


def _write(model: ModernBertConfig) -> dict[str, Any]:
    """Return both forms of what a block sees and of its rotary positions, for older and newer versions; and open places
    for special tokens, whose numbers there are by default those of the makers' tokenizer.
    """
    bases = {FULL: model.theta, SLIDING: model.window_theta}
    ropes = {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in bases.items()}
    older = {"global_rope_theta": model.theta, "local_rope_theta": model.window_theta}
    older |= {"global_attn_every_n_layers": model.global_every}
    kinds = _kinds(model.layers, model.global_every)
    marks = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
    return {**_USUAL, **older, **marks, "layer_types": kinds, "rope_parameters": ropes}


class ModernBert:
    """ModernBERT in its two sizes."""

    TASK = "mlm"
    Config: type[ModelConfig] = ModernBertConfig
    PRESETS: Mapping[str, Preset] = {
        "base": {"layers": 22, "hidden": 768, "heads": 12, "ffn": 1152},
        "large": {"layers": 28, "hidden": 1024, "heads": 16, "ffn": 2624},
    }
    HUGGING_FACE: Mapping[str, HuggingFace] = {
        "modernbert": HuggingFace(
            _NAMES, "ModernBertForMaskedLM", _KEYS, _read, _write, _USUAL, tuned="ModernBert", pooler="head.dense",
            apart={"ForQuestionAnswering": ("head.dense", "classifier")},
        )
    }  # fmt: skip

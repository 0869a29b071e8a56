"""The model families without torch: their named sizes, the description of each model, and what no model can have."""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

from phalanx import registry
from phalanx.config import ModelConfig
from phalanx.errors import InputError
from phalanx.spec.leaves import Dim, Matrix, Norm, Table
from phalanx.spec.model import MLP, WORDS, Activation, Attention, Block, Embeddings, Head, Spec

Section = Mapping[str, Any]  # of [model]
PRETRAINING = {"gpt2": "clm", "bert": "mlm"}  # the task that each family is pretrained by


class Sizes(Protocol):
    """What a model family offers by name."""

    @property
    def DEFAULTS(self) -> Section:
        """What its presets have in common."""
        ...

    @property
    def PRESETS(self) -> Mapping[str, Section]:
        """Named [model] sections."""
        ...

    def spec(self, model: ModelConfig) -> Spec:
        """Return the description of the model that a [model] section configures."""
        ...


def _size(common: Section, layers: int, hidden: int, heads: int) -> Section:
    return {**common, "layers": layers, "hidden": hidden, "heads": heads}


_GPT2 = {"positions": 1024, "segments": 0, "norm_first": True, "norm_eps": 1e-5, "gelu": "tanh"}
_GOOGLE = {"positions": 512, "segments": 2, "gelu": "erf", "norm_first": False, "norm_eps": 1e-12}
_MEGATRON = {**_GOOGLE, "norm_first": True, "norm_eps": 1e-5}


class GPT2:
    """OpenAI's four sizes and those of the Megatron paper (arXiv 1909.08053, table 1)."""

    DEFAULTS: Section = _GPT2
    PRESETS: Mapping[str, Section] = {
        "124m": _size(_GPT2, 12, 768, 12),
        "355m": _size(_GPT2, 24, 1024, 16),
        "774m": _size(_GPT2, 36, 1280, 20),
        "1.5b": _size(_GPT2, 48, 1600, 25),
        "1.2b": _size(_GPT2, 40, 1536, 16),
        "2.5b": _size(_GPT2, 54, 1920, 20),
        "4.2b": _size(_GPT2, 64, 2304, 24),
        "8.3b": _size(_GPT2, 72, 3072, 32),
    }

    @staticmethod
    def spec(model: ModelConfig) -> Spec:
        """Return a decoder with learned positions and a head tied to the embedding."""
        head = Head("lm", (("head", _decoder(model, bias=False)),))
        return _stack(model, causal=True, heads=(head,))


class Bert:
    """Google's post-LN sizes (arXiv 1810.04805, 1908.08962) and Megatron's pre-LN sizes (arXiv 1909.08053)."""

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

    @staticmethod
    def spec(model: ModelConfig) -> Spec:
        """Return an encoder with its two heads of pretraining, or with the one of fine-tuning (`model.head`)."""
        heads = (_answer(model),) if model.head else (_masked(model), _pair(model))
        return _stack(model, causal=False, heads=heads)


def _stack(model: ModelConfig, causal: bool, heads: tuple[Head, ...]) -> Spec:
    """The transformer that GPT-2 and BERT share, before or behind its norms, with biases everywhere."""
    hidden, norm, std = Dim("embed", model.hidden), _norm(model), model.init_std
    stds = std, std / math.sqrt(2 * model.layers)  # what adds to the residual stream begins smaller, as GPT-2's

    def table(axis: str, rows: int) -> Table:
        return Table(Dim(axis, rows), hidden, std)

    embeddings = Embeddings(
        token=Table(_words(model), hidden, std),
        position=table("position", model.positions),
        segment=table("segment", model.segments) if model.segments else None,
        norm=None if model.norm_first else norm,
        drop=model.dropout,
    )
    attention = Attention(
        model.hidden, model.heads, model.heads, model.hidden // model.heads, causal, drop=model.attention_dropout,
        stds=stds,
    )  # fmt: skip
    mlp = MLP(model.hidden, model.ffn or 4 * model.hidden, _activation(model), stds=stds)
    block = Block(norm, attention, norm, mlp, model.norm_first, model.dropout)
    last = norm if model.norm_first else None
    return Spec(model.hidden, model.positions, embeddings, (block,) * model.layers, last, heads)


def _norm(model: ModelConfig) -> Norm:
    return Norm(Dim("embed", model.hidden), model.norm_eps)


def _activation(model: ModelConfig) -> Activation:
    return "gelu_tanh" if model.gelu == "tanh" else "gelu"


def _words(model: ModelConfig) -> Dim:
    return Dim("vocab", model.vocab, padded=model.padded_vocab)


def _decoder(model: ModelConfig, bias: bool) -> Matrix:
    return Matrix(Dim("embed", model.hidden), _words(model), bias, model.init_std, per="label", tied=WORDS)


def _masked(model: ModelConfig) -> Head:
    """BERT's masked-language-model head: a transform, a norm, and the vocabulary, at the masked positions only."""
    transform = Dim("embed", model.hidden), Dim("transform", model.hidden)
    chain = (
        ("masked.transform", Matrix(*transform, std=model.init_std, per="label")),
        ("masked.norm", _norm(model)),
        ("masked.decoder", _decoder(model, bias=True)),
    )
    return Head("mlm", chain, _activation(model))


def _pair(model: ModelConfig) -> Head:
    """BERT's next-sentence head: a pooler of the first token, then two classes."""
    return Head("nsp", (_pooler(model, "pair"), _classifier(model, "pair", 2, pooled=True)), "tanh")


def _answer(model: ModelConfig) -> Head:
    """A head of fine-tuning (arXiv 1810.04805, section 4): of the pooled first token, or of every token."""
    pooled = model.head in ("classes", "value", "choice")
    width = {"span": 2, "value": 1, "choice": 1}.get(model.head, model.classes)
    classifier = _classifier(model, "answer", width, pooled)
    chain = (_pooler(model, "answer"), classifier) if pooled else (classifier,)
    return Head(model.head, chain, "tanh", 0.0 if model.head == "span" else model.dropout)


def _pooler(model: ModelConfig, head: str) -> tuple[str, Matrix]:
    inputs, outputs = Dim("embed", model.hidden), Dim("pooled", model.hidden)
    return f"{head}.pooler", Matrix(inputs, outputs, std=model.init_std, per="sequence")


def _classifier(model: ModelConfig, head: str, width: int, pooled: bool) -> tuple[str, Matrix]:
    inputs, outputs = Dim("pooled" if pooled else "embed", model.hidden), Dim("classes", width)
    matrix = Matrix(inputs, outputs, std=model.init_std, per="sequence" if pooled else "token")
    return f"{head}.classifier", matrix


@cache
def spec_of(model: ModelConfig) -> Spec:
    """Return the description of the model that a [model] section configures, whose sizes are known."""
    return registry.SIZES.find(model.family).spec(model)


def with_preset(section: Section) -> dict[str, Any]:
    """A [model] section over its preset, and that over what its family has in common."""
    kind = registry.SIZES.find(section.get("family", "gpt2"))
    preset = section.get("preset", "")
    if preset and preset not in kind.PRESETS:
        raise InputError(f"model.preset={preset} is unknown; use one of {', '.join(kind.PRESETS)}")
    return {**kind.DEFAULTS, **kind.PRESETS.get(preset, {}), **section}


def check(config: ModelConfig) -> None:
    """Raise InputError for sizes that no model can have."""
    if config.hidden % config.heads:
        fits = [n for n in range(1, config.hidden // 16 + 1) if config.hidden % n == 0]
        near = sorted(fits, key=lambda n: abs(n - config.heads))[:4]
        choice = ", ".join(map(str, sorted(near))) or "1"
        raise InputError(f"model.heads={config.heads} does not divide model.hidden={config.hidden}; use {choice}")
    if config.vocab == 0:
        raise InputError("model.vocab=0 and no tokenizer to take it from; set model.vocab")

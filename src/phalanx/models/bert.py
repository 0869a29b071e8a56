"""BERT: both ways, with its two heads of pretraining or the one of a task to be fine-tuned."""

from collections.abc import Mapping

from phalanx.config import ModelConfig
from phalanx.models.family import Section
from phalanx.models.gpt2 import activation_of, decoder_of, norm_of, stack
from phalanx.spec.leaves import Dim, Matrix
from phalanx.spec.model import Head, Spec

_GOOGLE = {"positions": 512, "segments": 2, "gelu": "erf", "norm_first": False, "norm_eps": 1e-12}
_MEGATRON = {**_GOOGLE, "norm_first": True, "norm_eps": 1e-5}


def _size(common: Section, layers: int, hidden: int, heads: int) -> Section:
    return {**common, "layers": layers, "hidden": hidden, "heads": heads}


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

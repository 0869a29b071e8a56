"""The module of any model, built from its description: a transformer and the heads that stand on it."""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from phalanx.errors import InputError
from phalanx.nn.answer import AnswerHead
from phalanx.nn.batch import Batch
from phalanx.nn.heads import MaskedHead, PairHead, VocabularyHead
from phalanx.nn.transformer import Transformer
from phalanx.spec.leaves import Norm
from phalanx.spec.model import WORDS, Head, Spec

ATTRIBUTES = {"lm": "head", "mlm": "masked", "nsp": "pair"}  # of a model, by the losses of its pretraining
APPLIED = {"lm": "label", "mlm": "label", "nsp": "sequence"}  # what the matrices of these heads are applied to


class Model(nn.Module):
    """A model, or a stage of its pipeline, with the attributes by which its description names the parameters: of the
    heads of pretraining `head` (the next token), `masked` and `pair`, of those of fine-tuning `answer`.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, self.transformer = _supported(spec), Transformer(spec)
        self.head = self.masked = self.pair = self.answer = cast(Any, None)
        for part in spec.heads:
            setattr(self, part.name, _made(part, spec))

    def forward(self, batch: Batch, x: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Return logits [batch, seq, vocab], or what `AnswerHead` gives; with labels the sums of the losses by name,
        and how many were right as NAME_correct. A stage before the last returns the residual stream [batch, seq,
        hidden]; a stage after the first takes it as `x`.
        """
        hidden: Tensor = self.transformer(batch, x)
        if not self.spec.heads:
            return hidden

        if self.answer is not None:
            return self.answer(hidden, batch) if batch.labels is None else self.answer.sums(hidden, batch)  # type: ignore[no-any-return]
        vocabulary: MaskedHead | VocabularyHead = self.masked or self.head
        if batch.labels is None:
            return vocabulary(hidden, self.words)  # type: ignore[no-any-return]

        sums = vocabulary.sums(self.spec.losses[0], hidden, self.words, batch.labels)
        if self.pair is not None and batch.related is not None:
            sums |= self.pair.sums("nsp", hidden, batch.related)
        return sums

    @property
    def words(self) -> Tensor:
        """The weight [rows, hidden] that the vocabulary's head multiplies by: the embedding's, or its own."""
        if self.spec.tied:
            return self.transformer.get_parameter("embeddings.token.weight")
        return (self.masked or self.head).weight  # type: ignore[no-any-return]


def _supported(spec: Spec) -> Spec:
    if why := unsupported(spec):
        raise InputError(f"the model has {why}, which no module here computes")
    return spec


def unsupported(spec: Spec) -> str:
    """Return what a model has that the modules of this package do not compute; "" if there is nothing."""
    attentions = [block.attention for block in spec.blocks]
    if len({attention.causal for attention in attentions}) > 1:
        return "blocks that look ahead beside blocks that do not"
    if len({attention.rope for attention in attentions}) > 1:
        return "blocks with different rotary positions"

    if reason := _unsupported_heads(spec.heads):
        return reason

    norms = {leaf.kind for _, leaf in spec.leaves() if isinstance(leaf, Norm)} - {"layer", "rms"}
    return f"{norms.pop()} norms" if norms else ""


def _unsupported_heads(heads: Sequence[Head]) -> str:
    """Return what `Model.forward` does not compute of some heads: it knows one over the vocabulary, maybe with one for
    pairs beside it, or one of fine-tuning alone.
    """
    for head in heads:
        if head.name != "answer" and head.loss not in ATTRIBUTES:
            return f"a head for {head.loss}"
        if head.name != ATTRIBUTES.get(head.loss, "answer"):
            return f"a head for {head.loss} whose leaves begin with {head.name}, not {ATTRIBUTES[head.loss]}"
        tied = {matrix.tied for _, matrix in head.matrices()} - {"", WORDS}
        if tied:
            return f"a head for {head.loss} that is tied to {tied.pop()}, not to {WORDS}"
        each = APPLIED.get(head.loss)
        other = [(path, matrix.per) for path, matrix in head.matrices() if each and matrix.per != each]
        if other:
            path, per = other[0]
            return f"the matrix {path} for each {per}, where one for each {each} is computed (Matrix.per)"

    names = [head.name for head in heads]
    if "answer" in names and len(names) > 1:
        return "a head of fine-tuning beside others"
    over_words = len({"head", "masked"} & {*names})
    if len({*names}) < len(names) or (names and "answer" not in names and over_words != 1):
        return f"heads for {' and '.join(head.loss for head in heads)}, not one over the vocabulary"
    return ""


def _made(part: Head, spec: Spec) -> nn.Module:
    leaves: list[Any] = [leaf for _, leaf in part.leaves()]
    if part.loss == "lm":
        return VocabularyHead(*leaves)
    if part.loss == "mlm":
        transform, norm, decoder = leaves
        return MaskedHead(transform, norm, decoder, part.activation)
    if part.loss == "nsp":
        return PairHead(*leaves)
    return AnswerHead(part, site=3 * (spec.first + len(spec.blocks)) + 1)  # its dropout comes after those of the blocks

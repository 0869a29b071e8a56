"""The module of any model, built from its description: a transformer and the heads that stand on it."""

from typing import Any, cast

from torch import Tensor, nn

from phalanx.errors import InputError
from phalanx.nn.answer import AnswerHead
from phalanx.nn.batch import Batch
from phalanx.nn.heads import MaskedHead, PairHead, VocabularyHead
from phalanx.nn.transformer import Transformer
from phalanx.spec.model import Head, Spec
from phalanx.spec.supported import unsupported


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

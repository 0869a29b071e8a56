"""The heads of pretraining, on top of the transformer: next token, masked tokens, pairs of sentences."""

import torch
from torch import Tensor, nn

from phalanx.nn import activations, loss, slots
from phalanx.nn.linear import Linear
from phalanx.nn.norm import Norm
from phalanx.nn.slots import Slot
from phalanx.spec import leaves
from phalanx.spec.leaves import Matrix


class VocabularyHead(nn.Module):
    """Logits over the vocabulary by the embedding's weight, or by its own; padding rows never compete.

    Of the rows that are here the first `held` are words. A layout that splits them fills `enter` and `columns`.
    """

    def __init__(self, part: Matrix) -> None:
        super().__init__()
        self.axes, self.std = (part.inputs.axis, part.outputs.axis), part.std
        self.held = part.outputs.size
        self.weight = None if part.tied else nn.Parameter(torch.empty(part.outputs.stored, part.inputs.size))
        self.bias = nn.Parameter(torch.zeros(self.held)) if part.bias else None
        self.enter: Slot = slots.same
        self.columns = loss.WHOLE
        self.gemm = slots.gemm

    def forward(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """Return logits [..., vocab] of hidden [..., hidden]; weight is [rows, hidden]."""
        return self.gemm(hidden, weight[: self.held], self.bias)

    def sums(self, name: str, hidden: Tensor, weight: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the sum of the loss over labels [...] >= 0, given hidden [..., hidden], as `name`, and that of the
        z-loss as "z" where there is one, whose gradient goes through the other. Without gradients neither that; instead
        also how many were right as NAME_correct, and the loss of each and whether it was right as `answers` [..., 2].
        """
        shape = labels.shape
        hidden, labels, weight = self.enter(hidden.flatten(0, -2)), labels.flatten(), weight[: self.held]
        if torch.is_grad_enabled():
            total, z = loss.vocabulary_loss(hidden, weight, self.bias, labels, self.gemm, self.columns)
            return {name: total} if z is None else {name: total, "z": z}
        losses, right = loss.vocabulary_score(hidden, weight, self.bias, labels, self.gemm, self.columns)
        answers = torch.stack([losses, right], -1).view(*shape, 2)
        return {name: losses.sum(), f"{name}_correct": right.sum(), "answers": answers}


class MaskedHead(nn.Module):
    """BERT's masked-language-model head: a transform, then the vocabulary at the masked positions only."""

    def __init__(self, transform: Matrix, norm: leaves.Norm, decoder: Matrix, activation: str) -> None:
        super().__init__()
        self.activation = activations.of(activation)
        self.transform = Linear(transform)
        self.norm = Norm(norm)
        self.decoder = VocabularyHead(decoder)

    @property
    def weight(self) -> nn.Parameter | None:
        """The decoder's own weight [rows, hidden]; None where it is the embedding's."""
        return self.decoder.weight

    def _transform(self, hidden: Tensor) -> Tensor:
        y: Tensor = self.norm(self.activation(self.transform(hidden)))
        return y

    def forward(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """Return logits [..., vocab] of hidden [..., hidden]."""
        logits: Tensor = self.decoder(self._transform(hidden), weight)
        return logits

    def sums(self, name: str, hidden: Tensor, weight: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return sums of the loss and of right answers, as `VocabularyHead.sums` does. Only masked positions meet the
        transform and the vocabulary.
        """
        masked = labels >= 0
        return self.decoder.sums(name, self._transform(hidden[masked]), weight, labels[masked])


class PairHead(nn.Module):
    """BERT's next-sentence head: tanh pooler over the first token, then two classes."""

    def __init__(self, pooler: Matrix, classifier: Matrix) -> None:
        super().__init__()
        self.pooler, self.classifier = Linear(pooler), Linear(classifier)

    def pool(self, hidden: Tensor) -> Tensor:
        """Return [batch, hidden] of hidden [batch, seq, hidden]: the first token's, through the pooler."""
        return torch.tanh(self.pooler(hidden[:, 0]))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits [batch, 2] of hidden [batch, seq, hidden]."""
        logits: Tensor = self.classifier(self.pool(hidden))
        return logits

    def sums(self, name: str, hidden: Tensor, related: Tensor) -> dict[str, Tensor]:
        """Return the sum of the loss over related int64 [batch] >= 0, given hidden [batch, seq, hidden], as `name`, and
        how many were right as NAME_correct.
        """
        logits = self(hidden)
        return {
            name: loss.cross_entropy(logits, related),
            f"{name}_correct": (logits.argmax(-1) == related).sum(),
        }

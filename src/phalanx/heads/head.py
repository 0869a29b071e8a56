"""The interface of a head of fine-tuning.

A head stands on the stack in place of the heads of pretraining, and is named by `model.head`. Its class says what it
reads and how many numbers it gives, what they are to be (the loss) and what they mean (`decode`), which verb of the
command line and of the server asks for them, and what it is called at Hugging Face. Everyone else asks the class, so
one from outside the package ("module:Name") goes where those of the package go. Nothing here imports torch before a
loss is computed, and nothing in this file numpy, so that plans do without.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from phalanx import registry
from phalanx.errors import InputError
from phalanx.spec.model import Head, Spec

if TYPE_CHECKING:
    from torch import Tensor

    from phalanx.data.source import Array
    from phalanx.nn.answer import Split
    from phalanx.nn.batch import Batch

ASKED = "related", "value", "labels"  # fields of a batch that say what is right
VERBS = {"": "decode", "classify": "decode", "answer": "answers"}  # and the method of a head that each needs


class TaskHead(ABC):
    """The head of a model that is fine-tuned, or was.

    `part` is its description in the model, `labels` the names of its classes where they are known. `exclusive` says
    that a text has one class alone.
    """

    task: ClassVar[str]
    """The task that trains it: a name in the registry, or "module:Name"."""
    asks: ClassVar[Literal["related", "value", "labels"]]
    """The field of a `Batch` that says what is right: a whole number or a real one of a sequence, or one of a token."""
    pooled: ClassVar[bool] = True
    """Whether it answers once for a sequence, as of its first token through a layer and tanh (arXiv 1810.04805, section
    4.1), or for every token."""
    dropped: ClassVar[bool] = True
    """Whether there is dropout before its last product."""
    grouped: ClassVar[bool] = False
    """Whether `model.classes` rows of a batch belong together, the candidates of a question."""
    whole: ClassVar[bool] = False
    """Whether its loss is about whole sequences (`Split.together`), where a layout splits them."""

    verb: ClassVar[str] = ""
    """The verb that asks it, on the command line and of the server: classify, of a text or two, or answer; "": none."""
    does: ClassVar[str] = ""
    """The end of a sentence that begins "the model cannot": it names what the head does."""
    example: ClassVar[str] = ""
    """The name of a task that makes one for `phalanx tune --task`; "" where it is `task`."""
    form: ClassVar[str] = "table"
    """The form (examples.form) of the files that it learns from."""
    named: ClassVar[bool] = False
    """Whether its classes have names (examples.labels)."""

    hugging_face: ClassVar[str] = ""
    """The suffix to the model's name in the name of its class at Hugging Face; "" where there is none."""
    classifier: ClassVar[str] = "classifier"
    """The name of its last product there."""
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    """The names of its numbers in a graph; where they are several, each has a share of the last dimension."""

    def __init__(self, part: Head, labels: Sequence[str] = (), exclusive: bool = True) -> None:
        self.part, self.labels, self.exclusive = part, labels, exclusive

    @classmethod
    def width(cls, classes: int) -> int:
        """Return how many numbers it gives for a sequence or a token, by model.classes: by default as many."""
        return classes

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch, split: Split) -> tuple[Tensor, ...]:
        """Return the sum of the loss over the answers that a batch asks for, and, where that can be said, how many of
        them were right. logits: float32 [batch, width], of a head that is not pooled [batch, seq, width].

        Rows that only fill up ask nothing (`right`), and count nothing. Where a layout splits sequences, a pooled head
        is asked on the rank with the first token, one that reads every token about the positions that a rank has.
        """

    @abstractmethod
    def decode(self, logits: Array) -> Any:
        """Return what the numbers of one text say: float32 [width], or [tokens, width]. For the verb classify it is a
        NamedTuple, whose fields the server sends.
        """

    def lines(self, answer: Any) -> list[str]:
        """Return what a terminal shows of what `decode` returned."""
        return [f"{name}  {value}" for name, value in answer._asdict().items()]

    def right(self, batch: Batch) -> Tensor:
        """Return what is right in each row, or token, of a batch: what it has under `asks`; where it asks nothing -1,
        or NaN for a real number.
        """
        right: Tensor | None = getattr(batch, self.asks)
        if right is not None:
            return right
        return batch.key.float().fill_(math.nan) if self.asks == "value" else batch.key.long().fill_(-1)

    @classmethod
    def count(cls, batch: Batch) -> Tensor | None:
        """Return over how many answers of a batch the loss is summed: int64 []; None where it asks for none."""
        right: Tensor | None = getattr(batch, cls.asks)
        if right is None:
            return None
        return (right.isfinite() if cls.asks == "value" else right >= 0).sum()

    @property
    def names(self) -> Sequence[str]:
        """The names of its numbers: of classes where these have names, else 0, 1, …"""
        return self.labels or tuple(map(str, range(self.part.width)))

    @classmethod
    def classes_of(cls, facts: Mapping[str, Any]) -> int | None:
        """Return model.classes by a config.json of Hugging Face's, whose class is called as this head's; None where it
        is about another head of that name.
        """
        if not cls.named:
            return 0
        return len(facts["id2label"]) if facts.get("id2label") else facts.get("num_labels") or 2

    def facts(self) -> dict[str, Any]:
        """Return what a config.json of Hugging Face's says of it."""
        if not self.named:
            return {}
        labels = self.labels or [f"LABEL_{n}" for n in range(self.part.width)]
        return {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}


def head_class(name: str) -> type[TaskHead]:
    """Return the class of a head by its name, or by "module:Name". InputError where there is none."""
    kind: Any = registry.HEADS.find(name)
    if not (isinstance(kind, type) and issubclass(kind, TaskHead)):
        raise InputError(f"model.head={name} is no subclass of phalanx.heads.head.TaskHead")
    if kind.verb not in VERBS:
        known = " and ".join(filter(None, VERBS))
        raise InputError(f"model.head={name}: the verb {kind.verb!r} is not known; {known} are")

    needs = "task", "asks", VERBS[kind.verb], *kind.__abstractmethods__
    if missing := [need for need in needs if need in kind.__abstractmethods__ or not hasattr(kind, need)]:
        raise InputError(f"model.head={name} has no {missing[0]}")
    if kind.asks not in ASKED:
        raise InputError(f"model.head={name}: asks={kind.asks!r} is none of {', '.join(ASKED)}")
    return kind


def head_of(spec: Spec, labels: Sequence[str] = (), exclusive: bool = True) -> TaskHead | None:
    """Return the head of a model's fine-tuning; None for a model that has those of its pretraining."""
    return head_class(spec.answer.loss)(spec.answer, labels, exclusive) if spec.answer else None


def classified(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the cross-entropy over labels >= 0, and how many of these have the largest logit: logits
    [..., classes], labels [...].
    """
    from phalanx.nn.loss import cross_entropy

    logits, labels = logits.flatten(0, -2), labels.flatten()
    return cross_entropy(logits, labels), ((logits.argmax(-1) == labels) & (labels >= 0)).sum()

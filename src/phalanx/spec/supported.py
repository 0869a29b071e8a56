"""What the modules of this package compute: of a description that holds together, whether there are modules for it.

Nothing here imports torch, so that a plan refuses what training refuses.
"""

from collections.abc import Sequence

from phalanx.spec.leaves import Leaf, Matrix, Norm, Per
from phalanx.spec.model import WORDS, Head, Spec

# The leaves of a head by its loss, in the order of computation, each with its path and its kind.
_PRETRAINING: dict[str, dict[str, type[Leaf]]] = {
    "lm": {"head": Matrix},
    "mlm": {"masked.transform": Matrix, "masked.norm": Norm, "masked.decoder": Matrix},
    "nsp": {"pair.pooler": Matrix, "pair.classifier": Matrix},
}
_TUNED: dict[str, type[Leaf]] = {"answer.pooler": Matrix, "answer.classifier": Matrix}
_APPLIED: dict[str, Per] = {"lm": "label", "mlm": "label", "nsp": "sequence"}  # each what their matrices are applied to
OVER_WORDS = frozenset({"lm", "mlm"})  # the losses of heads over the vocabulary
LOOKS_AHEAD = {"lm": False, "mlm": True}  # whether attention sees what follows a position, by the loss


def unsupported(spec: Spec) -> str:
    """Return what a model, or a stage of its pipeline, has that the modules of this package do not compute; "" if there
    is nothing.
    """
    attentions = [block.attention for block in spec.blocks]
    if len({attention.causal for attention in attentions}) > 1:
        return "blocks that look ahead beside blocks that do not"
    if len({attention.rope for attention in attentions}) > 1:
        return "blocks with different rotary positions"

    return _unsupported_heads(spec.heads)


def _unsupported_heads(heads: Sequence[Head]) -> str:
    """Return what `Model.forward` does not compute of some heads: it knows one over the vocabulary, maybe with one for
    pairs beside it, or one of fine-tuning alone.
    """
    for head in heads:
        if reason := _unsupported_leaves(head) or _unsupported_settings(head):
            return f"a head for {head.loss}{reason}"

    names = [head.name for head in heads]
    if "answer" in names and len(names) > 1:
        return "a head of fine-tuning beside others"
    over_words = len(OVER_WORDS & {head.loss for head in heads})
    if len({*names}) < len(names) or (names and "answer" not in names and over_words != 1):
        return f"heads for {' and '.join(head.loss for head in heads)}, not one over the vocabulary"
    return ""


def _unsupported_leaves(head: Head) -> str:
    """Return how a head's leaves are others than those of its module; "" if they are the same."""
    if head.name != "answer" and head.loss not in _PRETRAINING:
        return f", which is none of {', '.join(_PRETRAINING)}"

    leaves = _PRETRAINING.get(head.loss, _TUNED)
    if leaves is _TUNED and len(head.chain) == 1:
        leaves = {"answer.classifier": Matrix}
    if (paths := [path for path, _ in head.chain]) != [*leaves]:
        return f" whose leaves are {', '.join(paths)}, not {', '.join(leaves)}"

    for path, leaf in head.chain:
        if not isinstance(leaf, leaves[path]):
            return f" whose leaf {path} is of type {type(leaf).__name__}, not {leaves[path].__name__}"
        over_words = head.loss in OVER_WORDS and path == [*leaves][-1]
        if isinstance(leaf, Matrix) and leaf.tied not in ("", WORDS if over_words else ""):
            return f" whose leaf {path} is tied to {leaf.tied}" + (f", not to {WORDS}" if over_words else "")
    return ""


def _unsupported_settings(head: Head) -> str:
    """Return which of a head's settings its module would not heed; "" if there is none."""
    each = _APPLIED.get(head.loss)
    for path, matrix in head.matrices():
        if each and matrix.per != each:
            return f": the matrix {path} for each {matrix.per}, where one for each {each} is computed (Matrix.per)"
    if head.loss == "lm" and head.activation:
        return f" with activation={head.activation}"
    if head.loss == "mlm" and not head.activation:
        return " without an activation"
    if head.loss not in OVER_WORDS and len(head.chain) > 1 and head.activation != "tanh":
        return f" with activation={head.activation!r}, not tanh, behind its pooler"
    if head.name != "answer" and (head.drop or head.candidates):
        name = "drop" if head.drop else "candidates"
        return f" with {name}={getattr(head, name)}"
    return ""

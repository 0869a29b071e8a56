"""What the modules of this package compute: of a description that holds together, whether there are modules for it.

Nothing here imports torch, so that a plan refuses what training refuses.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from phalanx.spec.leaves import Leaf, Matrix, Norm, Per
from phalanx.spec.model import WORDS, Head, Spec


class Known(NamedTuple):
    """A head of pretraining that has a module."""

    leaves: Mapping[str, type[Leaf]]  # by path, in the order of computation
    per: Per  # what its matrices are applied to
    output: str  # the name of its numbers in a graph
    looks_ahead: bool | None = None  # whether attention sees what follows a position; None: either


PRETRAINING = {  # by the loss
    "lm": Known({"head": Matrix}, "label", "logits", False),
    "mlm": Known({"masked.transform": Matrix, "masked.norm": Norm, "masked.decoder": Matrix}, "label", "logits", True),
    "nsp": Known({"pair.pooler": Matrix, "pair.classifier": Matrix}, "sequence", "pair_logits"),
}
OVER_WORDS = {loss for loss, head in PRETRAINING.items() if head.per == "label"}  # heads over the vocabulary
_TUNED: Mapping[str, type[Leaf]] = {"answer.pooler": Matrix, "answer.norm": Norm, "answer.classifier": Matrix}
_LEFT_OUT: tuple[list[str], ...] = (
    ["answer.norm"],
    ["answer.pooler", "answer.norm"],
    [],
)  # what of these a head may lack


def unsupported(spec: Spec) -> str:
    """Return what a model, or a stage of its pipeline, has that the modules of this package do not compute; "" if there
    is nothing.
    """
    attentions = [block.attention for block in spec.blocks]
    if len({attention.causal for attention in attentions}) > 1:
        return "blocks that look ahead beside blocks that do not"
    if any(not block.norm_first and (block.branch1 or block.branch2) for block in spec.blocks):
        return "norms on branches beside norms of sums (norm_first=False)"
    if any(not block.norm_first and not (block.norm1 and block.norm2) for block in spec.blocks):
        return "sums without their norms (norm_first=False)"

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
    over_words = [head.loss in OVER_WORDS for head in heads]
    if len({*names}) < len(names) or (names and "answer" not in names and sum(over_words) != 1):
        return f"heads for {' and '.join(head.loss for head in heads)}, not one over the vocabulary"
    if any(over_words[1:]):
        return f"a head for {heads[0].loss} before that over the vocabulary, which is to be the first"
    return ""


def _unsupported_leaves(head: Head) -> str:
    """Return how a head's leaves are others than those of its module; "" if they are the same."""
    known = PRETRAINING.get(head.loss)
    if head.name != "answer" and not known:
        return f", which is none of {', '.join(PRETRAINING)}"

    paths, leaves = [path for path, _ in head.chain], known.leaves if known else _TUNED
    chains = [[path for path in leaves if path not in lacks] for lacks in ([[]] if known else _LEFT_OUT)]
    if paths not in chains:
        return f" whose leaves are {', '.join(paths)}, not {' or '.join(', '.join(chain) for chain in chains)}"

    for path, leaf in head.chain:
        if not isinstance(leaf, leaves[path]):
            return f" whose leaf {path} is of type {type(leaf).__name__}, not {leaves[path].__name__}"
        over_words = head.loss in OVER_WORDS and path == paths[-1]
        if isinstance(leaf, Matrix) and leaf.tied not in ("", WORDS if over_words else ""):
            return f" whose leaf {path} is tied to {leaf.tied}" + (f", not to {WORDS}" if over_words else "")
    return ""


def _unsupported_settings(head: Head) -> str:
    """Return which of a head's settings its module would not heed; "" if there is none."""
    known = PRETRAINING.get(head.loss)
    for path, matrix in head.matrices():
        if known and matrix.per != known.per:
            return f": the matrix {path} for each {matrix.per}, where one for each {known.per} is computed (Matrix.per)"
    if head.loss == "lm" and head.activation:
        return f" with activation={head.activation}"
    if head.loss == "mlm" and not head.activation:
        return " without an activation"
    behind = ("tanh", "relu", "gelu") if head.name == "answer" else ("tanh",)
    if head.loss not in OVER_WORDS and len(head.chain) > 1 and head.activation not in behind:
        return f" with activation={head.activation!r}, not {' or '.join(behind)}, behind its pooler"
    if head.name != "answer" and (head.drop or head.candidates):
        name = "drop" if head.drop else "candidates"
        return f" with {name}={getattr(head, name)}"
    if head.mean and (head.name != "answer" or head.per_token):
        return " with mean=True, though it does not answer once for a sequence"
    return ""

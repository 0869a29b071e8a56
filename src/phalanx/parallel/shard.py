"""Tensor and sequence parallelism: one table says which logical axes are split, one walk over the model does it.

A weight whose output axis is split takes the stream through `enter`, one whose input axis is split gives it back
through `leave`. Without sequence parallelism the stream between blocks is whole on every rank; with it every rank has
its part of the positions, and the gradients of what it applies there to its part alone (norms, biases, position
embeddings) are sums that still lack the other ranks' terms: they are `partial` until the step ends.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from phalanx.nn import slots
from phalanx.nn.attention import Attention, Dropping
from phalanx.nn.dropout import Dropout
from phalanx.nn.heads import VocabularyHead
from phalanx.nn.linear import Embedding, Linear
from phalanx.nn.loss import Columns
from phalanx.nn.norm import Norm
from phalanx.nn.transformer import Embeddings, Transformer
from phalanx.parallel import comm
from phalanx.parallel.mesh import Axis

SPLIT = ("heads", "mlp", "vocab")  # logical axes that tensor parallelism splits


@dataclass(frozen=True)
class Part:
    """What a rank has of a parameter: its place in the whole, and whether its gradient lacks terms of the tp axis."""

    shape: tuple[int, ...]  # of the whole
    offset: tuple[int, ...]
    split: bool = False  # over tp
    partial: bool = False


def shard(model: nn.Module, tp: Axis, sequence: bool) -> dict[str, Part]:
    """Cut a model (on the meta device) down to what this rank holds and fill its slots; every parameter's Part."""
    parts: dict[str, Part] = {}
    stream = {id(m) for stack in model.modules() if isinstance(stack, Transformer) for m in stack.modules()}
    tables = (m for m in model.modules() if isinstance(m, Embedding) and "vocab" in m.axes)
    words = next((table.weight.shape[0] for table in tables), 0)  # none in the middle of a pipeline
    direct = sequence and not any(isinstance(m, Linear) and id(m) not in stream for m in model.modules())
    for name, module in model.named_modules():
        split = [axis in SPLIT and tp.size > 1 for axis in getattr(module, "axes", ())]
        partial_here = tp.size > 1 and sequence and id(module) in stream
        if tp.size > 1:
            _fill(module, split, tp, sequence and id(module) in stream, direct, words // tp.size)
        for kind, parameter in list(module.named_parameters(recurse=False)):
            whole = tuple(parameter.shape)
            offset = (0,) * len(whole)
            dim = _dim(module, kind, split)
            if dim is not None:
                # a head's bias has no padding, so its parts follow the rows of the embedding
                size = words // tp.size if isinstance(module, VocabularyHead) else whole[dim] // tp.size
                begin = size * tp.rank
                local = [*whole[:dim], max(0, min(size, whole[dim] - begin)), *whole[dim + 1 :]]
                offset = (*offset[:dim], begin, *offset[dim + 1 :])
                setattr(module, kind, nn.Parameter(torch.empty(local, device=parameter.device)))
            lacking = partial_here and _positionwise(module, kind, split)
            parts[f"{name}.{kind}"] = Part(whole, offset, dim is not None, lacking)
    return parts


def _dim(module: nn.Module, kind: str, split: list[bool]) -> int | None:
    """Which dim of a parameter is split. A table's rows are its input axis, other weights' rows their output axis."""
    if not any(split):
        return None
    if isinstance(module, Embedding) or split[1]:
        return 0
    return 1 if kind == "weight" else None


def _positionwise(module: nn.Module, kind: str, split: list[bool]) -> bool:
    """Whether a whole parameter is applied to each position of the stream, of which a rank has a part."""
    if isinstance(module, Linear):
        return kind == "bias" and not split[1]
    return isinstance(module, Norm) or (isinstance(module, Embedding) and not any(split))


def _fill(module: nn.Module, split: list[bool], tp: Axis, sequence: bool, direct: bool, words: int) -> None:
    """The slots of one module, before its parameters are cut. `direct`: the vocabulary's head follows the split stream
    with nothing between them that is computed alike on every rank.
    """
    if isinstance(module, Embedding) and any(split):
        module.leave = comm.conjugate("scatter" if sequence else "reduce", tp)
        module.start = words * tp.rank
    elif isinstance(module, Linear) and split[1]:
        module.enter = comm.conjugate("gather" if sequence else "copy", tp)
    elif isinstance(module, Linear) and split[0]:
        module.leave = comm.conjugate("scatter" if sequence else "reduce", tp)
    elif isinstance(module, VocabularyHead):
        start = words * tp.rank
        module.enter = slots.same if direct else comm.conjugate("copy", tp)
        module.columns = Columns(start, comm.total(tp), comm.largest(tp))
        module.held = max(0, min(words, module.held - start))
    elif isinstance(module, Attention) and isinstance(module.attend, Dropping):
        heads = module.qkv.weight.shape[0] // 3 // module.width
        module.attend.first_head = tp.rank * heads // tp.size
    elif sequence and isinstance(module, Dropout | Embeddings):
        module.rows = partial(comm.own, axis=tp)
    elif sequence and isinstance(module, Transformer):
        module.leave = comm.conjugate("gather" if direct else "collect", tp)

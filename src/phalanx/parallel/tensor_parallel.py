"""Tensor and sequence parallelism: spec/partition.py says what a rank holds, one walk over the leaves makes it so.

A weight whose output axis is split takes the stream through `enter`, one whose input axis is split gives it back
through `leave`. Without sequence parallelism the stream between blocks is whole on every rank; with it every rank has
its part of the positions, and the gradients of what it applies there to its part alone (norms, biases, position
embeddings) are sums that still lack the other ranks' terms: they are `partial` until the step ends.
"""

from functools import partial
from typing import Any

from torch import nn

from phalanx.nn import slots
from phalanx.nn.attention import Dropping
from phalanx.nn.dropout import Dropout
from phalanx.nn.heads import VocabularyHead
from phalanx.nn.linear import Embedding, Linear
from phalanx.nn.loss import Columns
from phalanx.nn.model import Model
from phalanx.nn.norm import Norm
from phalanx.nn.transformer import Embeddings
from phalanx.parallel import comm
from phalanx.parallel.mesh import Axis
from phalanx.spec import leaves
from phalanx.spec.leaves import Leaf, Matrix, Table
from phalanx.spec.partition import Ranks, local, runs, shape, split, widened


def shard(model: Model, tp: Axis, ranks: Ranks) -> None:
    """Cut a model, on the meta device, down to what this rank holds, and fill its slots."""
    if tp.size == 1:
        return
    for path, leaf in model.spec.leaves():
        module = model.get_submodule(path)
        _fill(module, leaf, tp, ranks)
        for parameter in leaf.parameters():
            held = getattr(module, parameter.name).new_empty(shape(parameter, ranks))
            setattr(module, parameter.name, nn.Parameter(held))

    for number, block in model.spec.numbered():
        attention: Any = model.get_submodule(f"transformer.blocks.{number}.attention")
        held = widened(block, tp.size).attention
        attention.group = held.heads // held.kv_heads
        if isinstance(attention.attend, Dropping):
            attention.attend.first_head = tp.rank * block.attention.heads // tp.size
    if ranks.sequence:
        _split_stream(model, tp)


def _fill(module: nn.Module, leaf: Leaf, tp: Axis, ranks: Ranks) -> None:
    """Fill the slots of a leaf's module by the axes that are split."""
    enter, leave = ("gather", "scatter") if ranks.sequence else ("copy", "reduce")

    if isinstance(leaf, Table):
        assert isinstance(module, Embedding)
        if split(leaf.rows):
            (rows,) = runs(leaf.rows, ranks)
            module.start, module.leave = rows.global_offset, comm.conjugate(leave, tp)
    elif isinstance(leaf, leaves.Norm) and split(leaf.dim):
        assert isinstance(module, Norm)
        module.total, module.size = comm.total(tp), local(leaf.dim, ranks) * tp.size  # copies of key heads included
    elif isinstance(leaf, Matrix) and isinstance(module, VocabularyHead):
        (words,) = runs(leaf.outputs, ranks)
        module.held, module.enter = words.length, comm.conjugate("copy", tp)
        module.columns = Columns(words.global_offset, comm.total(tp), comm.largest(tp))
    elif isinstance(leaf, Matrix):
        assert isinstance(module, Linear)
        if split(leaf.outputs):
            module.enter = comm.conjugate(enter, tp)
        if split(leaf.inputs):
            module.leave = comm.conjugate(leave, tp)


def _split_stream(model: Model, tp: Axis) -> None:
    """Let each rank have its positions of the residual stream, and put it together where the heads begin.

    A vocabulary's head that follows the stream at once computes a part of the gradient on each rank, so what gathers
    for it scatters their sum. Other heads are computed alike on every rank.
    """
    for module in model.transformer.modules():
        if isinstance(module, Dropout | Embeddings):
            module.rows = partial(comm.own, axis=tp)

    heads = [model.get_submodule(path) for path, _ in model.spec.matrices() if not path.startswith("transformer.")]
    direct = all(isinstance(head, VocabularyHead) for head in heads)
    model.transformer.leave = comm.conjugate("gather" if direct else "collect", tp)
    for head in heads:
        if direct and isinstance(head, VocabularyHead):
            head.enter = slots.same

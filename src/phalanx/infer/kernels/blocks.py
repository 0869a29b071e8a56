"""All blocks of a model in one call, and a product for what lies above them."""

import ctypes
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn

from phalanx.infer.kernels import compiled
from phalanx.infer.kernels.compiled import functions
from phalanx.infer.kv_cache import KVCache
from phalanx.models.gpt2 import unlike
from phalanx.nn.attention import Context
from phalanx.nn.linear import Linear
from phalanx.spec.model import Spec

PRECISIONS = ("fp32", "int8")


def unavailable(spec: Spec, precision: str) -> str:
    """Return what of a model the kernels do not know, or why they cannot be had here; "" if they compute it."""
    if difference := unlike(spec):
        return f"it computes models of GPT-2's and BERT's kind alone; this one is another ({difference})"
    if reason := compiled.unavailable():
        return reason
    return "" if precision in PRECISIONS else f"it has {' and '.join(PRECISIONS)} here, not {precision}"


def install(model: Any, precision: str, memory: int | None = None) -> "Blocks":
    """Put `Blocks` in the place of a model's blocks, and `PackedLinear`s into the slots of what lies above. A head for
    answers stays in fp32: it is small. `memory` is in bytes, for the keys and values of a GPT.
    """
    transformer, spec = model.transformer, model.spec
    blocks = Blocks(transformer, spec, precision == "int8")
    if memory is not None:
        heads, width = spec.blocks[0].attention.heads, spec.blocks[0].attention.width
        blocks.remember(KVCache.within(memory, spec.positions, len(spec.blocks), heads, width, model.words))

    transformer.blocks = nn.ModuleDict({"all": blocks})
    if transformer.causal:
        model.head.gemm = PackedLinear(model.words[: model.head.held], precision == "int8")
    elif model.answer is not None:
        for linear in (module for module in model.answer.modules() if isinstance(module, Linear)):
            linear.gemm = PackedLinear(linear.weight, False)
    return blocks


class Blocks(nn.Module):
    """Takes the place of a model's blocks, for packed batches. A GPT's keys and values are kept in `cache`."""

    cache: KVCache
    kind = 0  # of the contexts of a model's blocks, which are of one kind

    def __init__(self, transformer: Any, spec: Spec, integers: bool) -> None:
        super().__init__()
        self.caches: tuple[Any, Any, int] = None, None, 0
        blocks = list(transformer.blocks.values())
        part = spec.blocks[0]
        heads, mlp = part.attention.heads, part.feed_forward

        shape = spec.hidden, mlp.width, heads, part.norm_first, spec.causal, mlp.activation == "gelu_tanh"
        self.handle = functions().blocks_new(*shape)
        finalize(self, functions().blocks_free, self.handle)

        for block in blocks:
            attention, feed = block.attention, block.feed_forward
            qkv = (_stacked(x, heads) for x in (attention.qkv.weight, attention.qkv.bias))
            others = (attention.out, feed.up, feed.down, block.norm1, block.norm2)
            rest = (x for module in others for x in (module.weight, module.bias))
            weights = [_plain(x) for x in (*qkv, *rest)]
            functions().blocks_add(self.handle, integers, block.norm1.eps, _pointers(weights))

    def remember(self, cache: KVCache) -> None:
        """Keep keys and values in `cache`."""
        slots = cache.keys[0].shape[1]
        self.cache, self.caches = cache, (_pointers(cache.keys), _pointers(cache.values), slots)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Return `x`, float32 [1, tokens, hidden], after all blocks; it may be changed in place."""
        if self.caches[0] is None:
            assert context.cu_seqlens is not None
            ends = context.cu_seqlens.tolist()
            sequences = [_Sequence(stop - start, 0, None) for start, stop in pairwise(ends)]
        else:
            chunks = context.cache.chunks
            assert all(chunk.stop <= len(chunk.pages.slots) for chunk in chunks)
            sequences = [_Sequence(len(chunk.tokens), chunk.start, chunk.pages.slots.data_ptr()) for chunk in chunks]

        x = x.contiguous()
        assert x.dtype == torch.float32 and x.shape[:2] == (1, sum(sequence.tokens for sequence in sequences))
        listed = (_Sequence * len(sequences))(*sequences)
        functions().blocks_run(self.handle, x.data_ptr(), listed, len(listed), *self.caches, torch.get_num_threads())
        return x


class PackedLinear:
    """A linear layer's slot with weights of its own, in fp32 or int8."""

    def __init__(self, weight: Tensor, integers: bool) -> None:
        weight = _plain(weight)
        self.outputs, inputs = weight.shape
        self.handle = functions().linear_new(inputs, self.outputs, integers, weight.data_ptr(), None)
        finalize(self, functions().linear_free, self.handle)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return float32 […, outputs] of x […, inputs]; `weight` is not read, it was packed before."""
        x = _plain(x)
        y = x.new_empty(*x.shape[:-1], self.outputs)
        rows = x.numel() // x.shape[-1]
        functions().linear_run(self.handle, x.data_ptr(), rows, y.data_ptr(), torch.get_num_threads())
        return y if bias is None else y + bias


class _Sequence(ctypes.Structure):
    _fields_ = [("tokens", ctypes.c_int32), ("before", ctypes.c_int32), ("slots", ctypes.c_void_p)]


def _stacked(joined: Tensor, heads: int) -> Tensor:
    """Return the rows [3 × hidden, …] of a projection to queries, keys and values in another order: all queries first,
    then keys, then values, where those of a head lay together.
    """
    apart = joined.view(heads, 3, -1, *joined.shape[1:])
    return apart.transpose(0, 1).reshape(joined.shape)


def _plain(x: Tensor) -> Tensor:
    return x.detach().float().contiguous()


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))

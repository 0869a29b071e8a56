"""A decoder that goes on from its cache: the new tokens of all sequences are one packed batch, so that products see all
of them at once and nothing is filled up; attention looks into each sequence's own past.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from phalanx.infer.kv_cache import PAGE, Chunk, KVCache, Pages
from phalanx.infer.sample import likeliest
from phalanx.nn.attention import Context, within
from phalanx.nn.packed import PackedBatch

GIB = 1 << 30


class Decoder:
    """A model with its cache. `gather` puts together the scores of a vocabulary that a layout splits."""

    takes_drafts = True

    def __init__(self, model: Any, vocab: int, cache: KVCache, gather: Callable[[Tensor], Tensor] | None = None
                 ) -> None:  # fmt: skip
        """The model's attention is that of `enable_cache`, or of kernels, with `cache` as its memory."""
        self.model, self.vocab, self.cache, self.gather = model, vocab, cache, gather
        self.room = len(cache.free) * PAGE
        self.device = cache.keys[0].device

    def reserve(self, tokens: int) -> Pages | None:
        """Return room for a sequence; None while there is none."""
        return self.cache.reserve(tokens)

    def release(self, pages: Pages) -> None:
        """Give back the room of a sequence that has ended."""
        self.cache.release(pages)

    @torch.inference_mode()
    def __call__(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Compute the scores of each sequence's next tokens and append its new tokens to the cache.

        For each sequence float32 [wanted, vocab] on the CPU, or `likeliest` of that where it is greedy.
        """
        tokens = torch.tensor([token for chunk in chunks for token in chunk.tokens], device=self.device)
        index = torch.tensor([at for chunk in chunks for at in range(chunk.start, chunk.stop)], device=self.device)
        ends = [*accumulate((len(chunk.tokens) for chunk in chunks), initial=0)]
        cu_seqlens = torch.tensor(ends, dtype=torch.int32, device=self.device)
        packed = PackedBatch.of(tokens, index, cu_seqlens, max(len(chunk.tokens) for chunk in chunks))

        context = packed.context(causal=True, cache=self.view(chunks))
        hidden = self.model.transformer(packed.batch, context=context)[0]
        wanted = [at for end, chunk in zip(ends[1:], chunks, strict=True) for at in range(end - chunk.wanted, end)]
        if len(wanted) < len(hidden):
            hidden = hidden[wanted]

        logits = self.model.head(self.model.head.enter(hidden), self.model.words)
        if self.gather is not None:
            logits = self.gather(logits)
        scores = torch.split(logits[:, : self.vocab].float().cpu(), [chunk.wanted for chunk in chunks])
        return [likeliest(rows) if chunk.greedy else rows for rows, chunk in zip(scores, chunks, strict=True)]

    def view(self, chunks: Sequence[Chunk]) -> Any:
        """Return `Context.cache` of a call: where the new keys go, and which ones each new token attends to."""
        return RaggedView(chunks)


Layer = tuple[Tensor, Tensor]  # the cache's keys and values of a layer, [kv_heads, slots, width] each


def enable_cache(model: Any, memory: int = GIB, dtype: torch.dtype = torch.float32) -> KVCache:
    """Let the attention of a model's blocks look into a cache, of `memory` bytes, and return that."""
    attentions = [block.attention for block in model.transformer.blocks.values()]
    weight, width = attentions[0].qkv.weight, attentions[0].width
    heads, longest = weight.shape[0] // ((attentions[0].group + 2) * width), model.transformer.positions
    cache = KVCache.within(memory, longest, len(attentions), heads, width, weight.new_empty(0, dtype=dtype))

    for attention, layer in zip(attentions, zip(cache.keys, cache.values, strict=True), strict=True):
        attention.attend_by(partial(attend_cached, layer))
    return cache


def attend_cached(layer: Layer, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
    """Put new keys and values into a layer's cache, and attend to what each new token may see there.

    q [1, heads, new tokens, width], k and v [1, kv_heads, new tokens, width]; `context.cache`, a view of the cache,
    knows where they go, and attends. Returns [1, heads, new tokens, width].
    """
    y: Tensor = context.cache.attend(layer, q, k, v, context)
    return y


class RaggedView(NamedTuple):
    """Any number of new tokens in each of several sequences, which attend one after another."""

    chunks: Sequence[Chunk]

    def attend(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Attend as `attend_cached` describes, a sequence at a time."""
        keys, values = layer
        parts, first = [], 0
        for chunk in self.chunks:
            last = first + len(chunk.tokens)
            slots = chunk.pages.slots[chunk.start : chunk.stop]
            keys[:, slots], values[:, slots] = (x[0, :, first:last].to(keys.dtype) for x in (k, v))

            own_keys, own_values = (chunk.pages.rows(x, chunk.stop)[None].to(q.dtype) for x in layer)
            parts.append(_attend(q[:, :, first:last], own_keys, own_values, chunk, context.window))
            first = last
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, chunk: Chunk, window: int) -> Tensor:
    """Attend from the new tokens of a sequence, q [1, heads, new, width], to all of its tokens, or to those in a window
    (0: all).
    """
    grouped = q.shape[1] != k.shape[1]
    if 0 < window < chunk.stop:
        first = max(0, chunk.start + 1 - window)  # the first key that any of the new tokens sees
        places = torch.arange(first, chunk.stop, device=q.device)[None]
        mask = within(places[:, chunk.start - first :], places, window, causal=True)[:, None]
        return F.scaled_dot_product_attention(q, k[:, :, first:], v[:, :, first:], attn_mask=mask, enable_gqa=grouped)
    if len(chunk.tokens) == 1:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
    if chunk.start == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    mask = torch.ones(len(chunk.tokens), chunk.stop, dtype=torch.bool, device=q.device).tril(chunk.start)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)

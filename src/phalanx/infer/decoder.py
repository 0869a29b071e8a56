"""A GPT that goes on from its cache: the new tokens of all sequences lie one after another, so that products see all of
them at once and nothing is filled up; attention looks into each sequence's own past.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from phalanx.infer.cache import PAGE, Cache, New, Place
from phalanx.infer.sample import likeliest
from phalanx.nn.attention import Context
from phalanx.nn.packed import PackedBatch

GIB = 1 << 30


class Decoder:
    """A model that goes on from its cache. `gathered` puts together the vocabulary where a layout splits it."""

    takes_drafts = True

    def __init__(self, model: Any, vocab: int, cache: Cache, gathered: Callable[[Tensor], Tensor] | None = None
                 ) -> None:  # fmt: skip
        """The model's attention is that of `attend_in_cache`, or of kernels, with `cache` as its memory."""
        self.model, self.vocab, self.cache, self.gathered = model, vocab, cache, gathered
        self.room = len(cache.free) * PAGE
        self.device = cache.keys[0].device

    def reserve(self, tokens: int) -> Place | None:
        """Return room for a sequence; None where there is none now."""
        return self.cache.reserve(tokens)

    def release(self, place: Place) -> None:
        """Give back the room of a sequence that has ended."""
        self.cache.release(place)

    @torch.inference_mode()
    def __call__(self, news: Sequence[New]) -> list[Tensor]:
        """Compute the scores of each sequence's next tokens and append its new tokens to the cache.

        For each sequence float32 [wanted, vocab] on the CPU, or `likeliest` of that where it is greedy.
        """
        tokens = torch.tensor([token for new in news for token in new.tokens], device=self.device)
        index = torch.tensor([at for new in news for at in range(new.start, new.stop)], device=self.device)
        ends = [*accumulate((len(new.tokens) for new in news), initial=0)]
        longest = max(len(new.tokens) for new in news)
        rows = PackedBatch.of(tokens, index, torch.tensor(ends, dtype=torch.int32, device=self.device), longest)
        hidden = self.model.transformer(rows.batch, context=rows.context(causal=True, cache=self.cached(news)))[0]

        wanted = [at for end, new in zip(ends[1:], news, strict=True) for at in range(end - new.wanted, end)]
        if len(wanted) < len(hidden):
            hidden = hidden[wanted]
        logits = self.model.head(self.model.head.enter(hidden), self.model.words)
        if self.gathered is not None:
            logits = self.gathered(logits)
        scores = torch.split(logits[:, : self.vocab].float().cpu(), [new.wanted for new in news])
        return [likeliest(rows) if new.greedy else rows for rows, new in zip(scores, news, strict=True)]

    def cached(self, news: Sequence[New]) -> Any:
        """Return `Context.cache` of a call: where the new tokens go and what each of them attends to."""
        return Ragged(news)


Layer = tuple[Tensor, Tensor]  # its keys and its values, [kv_heads, slots, width] each


def attend_in_cache(layer: Layer, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
    """Put the new tokens' keys and values into a layer's cache and attend to what each token may see there, as
    `context.cache` says: q [1, heads, new tokens, width], k and v [1, kv_heads, new tokens, width].
    """
    y: Tensor = context.cache.attend(layer, q, k, v, context)
    return y


def remember(model: Any, memory: int = GIB, number: torch.dtype = torch.float32) -> Cache:
    """Let the attention of a model's blocks be by `attend_in_cache`, and return its cache, of `memory` bytes."""
    attentions = [block.attention for block in model.transformer.blocks.values()]
    weight, width = attentions[0].qkv.weight, attentions[0].width
    heads, longest = weight.shape[0] // ((attentions[0].group + 2) * width), model.transformer.positions
    cache = Cache.within(memory, longest, len(attentions), heads, width, weight.new_empty(0, dtype=number))

    for attention, layer in zip(attentions, zip(cache.keys, cache.values, strict=True), strict=True):
        del attention.attend  # may be dropout's module, which no function can take the place of
        attention.attend = partial(attend_in_cache, layer)
    return cache


class Ragged(NamedTuple):
    """Any number of new tokens in each of several sequences, which attend one after another."""

    news: Sequence[New]

    def attend(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Attend as `attend_in_cache` says."""
        keys, values = layer
        parts, first = [], 0
        for new in self.news:
            last = first + len(new.tokens)
            slots = new.place.slots[new.start : new.stop]
            keys[:, slots], values[:, slots] = (x[0, :, first:last].to(keys.dtype) for x in (k, v))
            seen, said = (new.place.rows(x, new.stop)[None] for x in (keys, values))
            parts.append(_attended(q[:, :, first:last], seen.to(q.dtype), said.to(q.dtype), new))
            first = last
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _attended(q: Tensor, k: Tensor, v: Tensor, new: New) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    if len(new.tokens) == 1:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
    if new.start == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    mask = torch.ones(len(new.tokens), new.stop, dtype=torch.bool, device=q.device).tril(new.start)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)

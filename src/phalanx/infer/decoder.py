"""A GPT that goes on from its cache: the new tokens of all sequences lie one after another, so that products see all of
them at once and nothing is filled up; attention looks into each sequence's own past.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from phalanx.infer.cache import PAGE, Cache, New, Place
from phalanx.infer.rows import attend_by
from phalanx.nn.attention import Context
from phalanx.nn.batch import Batch

GIB = 1 << 30


class Remembers(Protocol):
    """What keeps keys and values: `Past`, or kernels. It is told of the new tokens before they are computed."""

    cache: Cache
    news: Sequence[New]


class Decoder:
    """Scores of the next token. `gathered` puts together the vocabulary where a layout splits it."""

    def __init__(self, model: Any, vocab: int, past: Remembers, gathered: Callable[[Tensor], Tensor] | None = None
                 ) -> None:  # fmt: skip
        self.model, self.vocab, self.past, self.gathered = model, vocab, past, gathered
        self.cache, self.room = past.cache, len(past.cache.free) * PAGE

    def reserve(self, tokens: int) -> Place | None:
        """Room for a sequence."""
        return self.cache.reserve(tokens)

    def release(self, place: Place) -> None:
        """It has ended."""
        self.cache.release(place)

    @torch.inference_mode()
    def __call__(self, news: Sequence[New]) -> list[Tensor]:
        """Of each sequence, float32 [wanted, vocab] on the CPU; its new tokens are in the cache from now on."""
        self.past.news = news
        device = self.cache.keys[0].device
        tokens = torch.tensor([[token for new in news for token in new.tokens]], device=device)
        index = torch.tensor([[at for new in news for at in range(new.start, new.stop)]], device=device)
        key = torch.zeros(1, dtype=torch.int32, device=device)
        hidden = self.model.transformer(Batch(tokens, index, key))[0]
        ends = accumulate(len(new.tokens) for new in news)
        rows = [at for end, new in zip(ends, news, strict=True) for at in range(end - new.wanted, end)]
        if len(rows) < len(hidden):
            hidden = hidden[rows]
        logits = self.model.head(self.model.head.enter(hidden), self.model.transformer.words)
        if self.gathered is not None:
            logits = self.gathered(logits)
        return list(torch.split(logits[:, : self.vocab].float().cpu(), [new.wanted for new in news]))


class Past:
    """Attention of a model's blocks by torch: keys and values are kept, then each sequence attends to its own."""

    def __init__(self, model: Any, memory: int = GIB) -> None:
        attentions = [block.attention for block in model.transformer.blocks.values()]
        weight, width = attentions[0].qkv.weight, attentions[0].width
        heads = weight.shape[0] // (3 * width)
        self.cache = Cache.within(memory, len(attentions), heads, width, weight)
        self.news: Sequence[New] = ()
        for layer, attention in enumerate(attentions):
            attend_by(attention, partial(self._attend, self.cache.keys[layer], self.cache.values[layer]))

    def _attend(self, keys: Tensor, values: Tensor, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Keys and values [heads, slots, width]; the rest [1, heads, new tokens, width]."""
        parts, first = [], 0
        for new in self.news:
            last = first + len(new.tokens)
            slots = new.place.slots[new.start : new.stop]
            keys[:, slots], values[:, slots] = k[0, :, first:last], v[0, :, first:last]
            seen, said = (new.place.rows(x, new.stop)[None] for x in (keys, values))
            parts.append(_attended(q[:, :, first:last], seen, said, new))
            first = last
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _attended(q: Tensor, k: Tensor, v: Tensor, new: New) -> Tensor:
    if len(new.tokens) == 1:
        return F.scaled_dot_product_attention(q, k, v)
    if new.start == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    mask = torch.ones(len(new.tokens), new.stop, dtype=torch.bool, device=q.device).tril(new.start)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

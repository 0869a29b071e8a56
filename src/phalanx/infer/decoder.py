"""A GPT that goes on from its cache: the new tokens of all sequences lie one after another, so that products see all of
them at once and nothing is filled up; attention looks into each sequence's own past.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from phalanx.infer.cache import PAGE, Cache, New, Place
from phalanx.infer.rows import attend_by
from phalanx.infer.sample import likeliest
from phalanx.nn.attention import Context
from phalanx.nn.batch import Batch

GIB = 1 << 30


class Remembers(Protocol):
    """What keeps keys and values: `Past`, or kernels. It is told of the new tokens before they are computed."""

    cache: Cache
    news: Sequence[New]


class Decoder:
    """Scores of the next token. `gathered` puts together the vocabulary where a layout splits it."""

    takes_drafts = True

    def __init__(self, model: Any, vocab: int, past: Remembers, gathered: Callable[[Tensor], Tensor] | None = None
                 ) -> None:  # fmt: skip
        self.model, self.vocab, self.past, self.gathered = model, vocab, past, gathered
        self.cache, self.room = past.cache, len(past.cache.free) * PAGE
        self.device = past.cache.keys[0].device

    def reserve(self, tokens: int) -> Place | None:
        """Room for a sequence."""
        return self.cache.reserve(tokens)

    def release(self, place: Place) -> None:
        """It has ended."""
        self.cache.release(place)

    @torch.inference_mode()
    def __call__(self, news: Sequence[New]) -> list[Tensor]:
        """Compute the scores of each sequence's next tokens and append its new tokens to the cache.

        For each sequence float32 [wanted, vocab] on the CPU, or `likeliest` of that where it is greedy.
        """
        self.past.news = news
        tokens = torch.tensor([[token for new in news for token in new.tokens]], device=self.device)
        index = torch.tensor([[at for new in news for at in range(new.start, new.stop)]], device=self.device)
        key = torch.zeros(1, dtype=torch.int32, device=self.device)
        hidden = self.model.transformer(Batch(tokens, index, key))[0]
        ends = accumulate(len(new.tokens) for new in news)
        rows = [at for end, new in zip(ends, news, strict=True) for at in range(end - new.wanted, end)]
        if len(rows) < len(hidden):
            hidden = hidden[rows]
        logits = self.model.head(self.model.head.enter(hidden), self.model.words)
        if self.gathered is not None:
            logits = self.gathered(logits)
        scores = torch.split(logits[:, : self.vocab].float().cpu(), [new.wanted for new in news])
        return [likeliest(rows) if new.greedy else rows for rows, new in zip(scores, news, strict=True)]


class Together(Protocol):
    """Several sequences at once: their keys and values are kept, and each attends to its own."""

    def attend(self, keys: Tensor, values: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keys and values [kv_heads, slots, width]; q [1, heads, new tokens, width], k and v [1, kv_heads, …]."""


class Step(NamedTuple):
    """The same number of new tokens in each of several sequences, fewer being filled up. Attention is written out: a
    compiler makes of it kernels that read keys and values where they lie, once.
    """

    at: Tensor  # int64 [sequences × new]: where their keys go
    slots: Tensor  # int64 [sequences, longest]: where each one's past and new tokens lie
    mask: Tensor  # bool [sequences, new, longest]

    def attend(self, keys: Tensor, values: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keys and values [kv_heads, slots, width]; q [1, heads, sequences × new, width], k and v [1, kv_heads, …]."""
        keys[:, self.at], values[:, self.at] = k[0].to(keys.dtype), v[0].to(keys.dtype)
        apart = q.view(q.shape[1], *self.mask.shape[:2], 1, q.shape[3]).float() / math.sqrt(q.shape[3])
        seen, said = keys[:, self.slots][:, :, None], values[:, self.slots][:, :, None]
        if (group := q.shape[1] // len(keys)) > 1:
            seen, said = seen.repeat_interleave(group, 0), said.repeat_interleave(group, 0)
        shares = (apart * seen).sum(-1).masked_fill(~self.mask, -math.inf).softmax(-1)  # [heads, rows, new, longest]
        y = (shares[..., None] * said.masked_fill(~self.mask[..., None], 0)).sum(-2)  # what fills up may be anything
        return y.to(q.dtype).view_as(q)


class Past:
    """Attention of a model's blocks by torch: keys and values are kept, then each sequence attends to its own."""

    def __init__(self, model: Any, memory: int = GIB, number: torch.dtype = torch.float32) -> None:
        attentions = [block.attention for block in model.transformer.blocks.values()]
        weight, width = attentions[0].qkv.weight, attentions[0].width
        heads, longest = weight.shape[0] // ((attentions[0].group + 2) * width), model.transformer.positions
        like = weight.new_empty(0, dtype=number)
        self.cache = Cache.within(memory, longest, len(attentions), heads, width, like)
        self.news: Sequence[New] = ()
        self.step: Together | None = None  # where many are taken alike
        for layer, attention in enumerate(attentions):
            attend_by(attention, partial(self._attend, self.cache.keys[layer], self.cache.values[layer]))

    def _attend(self, keys: Tensor, values: Tensor, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Keys and values [kv_heads, slots, width]; q [1, heads, new tokens, width], k and v [1, kv_heads, …]."""
        if self.step is not None:
            return self.step.attend(keys, values, q, k, v)
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

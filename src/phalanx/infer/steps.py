"""A GPT on a GPU: a step in which each sequence goes on by a few tokens is one CUDA graph for each number of sequences,
of new tokens and of tokens that the longest has seen, rounded up. Prompts are not recorded.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phalanx.infer.cache import PAGE, Cache, New
from phalanx.infer.decoder import Decoder, Layer
from phalanx.infer.replay import Replay, Replays, compile_blocks, power, rounded
from phalanx.infer.sample import likeliest
from phalanx.nn.attention import Context
from phalanx.nn.batch import Batch
from phalanx.nn.packed import attend_varlen, has_varlen

FEW = 16  # new tokens of a sequence that a step takes at most
STEP = 128  # tokens to which the past is rounded up


class Steps(Decoder):
    """Scores of the next token."""

    def __init__(self, model: Any, vocab: int, cache: Cache) -> None:
        super().__init__(model, vocab, cache)
        nowhere = cache.reserve(1)
        assert nowhere is not None
        self.nowhere = nowhere.pages[0] * PAGE  # the slot of what only fills up
        self.room -= PAGE
        self.shapes = Replays()
        self.host = torch.empty(0)
        kept = cache.keys[0]
        self.half = kept.dtype != torch.float32 and has_varlen(self.device, kept.shape[-1])
        for kept in (*cache.keys, *cache.values):
            torch._dynamo.mark_static(kept)
        compile_blocks(model, self.device)

    def cached(self, news: Sequence[New]) -> Any:
        """Return `Context.cache` of a call that is not recorded."""
        if self.half and not any(new.start for new in news):
            return Prompts(torch.cat([new.place.slots[: new.stop] for new in news]))
        return super().cached(news)

    @torch.inference_mode()
    def __call__(self, news: Sequence[New]) -> list[Tensor]:
        """As `Decoder`; good until the next call."""
        widest = max(len(new.tokens) for new in news)
        if widest > FEW:
            with torch.compiler.set_stance("force_eager"):
                return super().__call__(news)
        width = power(widest)
        shape = max(2, power(len(news))), width, rounded(max(new.start + width for new in news), STEP)
        scores, best = self.shapes.of(shape, lambda: _Shape(self, *shape))(news)
        wanted = [slice(i * width + len(n.tokens) - n.wanted, i * width + len(n.tokens)) for i, n in enumerate(news)]
        drawn = [scores[rows] for rows, new in zip(wanted, news, strict=True) if not new.greedy]
        given = iter(self._on_host(drawn) if drawn else ())
        best = best.cpu()
        return [best[rows] if new.greedy else next(given) for rows, new in zip(wanted, news, strict=True)]

    def _on_host(self, parts: Sequence[Tensor]) -> Sequence[Tensor]:
        """In memory that the GPU writes to by itself."""
        if self.device.type == "cpu":
            return parts
        scores = torch.cat([*parts])
        if len(self.host) < len(scores):
            self.host = torch.empty(power(len(scores)), self.vocab, pin_memory=True)
        found = self.host[: len(scores)]
        found.copy_(scores, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return torch.split(found, [len(part) for part in parts])

    def scores(self, tokens: Tensor, index: Tensor, at: Tensor, starts: Tensor, slots: Tensor
               ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Compute the next-token scores, float32 [rows × new, vocab], and `likeliest` of them.

        `tokens` [rows, new] stand at positions `index`, after `starts` [rows] cached ones. Their keys go to the
        cache's slots `at`; `slots` [rows, longest] lists those of all tokens of a row. All are int64.
        """
        device = tokens.device
        seen = starts[:, None] + torch.arange(tokens.shape[1], device=device)
        mask = torch.arange(slots.shape[1], device=device) <= seen[:, :, None]
        key = torch.zeros(1, dtype=torch.int32, device=device)
        batch = Batch(tokens.view(1, -1), index.view(1, -1), key)
        context = Context(batch.index, key, None, True, cache=Step(at.flatten(), slots, mask))
        hidden = self.model.transformer(batch, context=context)[0]
        scores = self.model.head(hidden, self.model.words)[:, : self.vocab].float()
        return scores, likeliest(scores)


class Step(NamedTuple):
    """The same number of new tokens in each of several sequences, fewer being filled up. Attention is written out: a
    compiler makes of it kernels that read keys and values where they lie, once.
    """

    at: Tensor  # int64 [sequences × new]: where their keys go
    slots: Tensor  # int64 [sequences, longest]: where each one's past and new tokens lie
    mask: Tensor  # bool [sequences, new, longest]

    def attend(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Attend as `attend_in_cache` says."""
        keys, values = layer
        keys[:, self.at], values[:, self.at] = k[0].to(keys.dtype), v[0].to(keys.dtype)
        apart = q.view(q.shape[1], *self.mask.shape[:2], 1, q.shape[3]).float() / math.sqrt(q.shape[3])
        seen, said = keys[:, self.slots][:, :, None], values[:, self.slots][:, :, None]
        if (group := q.shape[1] // len(keys)) > 1:
            seen, said = seen.repeat_interleave(group, 0), said.repeat_interleave(group, 0)
        shares = (apart * seen).sum(-1).masked_fill(~self.mask, -math.inf).softmax(-1)  # [heads, rows, new, longest]
        y = (shares[..., None] * said.masked_fill(~self.mask[..., None], 0)).sum(-2)  # what fills up may be anything
        return y.to(q.dtype).view_as(q)


class Prompts(NamedTuple):
    """Sequences that begin: none sees more than its own new tokens."""

    at: Tensor  # int64 [tokens]: where their keys go

    def attend(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Attend as `attend_in_cache` says."""
        keys, values = layer
        keys[:, self.at], values[:, self.at] = k[0].to(keys.dtype), v[0].to(keys.dtype)
        return attend_varlen(q, k, v, context)


class _Shape:
    """Steps of one shape."""

    def __init__(self, steps: Steps, rows: int, width: int, longest: int) -> None:
        self.shapes, self.nowhere = [*[(rows, width)] * 3, (rows,), (rows, longest)], steps.nowhere

        def compute(given: Tensor) -> tuple[Tensor, Tensor]:
            return steps.scores(*(part.clone() for part in self._parts(given.long())))

        self.replay = Replay(compute, sum(map(math.prod, self.shapes)), steps.device)
        self.given = self._parts(self.replay.numbers)

    def __call__(self, news: Sequence[New]) -> tuple[Tensor, Tensor]:
        """As `Steps.scores`, where it was computed."""
        tokens, index, at, starts, slots = self.given
        tokens[:], index[:], at[:], starts[:], slots[:] = 0, 0, self.nowhere, 0, self.nowhere
        for i, new in enumerate(news):
            count = len(new.tokens)
            here = new.place.numbers[: new.stop]
            tokens[i, :count], index[i, :count], starts[i] = new.tokens, range(new.start, new.stop), new.start
            at[i, :count], slots[i, : new.stop] = here[new.start :], here
        scores, best = self.replay()
        return scores, best

    def _parts(self, numbers: Any) -> list[Any]:
        """Views: tokens, positions, slots for their keys, how many others stand before them, where all of these lie."""
        ends = [*accumulate(map(math.prod, self.shapes), initial=0)]
        return [numbers[a:b].reshape(shape) for (a, b), shape in zip(pairwise(ends), self.shapes, strict=True)]

"""A decoder on a GPU: a step in which each sequence goes on by a few tokens is one CUDA graph for each number of
sequences, of new tokens and of tokens that the longest has seen, rounded up. Prompts are not recorded.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phalanx.infer.cuda_graphs import GraphCache, GraphedFunction, compile_blocks, power_of_two, round_up
from phalanx.infer.decoder import Decoder, Layer
from phalanx.infer.kv_cache import PAGE, Chunk, KVCache
from phalanx.infer.sample import likeliest
from phalanx.nn.attention import Context, within
from phalanx.nn.batch import Batch
from phalanx.nn.packed import attend_varlen, has_varlen

FEW = 16  # new tokens of a sequence that a step takes at most
STEP = 128  # tokens to which the past is rounded up


class GraphedDecoder(Decoder):
    """A decoder whose steps are recorded."""

    def __init__(self, model: Any, vocab: int, cache: KVCache) -> None:
        super().__init__(model, vocab, cache)
        nowhere = cache.reserve(1)
        assert nowhere is not None
        self.nowhere = nowhere.numbers[0] * PAGE  # the slot of what only fills up
        self.room -= PAGE
        self.graphs = GraphCache()
        self.on_host = torch.empty(0)

        keys = cache.keys[0]
        self.varlen = keys.dtype != torch.float32 and has_varlen(self.device, keys.shape[-1])
        for kept in (*cache.keys, *cache.values):
            torch._dynamo.mark_static(kept)
        compile_blocks(model, self.device)

    @torch.inference_mode()
    def __call__(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Compute what `Decoder` computes; the scores are good until the next call."""
        widest = max(len(chunk.tokens) for chunk in chunks)
        if widest > FEW:
            with torch.compiler.set_stance("force_eager"):
                return super().__call__(chunks)

        width = power_of_two(widest)
        longest = round_up(max(chunk.start + width for chunk in chunks), STEP)
        shape = max(2, power_of_two(len(chunks))), width, longest
        scores, best = self.graphs.of(shape, lambda: _StepGraph(self, *shape))(chunks)

        ends = (i * width + len(chunk.tokens) for i, chunk in enumerate(chunks))
        wanted = [slice(end - chunk.wanted, end) for end, chunk in zip(ends, chunks, strict=True)]
        drawn = [scores[rows] for rows, chunk in zip(wanted, chunks, strict=True) if not chunk.greedy]
        copied = iter(self._to_host(drawn) if drawn else ())
        best = best.cpu()
        return [best[rows] if chunk.greedy else next(copied) for rows, chunk in zip(wanted, chunks, strict=True)]

    def view(self, chunks: Sequence[Chunk]) -> Any:
        """Return `Context.cache` of a call that is not recorded."""
        if self.varlen and not any(chunk.start for chunk in chunks):
            return PrefillView(torch.cat([chunk.pages.slots[: chunk.stop] for chunk in chunks]))
        return super().view(chunks)

    def _to_host(self, parts: Sequence[Tensor]) -> Sequence[Tensor]:
        """Copy scores to memory that the GPU writes to by itself."""
        if self.device.type == "cpu":
            return parts
        scores = torch.cat([*parts])
        if len(self.on_host) < len(scores):
            self.on_host = torch.empty(power_of_two(len(scores)), self.vocab, pin_memory=True)
        copied = self.on_host[: len(scores)]
        copied.copy_(scores, non_blocking=True)
        # the copy is asynchronous: without this the CPU would read what was there before
        torch.cuda.current_stream().synchronize()
        return torch.split(copied, [len(part) for part in parts])

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
        context = Context(batch.index, key, None, True, cache=PaddedView(at.flatten(), slots, mask, seen))
        hidden = self.model.transformer(batch, context=context)[0]
        scores = self.model.head(hidden, self.model.words)[:, : self.vocab].float()
        return scores, likeliest(scores)


class PaddedView(NamedTuple):
    """A view of as many new tokens in each of several sequences, fewer being filled up. Attention is written out: a
    compiler makes of it kernels that read keys and values where they lie, once.
    """

    at: Tensor  # int64 [sequences × new]: where their keys go
    slots: Tensor  # int64 [sequences, longest]: where each one's past and new tokens lie
    mask: Tensor  # bool [sequences, new, longest]
    seen: Tensor  # int64 [sequences, new]: positions of the new tokens

    def attend(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Attend as `attend_cached` describes, all sequences at once."""
        keys, values = layer
        keys[:, self.at], values[:, self.at] = k[0].to(keys.dtype), v[0].to(keys.dtype)

        mask = self.mask
        if context.window:
            places = torch.arange(mask.shape[2], device=mask.device)[None]
            mask = mask & within(self.seen, places, context.window, causal=True)

        queries = q.view(q.shape[1], *mask.shape[:2], 1, q.shape[3]).float() / math.sqrt(q.shape[3])
        own_keys, own_values = keys[:, self.slots][:, :, None], values[:, self.slots][:, :, None]
        if (group := q.shape[1] // len(keys)) > 1:
            own_keys, own_values = own_keys.repeat_interleave(group, 0), own_values.repeat_interleave(group, 0)
        shares = (queries * own_keys).sum(-1).masked_fill(~mask, -math.inf).softmax(-1)  # [heads, rows, new, all]
        y = (shares[..., None] * own_values.masked_fill(~mask[..., None], 0)).sum(-2)  # padding may be anything
        return y.to(q.dtype).view_as(q)


class PrefillView(NamedTuple):
    """Sequences that begin: none sees more than its own new tokens."""

    at: Tensor  # int64 [tokens]: where their keys go

    def attend(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Attend as `attend_cached` describes, by `attend_varlen`."""
        keys, values = layer
        keys[:, self.at], values[:, self.at] = k[0].to(keys.dtype), v[0].to(keys.dtype)
        return attend_varlen(q, k, v, context)


class _StepGraph:
    """The graph of steps of one shape."""

    def __init__(self, decoder: GraphedDecoder, rows: int, width: int, longest: int) -> None:
        self.shapes, self.nowhere = [*[(rows, width)] * 3, (rows,), (rows, longest)], decoder.nowhere

        def compute(given: Tensor) -> tuple[Tensor, Tensor]:
            return decoder.scores(*(part.clone() for part in self._parts(given.long())))

        self.graph = GraphedFunction(compute, sum(map(math.prod, self.shapes)), decoder.device)
        self.given = self._parts(self.graph.numbers)

    def __call__(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
        """Return what `GraphedDecoder.scores` does, on the device."""
        tokens, index, at, starts, slots = self.given
        tokens[:], index[:], at[:], starts[:], slots[:] = 0, 0, self.nowhere, 0, self.nowhere
        for i, chunk in enumerate(chunks):
            count, own = len(chunk.tokens), chunk.pages.slots_on_host[: chunk.stop]
            tokens[i, :count], index[i, :count] = chunk.tokens, range(chunk.start, chunk.stop)
            at[i, :count], starts[i], slots[i, : chunk.stop] = own[chunk.start :], chunk.start, own
        scores, best = self.graph()
        return scores, best

    def _parts(self, numbers: Any) -> list[Any]:
        """Return views: tokens, positions, slots for their keys, how many tokens stand before them, slots of all."""
        ends = [*accumulate(map(math.prod, self.shapes), initial=0)]
        return [numbers[a:b].reshape(shape) for (a, b), shape in zip(pairwise(ends), self.shapes, strict=True)]

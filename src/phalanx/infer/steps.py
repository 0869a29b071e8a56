"""A GPT on a GPU: a step in which each sequence goes on by a few tokens is one CUDA graph for each number of sequences,
of new tokens and of tokens that the longest has seen, rounded up. Prompts go the plain way.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phalanx.infer.cache import PAGE, New
from phalanx.infer.decoder import Decoder, Past, Step
from phalanx.infer.replay import Replay, compile_blocks, power, rounded
from phalanx.nn.batch import Batch

FEW = 16  # new tokens of a sequence that a step takes at most
STEP = 128  # tokens to which the past is rounded up


class Steps(Decoder):
    """Scores of the next token."""

    past: Past

    def __init__(self, model: Any, vocab: int, past: Past) -> None:
        super().__init__(model, vocab, past)
        nowhere = past.cache.reserve(1)
        assert nowhere is not None
        self.nowhere = nowhere.pages[0] * PAGE  # the slot of what only fills up
        self.room -= PAGE
        self.shapes: dict[tuple[int, int, int], _Shape] = {}
        for kept in (*past.cache.keys, *past.cache.values):
            torch._dynamo.mark_static(kept)
        compile_blocks(model, self.device)

    @torch.inference_mode()
    def __call__(self, news: Sequence[New]) -> list[Tensor]:
        """As `Decoder`; good until the next call."""
        widest = max(len(new.tokens) for new in news)
        if widest > FEW:
            with torch.compiler.set_stance("force_eager"):
                return super().__call__(news)
        width = power(widest)
        shape = max(2, power(len(news))), width, rounded(max(new.start + width for new in news), STEP)
        if shape not in self.shapes:
            self.shapes[shape] = _Shape(self, *shape)
        scores = self.shapes[shape](news)
        return [scores[i, len(new.tokens) - new.wanted : len(new.tokens)] for i, new in enumerate(news)]

    def scores(self, tokens: Tensor, index: Tensor, at: Tensor, starts: Tensor, slots: Tensor) -> Tensor:
        """Of tokens [rows, new] at positions `index`, whose keys go to the slots `at`, after `starts` [rows] others,
        where all of a row lie in `slots` [rows, longest]; int64 -> float32 [rows, new, vocab]
        """
        device = tokens.device
        seen = starts[:, None] + torch.arange(tokens.shape[1], device=device)
        mask = torch.arange(slots.shape[1], device=device) <= seen[:, :, None]
        self.past.step = Step(at.flatten(), slots, mask)
        try:
            key = torch.zeros(1, dtype=torch.int32, device=device)
            hidden = self.model.transformer(Batch(tokens.view(1, -1), index.view(1, -1), key))[0]
        finally:
            self.past.step = None
        logits = self.model.head(hidden, self.model.transformer.words)[:, : self.vocab]
        return logits.float().view(*tokens.shape, -1)  # type: ignore[no-any-return]


class _Shape:
    """Steps of one shape."""

    def __init__(self, steps: Steps, rows: int, width: int, longest: int) -> None:
        self.shapes, self.nowhere = [*[(rows, width)] * 3, (rows,), (rows, longest)], steps.nowhere

        def compute(given: Tensor) -> Tensor:
            return steps.scores(*(part.clone() for part in self._parts(given.long())))

        self.replay = Replay(compute, sum(map(math.prod, self.shapes)), steps.device)
        self.given = self._parts(self.replay.numbers)
        gpu = steps.device.type == "cuda"
        self.found = torch.empty(rows, width, steps.vocab, pin_memory=gpu)
        self.wait = torch.cuda.current_stream().synchronize if gpu else lambda: None

    def __call__(self, news: Sequence[New]) -> Tensor:
        """On the CPU."""
        tokens, index, at, starts, slots = self.given
        tokens[:], index[:], at[:], starts[:], slots[:] = 0, 0, self.nowhere, 0, self.nowhere
        for i, new in enumerate(news):
            count = len(new.tokens)
            here = (np.array(new.place.pages)[:, None] * PAGE + np.arange(PAGE)).ravel()[: new.stop]
            tokens[i, :count], index[i, :count], starts[i] = new.tokens, range(new.start, new.stop), new.start
            at[i, :count], slots[i, : new.stop] = here[new.start :], here
        found = self.found[: len(news)]
        found.copy_(self.replay()[: len(news)], non_blocking=True)
        self.wait()
        return found

    def _parts(self, numbers: Any) -> list[Any]:
        """Views: tokens, positions, slots for their keys, how many others stand before them, where all of these lie."""
        ends = [*accumulate(map(math.prod, self.shapes), initial=0)]
        return [numbers[a:b].reshape(shape) for (a, b), shape in zip(pairwise(ends), self.shapes, strict=True)]

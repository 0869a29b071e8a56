"""A BERT on a GPU: a line of rows is one CUDA graph for each number of tokens and of rows, rounded up."""

from itertools import accumulate

import torch
from torch import Tensor

from phalanx.data.source import Array
from phalanx.infer.replay import Replay, Replays, compile_blocks, power, rounded
from phalanx.infer.rows import Line, Said, attend_by
from phalanx.nn.attention import Attention, Context
from phalanx.nn.line import within

STEP = 32  # tokens to which a line is rounded up at least


class Within:
    """Attention `within` the sequences of a line."""

    ends: Tensor
    longest: int

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """All [1, heads, tokens, width]."""
        return within(q, k, v, self.ends, self.longest)


class Recorded:
    """A program of lines. Its graphs are made as they are wanted."""

    def __init__(self, said: Said, context: int, device: torch.device) -> None:
        self.said, self.context, self.device = said, context, device
        self.within = Within()
        for module in said.model.modules():
            if isinstance(module, Attention):
                attend_by(module, self.within)
        compile_blocks(said.model, device)
        self.replays = Replays()

    def __call__(self, line: Line) -> Array:
        """float32"""
        used, count = len(line.tokens), len(line.lengths)
        tokens, rows = rounded(used, STEP), power(count)

        def made() -> Replay:
            return Replay(lambda given: self._compute(given, tokens), 3 * tokens + rows + 1, self.device)

        replay = self.replays.of((tokens, rows), made)
        lines = replay.numbers[: 3 * tokens].reshape(3, tokens)
        lines[:, :used], lines[:, used:] = line[:3], 0
        ends = replay.numbers[3 * tokens :]
        ends[: count + 1], ends[count + 1 :] = [0, *accumulate(line.lengths)], used
        answers: Array = replay()[: used if self.said.per_token else count].cpu().numpy()
        return answers

    def _compute(self, given: Tensor, tokens: int) -> Tensor:
        line, places, segment = given[: 3 * tokens].view(3, tokens)
        ends = given[3 * tokens :]
        self.within.ends, self.within.longest = ends.clone(), min(tokens, self.context)
        return self.said(line, places, segment, ends[:-1].clamp(max=tokens - 1))

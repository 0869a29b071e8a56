"""Rows of tokens of any length for a model, without work on what fills them up.

Where a program takes rectangles, rows of about one length go together; where attention can be cut, all rows lie one
after another and nothing is filled up.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from phalanx.data.labelled import Encoded
from phalanx.data.source import Array
from phalanx.nn.attention import Attention, Context
from phalanx.nn.batch import Batch

TOKENS = 8192  # of a batch, at most: more gain nothing and take memory

Rectangle = tuple[Array, Array, Array]  # tokens, segments, 1 where there is a token: int64 [rows, length]


def groups(lengths: Sequence[int], step: int, tokens: int = TOKENS) -> Iterator[list[int]]:
    """Numbers of rows whose lengths, rounded up to `step`, are equal; as many as `tokens` hold."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    group: list[int] = []
    for i in order:
        wide = -(-lengths[i] // step) * step
        if group and (-(-lengths[group[0]] // step) * step < wide or (len(group) + 1) * wide > tokens):
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def rectangle(rows: Sequence[Encoded], pad: int, step: int, most: int) -> Rectangle:
    """Rows filled up to the longest, rounded up to `step`, at most `most`."""
    length = min(-(-max(len(row.tokens) for row in rows) // step) * step, most)
    tokens = np.full((len(rows), length), pad, np.int64)
    segment, mask = np.zeros_like(tokens), np.zeros_like(tokens)
    for i, row in enumerate(rows):
        used = len(row.tokens)
        tokens[i, :used], mask[i, :used] = row.tokens, 1
        segment[i, row.second : used] = 1
    return tokens, segment, mask


class InRectangles:
    """A program that takes rectangles, for rows of any length: float32 per row [length, …], or […] where the program
    gives one answer for a row.
    """

    def __init__(self, program: Callable[[Rectangle], Array], pad: int, most: int, per_token: bool, step: int) -> None:
        self.program, self.pad, self.most, self.per_token, self.step = program, pad, most, per_token, step

    def __call__(self, rows: Sequence[Encoded]) -> list[Array]:
        """One answer a row."""
        found: list[Any] = [None] * len(rows)
        for group in groups([len(row.tokens) for row in rows], self.step):
            answers = self.program(rectangle([rows[i] for i in group], self.pad, self.step, self.most))
            for i, answer in zip(group, answers, strict=True):
                found[i] = answer[: len(rows[i].tokens)] if self.per_token else answer
        return found


def together(outputs: list[Array]) -> Array:
    """A span's two outputs lie together, as its head gave them."""
    return outputs[0] if len(outputs) == 1 else np.stack(outputs, -1)


class Apart:
    """Attention of a model within each of several sequences that lie one after another; those of one length in one
    call.
    """

    def __init__(self, model: Any) -> None:
        self.lengths: Sequence[int] = ()
        for module in model.modules():
            if isinstance(module, Attention):
                attend_by(module, self)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """All [1, heads, tokens, width]."""
        if len(set(self.lengths)) == 1:
            return self._alike(q, k, v, len(self.lengths))
        parts, start = [], 0
        for length, count in _runs(self.lengths):
            stop = start + length * count
            parts.append(self._alike(q[:, :, start:stop], k[:, :, start:stop], v[:, :, start:stop], count))
            start = stop
        return torch.cat(parts, 2)

    @staticmethod
    def _alike(q: Tensor, k: Tensor, v: Tensor, count: int) -> Tensor:
        _, heads, tokens, width = q.shape
        q, k, v = (x.reshape(heads, count, tokens // count, width).transpose(0, 1) for x in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(0, 1).reshape(1, heads, tokens, width)


def _runs(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Each length with how many of it stand together."""
    start = 0
    for i in range(1, len(lengths) + 1):
        if i == len(lengths) or lengths[i] != lengths[start]:
            yield lengths[start], i - start
            start = i


def attend_by(attention: Attention, attend: Callable[[Tensor, Tensor, Tensor, Context], Tensor]) -> None:
    """Let something else do the arithmetic; a module that did it, dropout's, is let go."""
    del attention.attend
    attention.attend = attend


class Line(NamedTuple):
    """Rows one after another: int64 [tokens], and how long each row is."""

    tokens: Array
    places: Array
    segment: Array
    lengths: list[int]

    @classmethod
    def of(cls, rows: Sequence[Encoded]) -> "Line":
        """Concatenate one row or more."""
        lengths = [len(row.tokens) for row in rows]
        places = np.concatenate([np.arange(length) for length in lengths])
        second = [np.arange(length) >= row.second for length, row in zip(lengths, rows, strict=True)]
        segment = np.concatenate(second).astype(np.int64)
        return cls(np.concatenate([row.tokens for row in rows]), places, segment, lengths)


class OneAfterAnother:
    """Lets a program of lines take rows of any length, so that nothing is filled up. It gives float32 [tokens, …], or
    [rows, …] where it gives one answer for a row.
    """

    def __init__(self, program: Callable[[Line], Array], per_token: bool) -> None:
        self.program, self.per_token = program, per_token

    def __call__(self, rows: Sequence[Encoded]) -> list[Array]:
        """One answer a row."""
        found: list[Any] = [None] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].tokens))
        for group in _filled(order, [len(row.tokens) for row in rows]):
            line = Line.of([rows[i] for i in group])
            answers = self.program(line)
            parts = np.split(answers, np.cumsum(line.lengths)[:-1]) if self.per_token else answers
            for i, answer in zip(group, parts, strict=True):
                found[i] = answer
        return found


class Lengthy(Protocol):
    """What must know which rows are of which sequence: `Apart`, or kernels."""

    lengths: Sequence[int]


class Said:
    """What a BERT says to a line: its head, or what lies under it (`hidden`)."""

    def __init__(self, model: Any, per_token: bool, hidden: bool) -> None:
        self.model, self.per_token, self.hidden = model, per_token, hidden

    def __call__(self, tokens: Tensor, places: Tensor, segment: Tensor, firsts: Tensor) -> Tensor:
        """Whole numbers [tokens], where rows begin [rows] -> float32 [tokens, …], or [rows, …] of a pooled head."""
        key = torch.zeros(1, dtype=torch.int32, device=tokens.device)
        batch = Batch(tokens[None], places[None], key, segment=segment[None])
        hidden = self.model.transformer(batch)
        if self.hidden:
            return hidden[0].float()  # type: ignore[no-any-return]
        if self.per_token:
            return self.model.answer(hidden, batch)[0]  # type: ignore[no-any-return]
        first = Batch(tokens[firsts, None], places[firsts, None], key.expand(len(firsts)))
        return self.model.answer(hidden[0, firsts, None], first)  # type: ignore[no-any-return]


class Eager:
    """A BERT as a program of lines; `apart` is told the rows' lengths."""

    def __init__(self, said: Said, apart: Lengthy, device: torch.device) -> None:
        self.said, self.apart, self.device = said, apart, device

    @torch.inference_mode()
    def __call__(self, line: Line) -> Array:
        """float32"""
        self.apart.lengths = line.lengths
        tokens, places, segment = (torch.from_numpy(array).to(self.device) for array in line[:3])
        firsts = torch.tensor([0, *np.cumsum(line.lengths)[:-1]], device=self.device)
        answers: Array = self.said(tokens, places, segment, firsts).cpu().numpy()
        return answers


def _filled(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers in order, as many at a time as TOKENS hold."""
    group: list[int] = []
    for i in order:
        if group and sum(lengths[k] for k in group) + lengths[i] > TOKENS:
            yield group
            group = []
        group.append(i)
    if group:
        yield group

"""Rows of tokens of any length as batches: padded to rectangles of about one length, or packed, without padding."""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from phalanx.data.labelled import Encoded
from phalanx.data.source import Array
from phalanx.nn.packed import PackedBatch

TOKENS = 8192  # of a batch, at most: more gain nothing and take memory

PaddedRows = tuple[Array, Array, Array]  # tokens, segments, 1 where there is a token: int64 [rows, length]


class PaddedBatcher:
    """Lets a program of padded rows take rows of any length: float32 per row [length, …], or […] where the program
    gives one answer for a row.
    """

    def __init__(self, program: Callable[[PaddedRows], Array], pad: int, most: int, per_token: bool, step: int) -> None:
        """Rows are filled up with the token `pad` to a multiple of `step` tokens, `most` at most."""
        self.program, self.pad, self.most, self.per_token, self.step = program, pad, most, per_token, step

    def __call__(self, rows: Sequence[Encoded]) -> list[Array]:
        """Return one answer a row."""
        answers: list[Any] = [None] * len(rows)
        for group in alike([len(row.tokens) for row in rows], self.step):
            parts = self.program(pad_rows([rows[i] for i in group], self.pad, self.step, self.most))
            for i, part in zip(group, parts, strict=True):
                answers[i] = part[: len(rows[i].tokens)] if self.per_token else part
        return answers


def alike(lengths: Sequence[int], step: int, tokens: int = TOKENS) -> Iterator[list[int]]:
    """Yield the numbers of rows whose lengths, rounded up to `step`, are equal; as many as `tokens` hold."""
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


def pad_rows(rows: Sequence[Encoded], pad: int, step: int, most: int) -> PaddedRows:
    """Fill rows up to the longest, rounded up to `step`, at most `most`."""
    length = min(-(-max(len(row.tokens) for row in rows) // step) * step, most)
    tokens = np.full((len(rows), length), pad, np.int64)
    segment, mask = np.zeros_like(tokens), np.zeros_like(tokens)
    for i, row in enumerate(rows):
        used = len(row.tokens)
        tokens[i, :used], mask[i, :used] = row.tokens, 1
        segment[i, row.second : used] = 1
    return tokens, segment, mask


def pack_rows(rows: Sequence[Encoded]) -> PackedBatch:
    """Put one row or more one after another, on the CPU."""
    lengths = [len(row.tokens) for row in rows]
    positions = [np.arange(length) for length in lengths]
    segments = [(places >= row.second).astype(np.int64) for places, row in zip(positions, rows, strict=True)]
    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)

    given = [row.tokens for row in rows], positions, segments
    tokens, index, segment = (torch.from_numpy(np.concatenate(parts)) for parts in given)
    return PackedBatch.of(tokens, index, ends, max(lengths), segment)


def joined(outputs: list[Array]) -> Array:
    """Return a graph's output; the two of a span lie together, as its head gave them."""
    return outputs[0] if len(outputs) == 1 else np.stack(outputs, -1)


class PackedBatcher:
    """Lets a program of packed batches take rows of any length. It gives float32 [tokens, …], or [sequences, …] where
    it gives one answer for a row.
    """

    def __init__(self, program: Callable[[PackedBatch], Array], per_token: bool) -> None:
        self.program, self.per_token = program, per_token

    def __call__(self, rows: Sequence[Encoded]) -> list[Array]:
        """Return one answer a row."""
        answers: list[Any] = [None] * len(rows)
        lengths = [len(row.tokens) for row in rows]
        order = sorted(range(len(rows)), key=lambda i: lengths[i])
        for group in _filled(order, lengths):
            outputs = self.program(pack_rows([rows[i] for i in group]))
            parts = np.split(outputs, np.cumsum([lengths[i] for i in group])[:-1]) if self.per_token else outputs
            for i, part in zip(group, parts, strict=True):
                answers[i] = part
        return answers


def _filled(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield numbers in order, as many at a time as TOKENS hold."""
    group: list[int] = []
    for i in order:
        if group and sum(lengths[k] for k in group) + lengths[i] > TOKENS:
            yield group
            group = []
        group.append(i)
    if group:
        yield group

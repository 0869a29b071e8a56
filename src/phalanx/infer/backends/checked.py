"""Programs whose answers are checked. One from outside may err, and what follows would compute on silently: a mean over
a wrong axis, or a token that the tokenizer does not have.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phalanx.data.labelled import Encoded
from phalanx.data.source import Array
from phalanx.errors import ModelError
from phalanx.infer.backends.protocol import DecoderProgram, EncoderProgram, ProgramSpec
from phalanx.infer.kv_cache import Chunk
from phalanx.registry import blamed

CALL = "the call of its program"
NEEDS = "room", "takes_drafts", "reserve", "release"  # of a decoder's program


class CheckedEncoder:
    """An encoder's program that raises ModelError for answers of other shapes than the rows' own; for those of a
    backend from outside also where they are not finite.
    """

    def __init__(self, name: str, spec: ProgramSpec, program: EncoderProgram) -> None:
        self.name, self.spec, self.program = name, spec, program

    def __call__(self, rows: Sequence[Encoded]) -> list[Array]:
        """Return the program's answers, one array for each row."""
        with blamed("backend", self.name, CALL):
            answers = [np.asarray(answer, np.float32) for answer in self.program(rows)]
        _compare(self.name, answers, [self.spec.shape(row) for row in rows])
        if ":" in self.name and not all(np.isfinite(answer).all() for answer in answers):
            raise _not_finite(self.name)
        return answers


class CheckedDecoder:
    """A decoder's program from outside, for a tokenizer of `vocab` tokens. It raises ModelError for scores of other
    shapes, or that are not finite, and for tokens that are none.
    """

    def __init__(self, name: str, vocab: int, program: DecoderProgram) -> None:
        self.name, self.vocab, self.program = name, vocab, program
        if lacking := [need for need in NEEDS if not hasattr(program, need)]:
            raise ModelError(f"backend={name} is broken: decoder() gave {type(program).__name__} without {lacking[0]}")
        self.room, self.takes_drafts = program.room, program.takes_drafts
        self.texts = 0

    def reserve(self, tokens: int) -> Any | None:
        """Return the program's handle for a text. ModelError where not even one text has room."""
        with blamed("backend", self.name, "reserve()"):
            pages = self.program.reserve(tokens)
        if pages is None and not self.texts:
            raise ModelError(f"backend={self.name} is broken: it has no memory for one text of {tokens} tokens")
        self.texts += pages is not None
        return pages

    def release(self, pages: Any) -> None:
        """Give back the memory of a text."""
        self.texts -= 1
        with blamed("backend", self.name, "release()"):
            self.program.release(pages)

    def __call__(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Return the program's scores, one tensor for each chunk."""
        with blamed("backend", self.name, CALL):
            scores = [torch.as_tensor(each) for each in self.program(chunks)]
        shapes = [(chunk.wanted,) if chunk.greedy else (chunk.wanted, self.vocab) for chunk in chunks]
        _compare(self.name, scores, shapes)

        for chunk, each in zip(chunks, scores, strict=True):
            if chunk.greedy:
                self._check_tokens(each)
            elif not each.isfinite().all():
                raise _not_finite(self.name)
        return scores

    def _check_tokens(self, tokens: Tensor) -> None:
        """Raise ModelError unless these are numbers of the tokenizer's tokens: int64 [wanted]."""
        if tokens.dtype != torch.int64:
            raise ModelError(f"backend={self.name} is broken: its tokens are {tokens.dtype}, and int64 was expected")
        if (tokens == -1).any():
            raise _not_finite(self.name)
        if wrong := [token for token in tokens.tolist() if not 0 <= token < self.vocab]:
            raise ModelError(f"backend={self.name} is broken: token {wrong[0]} is none of the tokenizer's {self.vocab}")


def _compare(name: str, answers: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise ModelError for the first answer that has not its shape, or that is missing or too many."""
    for answer, right in zip_longest(answers, shapes):
        if answer is None or right is None:
            raise ModelError(f"backend={name} is broken: it gave {len(answers)} answers to {len(shapes)} questions")
        if tuple(answer.shape) != right:
            raise ModelError(f"backend={name} is broken: an answer is {tuple(answer.shape)}, and {right} was expected")


def _not_finite(name: str) -> ModelError:
    return ModelError(f"backend={name} gives scores that are not finite; see what --backend torch gives")

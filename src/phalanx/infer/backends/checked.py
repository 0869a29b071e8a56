"""Programs whose answers' shapes are checked. One from outside may err, and what follows would compute on silently: a
mean over a wrong axis, or a token that the tokenizer does not have.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from torch import Tensor

from phalanx.data.labelled import Encoded
from phalanx.data.source import Array
from phalanx.errors import ModelError
from phalanx.infer.backends.protocol import DecoderProgram, EncoderProgram, ProgramSpec
from phalanx.infer.kv_cache import Chunk


class CheckedEncoder:
    """An encoder's program that raises ModelError for answers of other shapes than the rows' own."""

    def __init__(self, name: str, spec: ProgramSpec, program: EncoderProgram) -> None:
        self.name, self.spec, self.program = name, spec, program

    def __call__(self, rows: Sequence[Encoded]) -> list[Array]:
        """Return the program's answers, one array for each row."""
        answers = self.program(rows)
        _compare(self.name, answers, [self.spec.shape(row) for row in rows])
        return answers


class CheckedDecoder:
    """A decoder's program, for a tokenizer of `vocab` tokens, that raises ModelError for scores of other shapes."""

    def __init__(self, name: str, vocab: int, program: DecoderProgram) -> None:
        self.name, self.vocab, self.program = name, vocab, program
        self.room, self.takes_drafts = program.room, program.takes_drafts
        self.reserve, self.release = program.reserve, program.release

    def __call__(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Return the program's scores, one tensor for each chunk."""
        scores = self.program(chunks)
        shapes = [(chunk.wanted,) if chunk.greedy else (chunk.wanted, self.vocab) for chunk in chunks]
        _compare(self.name, scores, shapes)
        return scores


def _compare(name: str, answers: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise ModelError for the first answer that has not its shape, or that is missing or too many."""
    for answer, right in zip_longest(answers, shapes):
        if answer is None or right is None:
            raise ModelError(f"backend={name} is broken: it gave {len(answers)} answers to {len(shapes)} questions")
        if tuple(answer.shape) != right:
            raise ModelError(f"backend={name} is broken: an answer is {tuple(answer.shape)}, and {right} was expected")

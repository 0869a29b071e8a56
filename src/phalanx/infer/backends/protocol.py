"""The protocol of backends: a class that says which models it computes, and makes programs of them.

One instance is made of it, without arguments. An encoder's program takes rows of tokens and gives the model's answer to
each; a decoder's scores the next tokens of texts that are continued together. A class may have the methods of both.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from phalanx.data.labelled import Encoded
from phalanx.data.source import Array
from phalanx.infer.bundle import ModelBundle
from phalanx.infer.kv_cache import Chunk
from phalanx.spec.model import Spec


class Backend(Protocol):
    """A backend of either kind: which models it can compute."""

    def unavailable(self, spec: Spec, precision: str) -> str:
        """Return why the model of `spec` cannot be computed in `precision` on this machine; "" if it can.

        It is asked before a program is made, and the answer is shown to the user after "backend=NAME: ". A part of the
        model that the backend does not know (a kind of norm, a head) is named in it: what is not known must not be
        computed.
        """
        ...


class EncoderProgram(Protocol):
    """A model, or the part of it under its head, ready to be computed."""

    def __call__(self, rows: Sequence[Encoded]) -> list[Array]:
        """Return float32 arrays, one for each row, of the shape that `ProgramSpec.shape` gives.

        Rows are of any lengths from 1 to the model's context, and the answer to one does not depend on the others.
        """
        ...


class ProgramSpec(NamedTuple):
    """A program to be made: of which model, in which precision, and whether it gives the scores of the model's head, or
    with `hidden` the residual stream under it.
    """

    bundle: ModelBundle
    precision: str
    hidden: bool

    @property
    def per_token(self) -> bool:
        """Whether there is an answer for every token, not one for a row."""
        answer = self.bundle.spec.answer
        return self.hidden or answer is None or answer.per_token

    @property
    def pad(self) -> int:
        """The token that rows may be filled up with."""
        return self.bundle.tokenizer.pad or 0

    def shape(self, row: Encoded) -> tuple[int, ...]:
        """Return the shape of the answer to a row: [tokens, width] or [width]."""
        spec = self.bundle.spec
        width = spec.hidden if self.hidden else spec.heads[0].width
        return (len(row.tokens), width) if self.per_token else (width,)


class EncoderBackend(Backend, Protocol):
    """A backend that computes encoders (`phalanx answer`, `classify`, `fill`, `embed`)."""

    def encoder(self, program: ProgramSpec) -> EncoderProgram:
        """Make a program. The bundle's model stays as it is; `ModelBundle.shared` gives a copy to change."""
        ...


class DecoderProgram(Protocol):
    """A model with what it remembers of the texts that it continues: keys and values in pages, or whatever it needs."""

    room: int
    """Tokens that one text may have at most: no fewer than the model's context."""
    takes_drafts: bool
    """Whether several tokens of a text may be tried in one call. False where that would change which are chosen."""

    def reserve(self, tokens: int) -> Any | None:
        """Return a handle of memory for one text of at most `tokens` tokens; None while there is not enough.

        The handle comes back as `Chunk.pages`. It is `Pages` for the programs of this package, which find keys and
        values by it.
        """
        ...

    def release(self, pages: Any) -> None:
        """Give back the memory of a text that has ended."""
        ...

    def __call__(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Continue several texts, each by `Chunk.tokens`, which stand at the positions from `Chunk.start` on.

        A prompt comes as a whole, from 0 on, or in parts; then come one or more tokens at a time. What was there from
        `Chunk.start` on is forgotten: those were drafts, or the window slid. Returns for each text, on the CPU, float32
        scores [wanted, vocab] of the tokens that may follow each of its last `Chunk.wanted` ones; for a `greedy` one
        only the likeliest tokens, int64 [wanted], -1 where scores are not finite (`infer.sample.likeliest`).
        """
        ...


class DecoderBackend(Backend, Protocol):
    """A backend that computes decoders (`phalanx generate`)."""

    def decoder(self, bundle: ModelBundle, precision: str) -> DecoderProgram:
        """Make a program. The bundle's model stays as it is; `ModelBundle.shared` gives a copy to change."""
        ...

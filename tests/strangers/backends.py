"""Backends as another package would bring them: `--backend tests.strangers.backends:Plain`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from phalanx.data.labelled import Encoded
from phalanx.data.source import Array
from phalanx.infer.backends.protocol import ProgramSpec
from phalanx.infer.bundle import ModelBundle
from phalanx.infer.kv_cache import Chunk
from phalanx.infer.sample import likeliest
from phalanx.nn.batch import Batch
from phalanx.spec.leaves import Norm
from phalanx.spec.model import Spec


class Plain:
    """Computes encoders with layer norms by their own modules, a row at a time, in fp32."""

    def unavailable(self, spec: Spec, precision: str) -> str:
        strange = {leaf.kind for _, leaf in spec.leaves() if isinstance(leaf, Norm)} - {"layer"}
        if strange:
            return f"it does not know {strange.pop()} norms"
        if spec.tuned == "choice":
            return "it does not know the head choice"
        return "" if precision == "fp32" else f"it has fp32, not {precision}"

    def encoder(self, program: ProgramSpec) -> "Rows":
        return Rows(program)


class Rows:
    def __init__(self, program: ProgramSpec) -> None:
        self.model, self.hidden = program.bundle.model, program.hidden

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Encoded]) -> list[Array]:
        return [self.answer(row) for row in rows]

    def answer(self, row: Encoded) -> Array:
        index = torch.arange(len(row.tokens))[None]
        segment, key = (index >= row.second).long(), torch.zeros(1, dtype=torch.int32)
        batch = Batch(torch.from_numpy(row.tokens)[None], index, key, segment=segment)
        found = self.model.transformer(batch)
        return (found if self.hidden else self.model.answer(found, batch))[0].numpy()


class Uncached:
    """Computes decoders in fp32, all tokens of a text anew for each that is written."""

    def unavailable(self, spec: Spec, precision: str) -> str:
        return "" if precision == "fp32" else f"it has fp32, not {precision}"

    def decoder(self, bundle: ModelBundle, precision: str) -> "Texts":
        return Texts(bundle)


class Texts:
    takes_drafts = True

    def __init__(self, bundle: ModelBundle) -> None:
        self.bundle, self.room = bundle, bundle.context
        self.texts: dict[int, list[int]] = {}
        self.begun = 0

    def reserve(self, tokens: int) -> int:
        self.begun += 1
        self.texts[self.begun] = []
        return self.begun

    def release(self, pages: int) -> None:
        del self.texts[pages]

    def __call__(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        return [self.scores(chunk, self.texts[chunk.pages]) for chunk in chunks]

    def scores(self, chunk: Chunk, text: list[int]) -> Tensor:
        text[chunk.start :] = chunk.tokens
        found = self.bundle.logits(text)[len(text) - chunk.wanted :]
        return likeliest(found) if chunk.greedy else found


class Both(Plain, Uncached):
    """Computes encoders and decoders."""


class Sideways(Plain):
    """Its answers lie the wrong way round."""

    def encoder(self, program: ProgramSpec) -> "Turned":
        return Turned(program)


class Turned(Rows):
    def answer(self, row: Encoded) -> Array:
        return super().answer(row).T


class Fewer(Plain):
    """It forgets the last row."""

    def encoder(self, program: ProgramSpec) -> "Short":
        return Short(program)


class Short(Rows):
    def __call__(self, rows: Sequence[Encoded]) -> list[Array]:
        return super().__call__(rows)[:-1]


class Wide(Uncached):
    """It scores a token that the tokenizer does not have."""

    def decoder(self, bundle: ModelBundle, precision: str) -> "Padded":
        return Padded(bundle)


class Padded(Texts):
    def scores(self, chunk: Chunk, text: list[int]) -> Tensor:
        return torch.nn.functional.pad(super().scores(chunk, text), (0, 1))

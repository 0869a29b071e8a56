"""A GPT that continues texts: prompts in, pieces of text out.

Past the context the window slides: the oldest token is forgotten for each new one, so a text may be longer than the
model can see.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError
from phalanx.infer import backends, kernels
from phalanx.infer.decoder import GIB, Decoder, Past
from phalanx.infer.engine import Decodes, Engine, Request
from phalanx.infer.loaded import Loaded
from phalanx.infer.replay import compiles
from phalanx.infer.sample import Options
from phalanx.infer.steps import Steps
from phalanx.precision import packed

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # how a decoder shows the first bytes of an unfinished character


class GPT:
    """One model with an engine of its own; not for several threads."""

    def __init__(
        self, loaded: Loaded, backend: str = "auto", precision: str = "fp32", decoder: Decodes | None = None,
        lookup: bool = True,
    ) -> None:  # fmt: skip
        if not loaded.spec.causal:
            run = loaded.run
            raise InputError(f"{run} learned to fill masks, not to continue a text; use: phalanx fill {run}")
        self.loaded, self.tokenizer, self.context = loaded, loaded.tokenizer, loaded.context
        decoder = decoder or _decoder(loaded, backend, precision)
        if precision == "int8" and isinstance(decoder, Decoder) and isinstance(decoder.past, Past):
            lookup = False  # torch rounds all tokens of a call by the largest: drafts would change what is chosen
        own = () if self.tokenizer.eod is None else (self.tokenizer.eod,)
        self.engine = Engine(decoder, self.context, loaded.record.ends or own, lookup=lookup)

    def generate(self, prompt: str | Sequence[int], options: Options | None = None) -> Iterator[str]:
        """The text that follows `prompt`, or its tokens, in pieces of whole characters, until the end of the document.

        The same seed gives the same text. An empty prompt begins a document. InputError for a prompt longer than the
        context.
        """
        tokens = self.encode(prompt)
        request = self.engine.submit(tokens, options or Options())
        return self._pieces(tokens, request)

    def ready(self) -> None:
        """Make now what the first calls would make."""
        request = self.engine.submit([0], Options(max_tokens=2, temperature=0))
        while self.engine.busy:
            self.engine.step()
        assert request.ended

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """A prompt's tokens; names of special tokens in it stand for these, and those that the tokenizer's template
        puts around a text are there. InputError for unknown tokens.
        """
        if isinstance(prompt, str):
            tokens = self.tokenizer.for_prompts().encode_prompt(prompt)
        else:
            tokens = self.tokenizer.known(prompt)
        begin = self.loaded.record.begin if self.loaded.record.begin is not None else self.tokenizer.eod
        if not tokens and begin is None:
            raise InputError(
                "the prompt is empty, and this tokenizer has no token that begins a document; give some text"
            )
        tokens = tokens or [begin or 0]
        if len(tokens) > self.context:
            raise InputError(
                f"the prompt has {len(tokens)} tokens, the model's context {self.context}; shorten the prompt"
            )
        return tokens

    def _pieces(self, prompt: Sequence[int], request: Request) -> Iterator[str]:
        pieces = Pieces(self.tokenizer, prompt)
        for token in self.engine.stream(request):
            if piece := pieces.add(token):
                yield piece
        if piece := pieces.rest():
            yield piece
        if request.ended == "broken":
            raise self.loaded.broken()


class Pieces:
    """Text from tokens as they come, in whole characters: a character may take several tokens, and how a token is
    written may depend on the one before it.
    """

    KEPT = 8  # tokens that are decoded again with those that come

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.shown = 0  # characters of theirs that were told
        self._keep(before)

    def add(self, token: int) -> str:
        """What is whole now."""
        self.tokens.append(token)
        text = self.tokenizer.decode(self.tokens)
        whole = max(self.shown, len(text.removesuffix(_INCOMPLETE)))
        piece, self.shown = text[self.shown : whole], whole
        if whole == len(text) and len(self.tokens) > 4 * self.KEPT:
            self._keep(self.tokens)
        return piece

    def rest(self) -> str:
        """What never became whole."""
        return self.tokenizer.decode(self.tokens)[self.shown :]

    def _keep(self, tokens: Sequence[int]) -> None:
        self.tokens = [*tokens[-self.KEPT :]]
        self.shown = len(self.tokenizer.decode(self.tokens))


def _decoder(loaded: Loaded, backend: str, precision: str) -> Decoder:
    """By kernels of our own where they can be had, else by torch; backends that are for BERTs alone count as auto."""
    if backend != "auto":
        backends.of(backend)
    reason = "" if backend == "torch" else backends.lacking("native", precision, loaded.spec)
    if backend == "native" and reason:
        raise InputError(f"backend=native: {reason}")
    model: Any = loaded.shared()
    device = next(model.parameters()).device
    if backend != "torch" and not reason:
        return Decoder(model, loaded.tokenizer.vocab, kernels.fill(model, precision, GIB))
    packed.fill(model, precision, device, model.words)
    if device.type == "cpu":
        return Decoder(model, loaded.tokenizer.vocab, Past(model, GIB, packed.NUMBERS[precision]))
    past = Past(model, torch.cuda.mem_get_info(device)[0] // 2, packed.NUMBERS[precision])
    return (Steps if compiles() else Decoder)(model, loaded.tokenizer.vocab, past)

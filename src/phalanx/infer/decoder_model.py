"""A decoder that continues texts: prompts in, pieces of text out.

Past the context the window slides: the oldest token is forgotten for each new one, so a text may be longer than the
model can see.
"""

from collections.abc import Callable, Iterator, Sequence

from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError
from phalanx.infer import backends
from phalanx.infer.backends.protocol import DecoderProgram
from phalanx.infer.bundle import ModelBundle
from phalanx.infer.engine import Engine, Request
from phalanx.infer.sample import Options

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # how a decoder shows the first bytes of an unfinished character


class DecoderModel:
    """One model with an engine of its own; not for several threads."""

    def __init__(
        self,
        bundle: ModelBundle,
        backend: str = "auto",
        precision: str = "fp32",
        decoder: DecoderProgram | None = None,
        lookup: bool = True,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Make an engine on a program of `backend`, auto or a name, or on the `decoder` that is given.

        `lookup` lets it try what followed the last words before. `log` gets what `backends.decoder_backend` says.
        InputError for an encoder, and for a backend that cannot compute the model.
        """
        if not bundle.spec.causal:
            run = bundle.run
            raise InputError(f"{run} learned to fill masks, not to continue a text; use: phalanx fill {run}")
        self.bundle, self.tokenizer, self.context = bundle, bundle.tokenizer, bundle.context

        if decoder is None:
            if backend == "auto":
                backend = backends.decoder_backend(bundle.spec, precision, log)
            decoder = backends.decoder_program(backend, bundle, precision)
        ends = bundle.record.ends or self.tokenizer.ends
        self.engine = Engine(decoder, self.context, ends, lookup=lookup and decoder.takes_drafts)

    def generate(self, prompt: str | Sequence[int], options: Options | None = None) -> Iterator[str]:
        """Yield the text that follows `prompt`, or its tokens, in pieces of whole characters, until the end of the
        document.

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
        """Return a prompt's tokens; names of special tokens in it stand for these, and those that the tokenizer's
        template puts around a text are there. InputError for unknown tokens, and for a prompt that is empty or longer
        than the context.
        """
        if isinstance(prompt, str):
            tokens = self.tokenizer.for_prompts().encode_prompt(prompt)
        else:
            tokens = self.tokenizer.known(prompt)

        begin = self.bundle.record.begin if self.bundle.record.begin is not None else self.tokenizer.eod
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
            raise self.bundle.broken()


class Pieces:
    """Text from tokens as they come, in whole characters: a character may take several tokens, and how a token is
    written may depend on the one before it.
    """

    KEPT = 8  # tokens that are decoded again with those that come

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.shown = 0  # characters of theirs that were returned
        self._keep(before)

    def add(self, token: int) -> str:
        """Take in a token, and return the characters that are whole by it and were not returned before."""
        self.tokens.append(token)
        text = self.tokenizer.decode(self.tokens)
        whole = max(self.shown, len(text.removesuffix(_INCOMPLETE)))
        piece, self.shown = text[self.shown : whole], whole
        if whole == len(text) and len(self.tokens) > 4 * self.KEPT:
            self._keep(self.tokens)
        return piece

    def rest(self) -> str:
        """Return the characters that never became whole."""
        return self.tokenizer.decode(self.tokens)[self.shown :]

    def _keep(self, tokens: Sequence[int]) -> None:
        self.tokens = [*tokens[-self.KEPT :]]
        self.shown = len(self.tokenizer.decode(self.tokens))

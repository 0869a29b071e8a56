"""Many texts continued at once: a text joins as soon as there is room in the cache and leaves when it ends, and every
step computes one or more tokens of all that are under way (continuous batching: Yu et al., OSDI 2022).

What a text gets does not depend on who else is there. With `lookup` the last words are looked for earlier in the text,
and what followed them there is checked in the same step (prompt lookup): several tokens for the price of one where
texts repeat themselves, and always the tokens that would have been chosen one by one.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from phalanx.errors import InputError
from phalanx.infer.backends.protocol import DecoderProgram
from phalanx.infer.kv_cache import Chunk
from phalanx.infer.sample import Options, Scored, choose, scored

PREFILL = 4096  # tokens of prompts, and of windows that slide, in one step
GRAM, DRAFT = 3, 8  # tokens that are looked for, and that are tried
FEW = 8  # texts under way up to which trying costs little
SCORED = 256  # tokens of prompts whose probabilities are computed in one step: a row over the vocabulary each


@dataclass(eq=False)
class Request:
    """A text under way. `tokens` are the prompt's and what followed; `ended` is why: stop, length, cancelled, or
    broken, where scores were not finite.
    """

    tokens: list[int]
    options: Options
    prompt: int
    generator: torch.Generator
    pages: Any = None
    cached: int = 0  # tokens whose keys and values are in the cache
    ended: str = ""
    fresh: list[int] = field(default_factory=list)  # tokens that nobody has taken yet
    scored: list[Scored] = field(default_factory=list)  # likewise, where probabilities are wanted
    unscored: int = 0  # tokens of the prompt whose probabilities are wanted and not yet known

    @property
    def generated(self) -> int:
        """The number of new tokens so far."""
        return len(self.tokens) - self.prompt


class Engine:
    """The texts under way on one decoder. One thread calls its methods."""

    def __init__(
        self,
        decoder: DecoderProgram,
        context: int,
        stop_tokens: Collection[int],
        max_active: int = 64,
        lookup: bool = True,
    ) -> None:
        """A text ends with any of the `stop_tokens`; `max_active` of them are under way at most."""
        self.decoder, self.context, self.stop_tokens = decoder, context, stop_tokens
        self.max_active, self.lookup = max_active, lookup
        self.waiting: deque[Request] = deque()
        self.active: list[Request] = []
        self.steps = 0

    def submit(self, tokens: Sequence[int], options: Options) -> Request:
        """Queue a prompt; InputError where it does not fit the context."""
        if not 0 < len(tokens) <= self.context:
            raise InputError(
                f"the prompt has {len(tokens)} tokens, the model's context {self.context}; shorten the prompt"
            )
        assert self.context <= self.decoder.room

        request = Request([*tokens], options, len(tokens), torch.Generator().manual_seed(options.seed))
        if options.prompt_logprobs:
            request.unscored = len(tokens) - 1
            request.scored.append(Scored(tokens[0], None, []))
        if options.max_tokens or request.unscored:
            self.waiting.append(request)
        else:
            request.ended = "length"
        return request

    def cancel(self, request: Request) -> None:
        """End a request whose asker has gone."""
        if not request.ended:
            self._end(request, "cancelled")

    @property
    def busy(self) -> bool:
        """Whether a step would compute anything."""
        return bool(self.active or self.waiting)

    def step(self) -> list[Request]:
        """Compute the prompts of the requests that join, if any do, else tokens of all that are under way. Returns the
        requests that were computed.
        """
        self.steps += 1
        joining = self._admitted()
        chosen = joining or self._turn()
        chunks = [self._chunk(request) for request in chosen]
        for request, chunk, scores in zip([*chosen], chunks, self.decoder(chunks) if chunks else (), strict=True):
            self._take(request, chunk, scores)
        return [*chosen]

    def stream(self, request: Request) -> Iterator[int]:
        """Yield the tokens of one request; the others go on beside it."""
        try:
            while True:
                fresh, request.fresh = request.fresh, []
                yield from fresh
                if request.ended and not request.fresh:
                    return
                self.step()
        finally:
            self.cancel(request)

    def _admitted(self) -> list[Request]:
        joining: list[Request] = []
        while self.waiting and len(self.active) < self.max_active:
            request = self.waiting[0]
            if joining and sum(len(joined.tokens) for joined in joining) + len(request.tokens) > PREFILL:
                break
            request.pages = self.decoder.reserve(min(request.prompt + request.options.max_tokens, self.context))
            if request.pages is None:
                break
            self.waiting.popleft()
            self.active.append(request)
            joining.append(request)
        return joining

    def _turn(self) -> list[Request]:
        """Return the requests that this step computes: all under way, but of those whose windows slide, which is all
        their work anew, as many as PREFILL allows, by turns.
        """
        sliding = [request for request in self.active if len(request.tokens) > self.context]
        late = sliding[max(1, PREFILL // self.context) :]
        if late:
            self.active = [*(request for request in self.active if request not in sliding), *late,
                           *(request for request in sliding if request not in late)]  # fmt: skip
        return [request for request in self.active if request not in late]

    def _chunk(self, request: Request) -> Chunk:
        assert request.pages is not None
        greedy = request.options.greedy and request.options.logprobs is None
        if len(request.tokens) > self.context:  # the window slides: all of it has new positions
            return Chunk(request.pages, 0, request.tokens[-self.context :], greedy=greedy)

        new = request.tokens[request.cached :]
        if request.unscored:
            share = max(1, SCORED // sum(asked.unscored > 0 for asked in self.active))
            new = new[: min(share, request.unscored + (request.options.max_tokens > 0))]
            return Chunk(request.pages, request.cached, new, len(new))

        guesses: list[int] = []
        if self.lookup and request.cached and len(self.active) <= FEW:
            room = min(DRAFT, request.options.max_tokens - request.generated - 1, self.context - len(request.tokens))
            guesses = draft(request.tokens, room)
        return Chunk(request.pages, request.cached, [*new, *guesses], 1 + len(guesses), greedy)

    def _take(self, request: Request, chunk: Chunk, scores: Tensor) -> None:
        """Take in the decoder's scores. The first rows give how likely the prompt was, where that is wanted; by each of
        the others a token is chosen, as long as the one before is what had been tried.
        """
        options = request.options
        if known := min(request.unscored, len(scores)):
            self._score(request, scores[:known], request.tokens[chunk.start + 1 : chunk.start + 1 + known])
            scores = scores[known:]

        request.cached = chunk.stop - max(0, len(scores) - 1)
        if request.ended or not len(scores):
            return

        guesses = [*chunk.tokens[len(chunk.tokens) - len(scores) + 1 :], -1]
        for row, guess in zip(scores, guesses, strict=True):
            token = int(row) if chunk.greedy else choose(row, options, request.generator)
            if token < 0:
                self._end(request, "broken")
                return
            if token in self.stop_tokens:
                self._end(request, "stop")
                return

            request.tokens.append(token)
            request.fresh.append(token)
            if options.logprobs is not None:
                request.scored += scored(row[None], [token], options.logprobs)
            if request.generated >= options.max_tokens:
                self._end(request, "length")
                return
            if token != guess:
                return
            request.cached += 1

    def _score(self, request: Request, rows: Tensor, tokens: Sequence[int]) -> None:
        """Take in how likely tokens of the prompt were, by the rows of scores at their places."""
        if not rows.isfinite().all():
            self._end(request, "broken")
            return
        request.scored += scored(rows, tokens, request.options.logprobs or 0)
        request.unscored -= len(tokens)
        if not request.unscored and not request.options.max_tokens:
            self._end(request, "length")

    def _end(self, request: Request, why: str) -> None:
        request.ended = why
        if request in self.active:
            self.active.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        if request.pages is not None:
            self.decoder.release(request.pages)
            request.pages = None


def draft(tokens: Sequence[int], most: int) -> list[int]:
    """Return what followed the last GRAM tokens where they stood last before: at most `most` tokens."""
    if most < 1 or len(tokens) <= GRAM:
        return []
    last = list(tokens[-GRAM:])
    for start in range(len(tokens) - GRAM - 1, -1, -1):
        if tokens[start] == last[0] and list(tokens[start : start + GRAM]) == last:
            return list(tokens[start + GRAM : start + GRAM + most])
    return []

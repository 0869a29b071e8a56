"""A completion as it grows in a worker, sent in parts: text, and log probabilities."""

from collections import deque
from dataclasses import replace
from typing import Any

from phalanx.data.fastpath import byte_letters
from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError
from phalanx.infer.decoder_model import DecoderModel, Pieces
from phalanx.infer.sample import Options, Scored
from phalanx.serve.messages import Job


class Writing:
    """One text under way. InputError where its prompt does not fit; it ends with the model's context at the latest."""

    def __init__(self, gpt: DecoderModel, job: Job) -> None:
        self.gpt, self.job = gpt, job
        prompt, options = job.asked["prompt"], Options(**job.asked["options"])
        tokens = gpt.encode(prompt)
        room = gpt.context - len(tokens)
        if options.max_tokens and not room:
            raise InputError(
                f"the prompt has {len(tokens)} tokens, all of the model's context {gpt.context}; shorten the prompt"
            )
        self.request = gpt.engine.submit(tokens, replace(options, max_tokens=min(options.max_tokens, room)))
        self.pieces = Pieces(gpt.tokenizer, tokens)
        echoed = prompt if isinstance(prompt, str) else gpt.tokenizer.decode(tokens)
        self.echo = echoed if job.asked.get("echo") else ""
        self.length = len(self.echo)  # characters of the text so far
        self.offsets: deque[int] = deque(self._prompt_offsets() if options.prompt_logprobs else ())

    def news(self) -> dict[str, Any] | None:
        """Return the text that has come since the last call, with its log probabilities where they are wanted; None
        while there is none.
        """
        request, text = self.request, ""
        fresh, request.fresh = request.fresh, []
        for token in fresh:
            self.offsets.append(self.length + len(text))
            text += self.pieces.add(token)

        self.length += len(text)
        if not text and not request.ended:
            return None

        part: dict[str, Any] = {"text": text, "said": request.generated, "prompt": request.prompt, "echo": self.echo}
        self.echo = ""
        if request.options.logprobs is not None:
            scored, request.scored = request.scored, []
            part["logprobs"] = [self._entry(each, self.offsets.popleft()) for each in scored]

        if request.ended:
            part |= {"text": text + self.pieces.rest(), "why": request.ended}
        return part

    def _prompt_offsets(self) -> list[int]:
        """Return where in the text each of the prompt's tokens begins, in characters."""
        pieces, offsets, length = Pieces(self.gpt.tokenizer, []), list[int](), 0
        for token in self.request.tokens:
            offsets.append(min(length, len(self.echo)))
            length += len(pieces.add(token))
        return offsets

    def _entry(self, scored: Scored, offset: int) -> tuple[str, float | None, dict[str, float] | None, int]:
        """Return a token, its log probability, those of the likeliest with its own among them, and where in the text it
        begins.
        """
        name = shown(self.gpt.tokenizer, scored.token)
        if scored.logprob is None:
            return name, None, None, offset
        top = {shown(self.gpt.tokenizer, token): value for token, value in reversed(scored.top)}  # the likelier stays
        return name, scored.logprob, top | {name: scored.logprob}, offset


def shown(tokenizer: Tokenizer, token: int) -> str:
    """Return a token as text; one that is no whole character as its bytes, the way OpenAI writes them."""
    text = tokenizer.decode([token])
    if "\N{REPLACEMENT CHARACTER}" not in text:
        return text
    letters, piece = byte_letters(), tokenizer.token(token)
    if not set(piece) <= letters.keys():
        return piece
    return "bytes:" + "".join(f"\\x{letters[letter]:02x}" for letter in piece)

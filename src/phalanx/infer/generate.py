"""A text continued, token by token.

Every token is computed from the whole window before it. Past the context the window slides: the oldest token is
forgotten for each new one, so a text may be longer than the model can see.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from phalanx.errors import InputError
from phalanx.infer.load import Loaded

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # how a decoder shows the first bytes of an unfinished character


@dataclass(frozen=True)
class Options:
    """How the next token is chosen. InputError for values out of range."""

    tokens: int = 100  # new tokens at most
    temperature: float = 1.0  # below 1 prefers the likely, above 1 the unlikely
    top_k: int = 0  # among the k most likely only; 0: among all
    top_p: float = 1.0  # among the fewest whose probabilities sum to p (arXiv 1904.09751); after top_k
    seed: int = 0
    greedy: bool = False  # always the most likely; the rest is ignored

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("tokens", self.tokens >= 1, "1 or more"),
            ("temperature", self.temperature > 0, "above 0; for the most likely token use greedy"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
        ):
            if not fits:
                raise InputError(f"{name}={getattr(self, name)} is out of range: it must be {wanted}")


def generate(loaded: Loaded, prompt: str, options: Options) -> Iterator[str]:
    """The text that follows `prompt`, in pieces of whole characters, until the end of the document.

    The same seed gives the same text. An empty prompt begins a document. InputError for a model that fills masks, and
    for a prompt longer than the context.
    """
    if loaded.config.task == "mlm":
        raise InputError(f"{loaded.run} learned to fill masks, not to continue a text; use: phalanx fill {loaded.run}")
    tokenizer, context = loaded.tokenizer, loaded.context
    tokens = tokenizer.encode(prompt, specials=True) or ([] if tokenizer.eod is None else [tokenizer.eod])
    if not tokens:
        raise InputError("the prompt is empty, and this tokenizer has no token that begins a document; give some text")
    if len(tokens) > context:
        raise InputError(f"the prompt has {len(tokens)} tokens, the model's context {context}; shorten the prompt")
    return _pieces(loaded, tokens, options)


def _pieces(loaded: Loaded, tokens: list[int], options: Options) -> Iterator[str]:
    shown = len(loaded.tokenizer.decode(tokens))
    text = ""
    for token in _continue(loaded, tokens, options):
        tokens = [*tokens, token]
        text = loaded.tokenizer.decode(tokens)
        whole = len(text.removesuffix(_INCOMPLETE))
        if whole > shown:
            yield text[shown:whole]
            shown = whole
    if text[shown:]:
        yield text[shown:]


def _continue(loaded: Loaded, tokens: list[int], options: Options) -> Iterator[int]:
    generator = torch.Generator().manual_seed(options.seed)
    window = tokens
    for _ in range(options.tokens):
        token = choose(loaded.logits(window)[-1], options, generator)
        if token == loaded.tokenizer.eod:
            return
        yield token
        window = [*window, token][-loaded.context :]


def choose(logits: Tensor, options: Options, generator: torch.Generator) -> int:
    """The next token by its `logits` [vocab]."""
    if options.greedy:
        return int(logits.argmax())
    tokens, probabilities = candidates(logits, options)
    return int(tokens[torch.multinomial(probabilities, 1, generator=generator)])


def candidates(logits: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """The tokens to choose among, most likely first, and their probabilities, which sum to 1."""
    scores = (logits.double() - logits.max()) / options.temperature
    probabilities, tokens = scores.softmax(-1).sort(descending=True, stable=True)
    if options.top_k:
        probabilities, tokens = probabilities[: options.top_k], tokens[: options.top_k]
    probabilities = probabilities / probabilities.sum()
    before = probabilities.cumsum(-1) - probabilities
    kept = int((before < options.top_p).sum())
    return tokens[:kept], probabilities[:kept] / probabilities[:kept].sum()

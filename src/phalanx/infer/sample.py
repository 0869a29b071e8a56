"""The choice of the next token among those that a model thinks likely."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from phalanx.errors import InputError

LIKELY = 512  # tokens that mostly have top_p between them: all need not be sorted


@dataclass(frozen=True)
class Options:
    """Options of the choice of the next token. InputError for values out of range."""

    max_tokens: int = 100  # new tokens at most
    temperature: float = 1.0  # below 1 prefers the likely, above 1 the unlikely; 0 always takes the likeliest
    top_k: int = 0  # among the k most likely only; 0: among all
    top_p: float = 1.0  # among the fewest whose probabilities sum to p (arXiv 1904.09751); after top_k
    seed: int = 0
    logprobs: int | None = None  # wanted of each new token, and of so many of the likeliest at its place
    prompt_logprobs: bool = False  # of the prompt's tokens too

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken, whatever the other options are."""
        return self.temperature == 0

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("max_tokens", self.max_tokens >= 0, "0 or more"),
            ("temperature", 0 <= self.temperature < math.inf, "0, which always takes the likeliest token, or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("logprobs", self.logprobs is None or self.logprobs >= 0, "0 or more"),
        ):
            if not fits:
                raise InputError(f"{name}={getattr(self, name)} is out of range: it must be {wanted}")


def choose(logits: Tensor, options: Options, generator: torch.Generator) -> int:
    """Draw the next token by its `logits` [vocab] as `options` say; -1 where these are not finite."""
    if options.greedy:
        return int(likeliest(logits[None]))
    if not _finite(logits):
        return -1
    tokens, probabilities = candidates(logits, options)
    sums = probabilities.cumsum(-1)
    drawn = torch.rand(1, generator=generator, dtype=sums.dtype) * sums[-1]
    return int(tokens[torch.searchsorted(sums, drawn, right=True).clamp(max=len(sums) - 1)])


class Scored(NamedTuple):
    """A token of a text, the logarithm of its probability after those before it, and the likeliest tokens at its place
    with theirs. Nothing is known of a text's first token: None, and no others.
    """

    token: int
    logprob: float | None
    top: list[tuple[int, float]]


def scored(logits: Tensor, tokens: Sequence[int], top: int) -> list[Scored]:
    """Score `tokens`, each by its row of `logits` [tokens, vocab], beside the `top` likeliest; of temperature 1."""
    logs = logits.log_softmax(-1)
    own = logs[torch.arange(len(tokens)), torch.tensor(tokens, dtype=torch.long)].tolist()
    best = logs.topk(min(top, logs.shape[-1]))
    return [
        Scored(token, logprob, [*zip(others, values, strict=True)])
        for token, logprob, others, values in zip(tokens, own, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def likeliest(scores: Tensor) -> Tensor:
    """Return tokens, int64 [rows], by scores [rows, vocab]; -1 where these are not finite."""
    on_cpu = scores.device.type == "cpu"  # where numpy is ten times as fast
    best = torch.from_numpy(scores.numpy().argmax(-1)) if on_cpu else scores.argmax(-1)
    return best.where(_finite(scores), -1)


def _finite(scores: Tensor) -> Tensor:
    """Return which rows are finite, bool [rows]: a sum of what is not finite is not."""
    return scores.sum(-1).isfinite()


def candidates(logits: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Return the tokens to choose among, and their probabilities, which sum to 1: the likeliest first where not all
    are chosen among.
    """
    probabilities = ((logits - logits.max()).double() / options.temperature).softmax(-1)
    if not options.top_k and options.top_p == 1:
        return torch.arange(len(logits)), probabilities

    for most in (options.top_k or LIKELY, len(logits)):
        likely, tokens = probabilities.topk(min(most, len(logits)))
        share = likely / likely.sum() if options.top_k else likely
        before = share.cumsum(-1) - share
        kept = int((before < options.top_p).sum())
        if options.top_k or kept < len(likely):
            break

    return tokens[:kept], share[:kept] / share[:kept].sum()

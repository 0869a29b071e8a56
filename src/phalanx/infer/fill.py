"""Masked words guessed from both sides."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from phalanx.data.labelled import Encoded
from phalanx.errors import InputError
from phalanx.infer.abilities import refusal
from phalanx.infer.backends.protocol import EncoderProgram
from phalanx.infer.bundle import ModelBundle


class Blank(NamedTuple):
    """A mask's place among the tokens of the sequence, and its likeliest words with their probabilities."""

    position: int
    words: list[tuple[str, float]]


def fill(bundle: ModelBundle, text: str, top: int = 5) -> list[Blank]:
    """Return the `top` likeliest words of every mask in `text`, each mask guessed with the others still hidden.

    InputError for a model that continues text, a text without a mask or longer than the context.
    """
    tokens, positions = masked(bundle, text, top)
    return _blanks(bundle, bundle.logits(tokens)[positions], positions, top)


def fill_all(bundle: ModelBundle, asked: Sequence[tuple[str, int]], body: EncoderProgram) -> list[list[Blank]]:
    """Fill several texts together, each with its own `top`; `body` computes the hidden states under the head."""
    rows = [masked(bundle, text, top) for text, top in asked]
    hidden = body([Encoded(np.array(tokens), len(tokens)) for tokens, _ in rows])
    return [
        _blanks(bundle, _scores(bundle, torch.from_numpy(states[positions])), positions, top)
        for states, (_, positions), (_, top) in zip(hidden, rows, asked, strict=True)
    ]


def masked(bundle: ModelBundle, text: str, top: int) -> tuple[list[int], list[int]]:
    """Return the tokens of a text, and the positions of masks among them. InputError as in `fill`."""
    tokenizer, context = bundle.tokenizer, bundle.context
    if reason := refusal("fill", bundle.run, bundle.config, bundle.record):
        raise InputError(reason)
    frame = tokenizer.frame
    if tokenizer.mask is None or frame is None:
        raise InputError(f"the tokenizer of {bundle.run} has no mask, cls and sep tokens; train with one that has")
    if not 1 <= top <= tokenizer.vocab:
        raise InputError(f"top={top} is out of range: it must be 1 to {tokenizer.vocab}")

    tokens = [*frame.begin, *tokenizer.for_prompts().encode(text), *frame.end]
    positions = [i for i, token in enumerate(tokens) if token == tokenizer.mask]
    if not positions:
        name = tokenizer.decode([tokenizer.mask])
        raise InputError(f"the text has no {name}; write {name} in place of each word to guess")
    if len(tokens) > context:
        raise InputError(
            f"the text has {len(tokens)} tokens, both ends included, the model's context {context}; shorten it"
        )
    return tokens, positions


def _blanks(bundle: ModelBundle, scores: Tensor, positions: Sequence[int], top: int) -> list[Blank]:
    best, decode = scores.softmax(-1).topk(top), bundle.tokenizer.decode
    return [
        Blank(position, [(decode([i]), p) for i, p in zip(ids, probabilities, strict=True)])
        for position, ids, probabilities in zip(positions, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


@torch.inference_mode()
def _scores(bundle: ModelBundle, hidden: Tensor) -> Tensor:
    """Return the scores of the tokenizer's words at the masks alone: float32 [masks, vocab]."""
    model: Any = bundle.model
    logits: Tensor = model.masked(hidden.to(next(model.parameters()).device), model.words)
    return bundle.finite(logits[:, : bundle.tokenizer.vocab].float().cpu())

"""Masked words guessed from both sides."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from phalanx.data.labelled import Encoded
from phalanx.errors import InputError
from phalanx.infer.backends import Program
from phalanx.infer.loaded import Loaded


class Blank(NamedTuple):
    """A mask's place among the tokens of the sequence, and its likeliest words with their probabilities."""

    position: int
    words: list[tuple[str, float]]


def fill(loaded: Loaded, text: str, top: int = 5, body: Program | None = None) -> list[Blank]:
    """The `top` likeliest words of every mask in `text`, each mask guessed with the others still hidden. `body`
    computes what lies under the head, where a backend does.

    InputError for a model that continues text, a text without a mask or longer than the context.
    """
    tokenizer, context = loaded.tokenizer, loaded.context
    if loaded.config.task == "clm":
        raise InputError(
            f"{loaded.run} learned to continue a text, not to fill masks; use: phalanx generate {loaded.run}"
        )
    if loaded.config.model.head:
        raise InputError(f"{loaded.run} was fine-tuned for task={loaded.config.task}; fill with the run it was made of")
    if tokenizer.mask is None or tokenizer.cls is None or tokenizer.sep is None:
        raise InputError(f"the tokenizer of {loaded.run} has no mask, cls and sep tokens; train with one that has")
    if not 1 <= top <= tokenizer.vocab:
        raise InputError(f"top={top} is out of range: it must be 1 to {tokenizer.vocab}")
    tokens = [tokenizer.cls, *tokenizer.encode(text, specials=True), tokenizer.sep]
    positions = [i for i, token in enumerate(tokens) if token == tokenizer.mask]
    if not positions:
        name = tokenizer.decode([tokenizer.mask])
        raise InputError(f"the text has no {name}; write {name} in place of each word to guess")
    if len(tokens) > context:
        raise InputError(
            f"the text has {len(tokens)} tokens, both ends included, the model's context {context}; shorten it"
        )
    if body is None:
        scores = loaded.logits(tokens)[positions]
    else:
        (hidden,) = body([Encoded(np.array(tokens), len(tokens))])
        scores = _scores(loaded, torch.from_numpy(hidden[positions]))
    best = scores.softmax(-1).topk(top)
    return [
        Blank(position, [(tokenizer.decode([i]), p) for i, p in zip(ids, probabilities, strict=True)])
        for position, ids, probabilities in zip(positions, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


@torch.inference_mode()
def _scores(loaded: Loaded, hidden: Tensor) -> Tensor:
    """Of the tokenizer's words at the masks alone: float32 [masks, vocab]."""
    model: Any = loaded.model
    logits: Tensor = model.masked(hidden.to(next(model.parameters()).device), model.transformer.words)
    return loaded.finite(logits[:, : loaded.tokenizer.vocab].float().cpu())

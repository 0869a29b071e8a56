"""Score a trained model on prepared data: loss, perplexity, bits per byte, accuracies."""

import math
from pathlib import Path

import numpy as np

from phalanx import registry
from phalanx.data.source import Array
from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError
from phalanx.infer.load import load
from phalanx.tasks import sources
from phalanx.train.evaluate import OnProgress, evaluate, sample_numbers


def score(
    run: Path,
    data: str = "",
    limit: int | None = None,
    part: int = sources.VALID,
    best: bool = True,
    progress: OnProgress | None = None,
) -> dict[str, float]:
    """The run's model on the prepared set PREFIX, or its own `part` of held-out data, over `limit` sequences at most.

    For a causal model also `bits_per_byte` of the predicted text and `word_perplexity`, exp(nats ÷ words), where words
    are what white space separates. The nats of end-of-text tokens count, their names are no text. InputError for a set
    that another tokenizer made.
    """
    loaded = load(run, best)
    config = loaded.config
    if data:
        explicit = config.data.model_copy(update={"valid": (data,), "train": ()})
        if sources.tokenizer_of(explicit).json() != loaded.tokenizer.json():
            raise InputError(f"{data} was not prepared with the tokenizer of {run}; use {run}/tokenizer.json")
        config, part = config.model_copy(update={"data": explicit}), sources.VALID
    task = registry.TASKS.find(config.task)(config, loaded.tokenizer)
    source = sources.held_out(config.data, task.source, part)
    if source is None:
        raise InputError(f"{run} kept no such data apart for evaluation; name a prepared set with --data PREFIX")
    result = evaluate(loaded.model, task, source, config, limit, progress)
    if task.losses == ("lm",):
        labels = np.concatenate([source.sample(i, i).labels for i in sample_numbers(source, limit)])
        result |= _per_text(labels, loaded.tokenizer, result["loss"] * result["tokens"])
    return result


def _per_text(labels: Array, tokenizer: Tokenizer, nats: float) -> dict[str, float]:
    """The loss per byte and per word of the text that was predicted."""
    end = labels == (-1 if tokenizer.eod is None else tokenizer.eod)
    pieces = np.split(labels[~end], np.cumsum(~end)[end])
    texts = [tokenizer.decode(piece) for piece in pieces]
    size, words = sum(len(text.encode()) for text in texts), sum(len(text.split()) for text in texts)
    return {
        "bits_per_byte": nats / math.log(2) / max(size, 1),
        "word_perplexity": math.exp(min(nats / max(words, 1), 700.0)),
        "bytes": float(size),
        "words": float(words),
    }

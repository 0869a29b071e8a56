"""Score a trained model on prepared data: loss, perplexity, bits per byte, accuracies."""

import math
from pathlib import Path

import numpy as np

from phalanx import registry
from phalanx.data.source import Source
from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError
from phalanx.infer.load import load
from phalanx.tasks import sources
from phalanx.train.evaluate import Progress, evaluate


def score(
    run: Path, data: str = "", limit: int | None = None, best: bool = True, progress: Progress | None = None
) -> dict[str, float]:
    """The run's model on the prepared set PREFIX (its own held-out data when empty), over `limit` sequences at most.

    For a causal model also `bits_per_byte` of the predicted text and `word_perplexity`, exp(nats ÷ words), where words
    are what white space separates. InputError for a set of another vocabulary.
    """
    loaded = load(run, best)
    config = loaded.config
    if data:
        explicit = config.data.model_copy(update={"valid": (data,), "train": ()})
        found = sources.tokenizer_of(explicit).vocab
        if found != loaded.tokenizer.vocab:
            raise InputError(f"{data} has {found} tokens in its vocabulary, but {run} knows {loaded.tokenizer.vocab}")
        config = config.model_copy(update={"data": explicit})
    task = registry.find("task", registry.TASKS, config.task)(config, loaded.tokenizer, train=False)
    if task.valid is None:
        raise InputError(f"{run} kept no data apart for evaluation; name a prepared set with --data PREFIX")
    micro_batch = config.layout.micro_batch
    result = evaluate(loaded.model, task, task.valid, config.model.positions, micro_batch, limit, progress)
    if task.losses == ("lm",):
        result |= _per_text(task.valid, loaded.tokenizer, result)
    return result


def _per_text(source: Source, tokenizer: Tokenizer, result: dict[str, float]) -> dict[str, float]:
    """The loss per byte and per word of the text that was predicted."""
    labels = [source.sample(i, i).labels for i in range(int(result["samples"]))]
    text = tokenizer.decode(np.concatenate(labels))
    nats = result["loss"] * result["tokens"]
    bytes_, words = len(text.encode()), len(text.split())
    return {
        "bits_per_byte": nats / math.log(2) / bytes_,
        "word_perplexity": math.exp(min(nats / max(words, 1), 700.0)),
        "bytes": float(bytes_),
        "words": float(words),
    }

"""Loss on held-out samples: sums over all of them, divided once."""

import math
from collections.abc import Callable

import torch
from torch import nn

from phalanx.data.source import Source
from phalanx.train.task import Task, make_batch

Progress = Callable[[int, int], None]


def evaluate(model: nn.Module, task: Task, source: Source, positions: int, micro_batch: int,
             limit: int | None = None, progress: Progress | None = None) -> dict[str, float]:  # fmt: skip
    """Held-out loss in nats, perplexity of the first loss, and accuracies, over the first `limit` samples in order.

    Every loss is reported by its name beside their sum `loss`; `tokens` counts the positions of the first.
    """
    samples = len(source) if limit is None else min(limit, len(source))
    device = next(model.parameters()).device
    sums: dict[str, float] = {}
    counts: dict[str, int] = dict.fromkeys(task.losses, 0)
    training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, samples, micro_batch):
            stop = min(start + micro_batch, samples)
            # the epoch's own order in place of a random draw: the same masks at every evaluation
            batch = make_batch([source.sample(i, i) for i in range(start, stop)], positions, 0, 0).to(device)
            for name, value in model(batch).items():
                sums[name] = sums.get(name, 0.0) + value.item()
            for name, count in task.counts(batch).items():
                counts[name] += int(count)
            if progress:
                progress(stop, samples)
    model.train(training)
    means = {name: sums[name] / counts[name] for name in task.losses if counts[name]}
    first = task.losses[0]
    accuracies = {f"{name}_accuracy": sums[f"{name}_correct"] / counts[name] for name in means}
    result = {"loss": sum(means.values()), "perplexity": math.exp(min(means[first], 700.0)), **accuracies}
    if len(means) > 1:
        result |= {f"{name}_loss": mean for name, mean in means.items()}
    return result | {"tokens": float(counts[first]), "samples": float(samples)}

"""Loss on held-out samples: sums over all of them, divided once."""

import math
from collections.abc import Callable

import torch
from torch import nn

from phalanx.config import Config
from phalanx.data.order import Permutation
from phalanx.data.source import Source
from phalanx.train.task import Task, make_batch

Progress = Callable[[int, int], None]


def sample_numbers(source: Source, limit: int | None) -> list[int]:
    """All samples in order, or `limit` of them from all over the source, always the same."""
    if limit is None or limit >= len(source):
        return list(range(len(source)))
    order = Permutation(len(source), 0)
    return sorted(order(i) for i in range(limit))


def evaluate(
    model: nn.Module,
    task: Task,
    source: Source,
    config: Config,
    limit: int | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Held-out loss in nats, perplexity of the first loss, and accuracies, over `limit` samples at most.

    Every loss is reported by its name beside their sum `loss`; `tokens` counts the positions of the first.
    """
    numbers, size = sample_numbers(source, limit), config.layout.micro_batch
    device = next(model.parameters()).device
    sums: dict[str, float] = {}
    counts: dict[str, int] = dict.fromkeys(task.losses, 0)
    training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(numbers), size):
            picked = numbers[start : start + size]
            # the epoch's own order in place of a random draw: the same masks at every evaluation
            batch = make_batch([source.sample(i, i) for i in picked], config.model.positions, 0, 0).to(device)
            for name, value in model(batch).items():
                sums[name] = sums.get(name, 0.0) + value.item()
            for name, count in task.counts(batch).items():
                counts[name] += int(count)
            if progress:
                progress(start + len(picked), len(numbers))
    model.train(training)
    means = {name: sums[name] / counts[name] for name in task.losses if counts[name]}
    first = task.losses[0]
    accuracies = {f"{name}_accuracy": sums[f"{name}_correct"] / counts[name] for name in means}
    result = {"loss": sum(means.values()), "perplexity": math.exp(min(means[first], 700.0)), **accuracies}
    if len(means) > 1:
        result |= {f"{name}_loss": mean for name, mean in means.items()}
    return result | {"tokens": float(counts[first]), "samples": float(len(numbers))}

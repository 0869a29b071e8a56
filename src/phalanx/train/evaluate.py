"""Loss on held-out samples: sums over all of them, divided once."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from phalanx import registry
from phalanx.config import Config
from phalanx.data.order import Permutation
from phalanx.data.source import Array, Source, ask
from phalanx.errors import InputError
from phalanx.models.family import spec_of
from phalanx.nn.batch import Batch
from phalanx.parallel.context_parallel import gather_sequence, slice_batch
from phalanx.parallel.mesh import Axis, Mesh
from phalanx.runtime.on_all_ranks import gather_objects
from phalanx.train.collate import make_batch, trimmed
from phalanx.train.task import Task, counts_of

OnProgress = Callable[[int, int], None]


def sample_numbers(source: Source, limit: int | None) -> list[int]:
    """All samples in order, or `limit` of them from all over the source, always the same."""
    if limit is None or limit >= len(source):
        return list(range(len(source)))
    order = Permutation(len(source), 0)
    return sorted(order(i) for i in range(limit))


def evaluate(
    model: nn.Module, task: Task, source: Source, config: Config, limit: int | None = None, mesh: Mesh | None = None
) -> dict[str, float]:
    """The values of an evaluation."""
    return answered(model, task, source, config, limit, None, mesh)[0]


def answered(
    model: nn.Module,
    task: Task,
    source: Source,
    config: Config,
    limit: int | None = None,
    progress: OnProgress | None = None,
    mesh: Mesh | None = None,
) -> tuple[dict[str, float], list[Array]]:
    """Held-out loss in nats, perplexity of the first loss, and accuracies, over `limit` samples at most. Of a labelled
    task, whose sources have no more examples than are wanted, what it makes of the model's answers to all samples, and
    these.

    Every loss is reported by its name beside their sum `loss`; `tokens` counts the positions of the first. Laid out
    over a `mesh`, every rank calls this and gets the same.
    """
    limit = None if task.labelled else limit
    numbers, size, mesh = sample_numbers(source, limit), config.layout.micro_batch, mesh or Mesh()
    device = next(model.parameters()).device
    names = [name for loss in task.losses for name in (loss, f"{loss}_correct")]
    # in float64: over millions of positions the order of batches, which the layout decides, does not show
    sums = torch.zeros(len(names), dtype=torch.float64)
    answers: dict[int, Array] = {}
    counts = torch.zeros(len(task.losses), dtype=torch.float64)

    training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(numbers), size * mesh.dp.size):
            picked = numbers[start + size * mesh.dp.rank :][:size]
            batch = slice_batch(_batch(task, source, picked, size, config, mesh).to(device), mesh.cp)
            outputs = model(batch)

            if task.labelled and "answers" in outputs:
                rows = outputs["answers"]
                if rows.ndim > 2:
                    rows = gather_sequence(rows, mesh.cp)
                if mesh.tp.rank == mesh.cp.rank == 0:  # the others have the same, or not the first position
                    answers |= zip(picked, rows.float().cpu().numpy(), strict=False)

            sums += torch.stack([torch.as_tensor(outputs.get(name, 0.0)).double().cpu() for name in names])
            batch_counts = counts_of(task, batch, config.task)
            counts += torch.stack([torch.as_tensor(batch_counts.get(name, 0)).double().cpu() for name in task.losses])
            if progress:
                progress(min(start + size * mesh.dp.size, len(numbers)), len(numbers))
    model.train(training)

    # losses lie on the last stage alone, and alike on the ranks of tp; counts every stage has, and every rank of tp
    sums, counts = _everywhere(sums / mesh.tp.size, mesh.world), _everywhere(counts, mesh.data)
    result = _result(task, dict(zip(names, sums.tolist(), strict=True)), counts.tolist(), len(numbers))
    if not task.labelled:
        return result, []

    answers = _gathered(answers, mesh.world)
    in_order = [answers[number] for number in numbers]
    return result | _judged(task, config, in_order, source), in_order


def _judged(task: Task, config: Config, answers: list[Array], source: Source) -> dict[str, float]:
    """Return what a labelled task makes of the answers. InputError where one from outside gives no finite numbers."""
    with registry.blamed("task", config.task, "judge()"):
        scores = task.judge(answers, source)
    if registry.from_outside(config.task):
        numbers = isinstance(scores, dict) and all(
            isinstance(value, int | float | np.number) and math.isfinite(value) for value in scores.values()
        )
        if not numbers or task.best_by not in {"loss", *scores}:
            raise InputError(
                f"task={config.task}: judge() gave {scores!r:.80}; a finite number for {task.best_by} is wanted"
            )
    return {name: float(value) for name, value in scores.items()}


def _gathered(answers: dict[int, Array], axis: Axis) -> dict[int, Array]:
    """Every rank's answers by sample."""
    parts = gather_objects(answers, axis.group)
    return {number: answer for part in parts for number, answer in part.items()}


def _batch(task: Task, source: Source, picked: list[int], size: int, config: Config, mesh: Mesh) -> Batch:
    """Samples `picked`; where other ranks wait for as many rows as they have themselves, filled up with blank ones."""
    # the epoch's own order in place of a random draw: the same masks at every evaluation
    data = config.data
    samples = ask(lambda i: source.sample(i, i), picked, (*data.train, *data.valid, *data.test))
    if mesh.world.size > 1 and len(samples) < size:
        blank = source.sample(0, 0)
        blank = blank._replace(labels=np.full_like(blank.labels, -1), related=min(blank.related, -1), value=math.nan)
        samples += [blank] * (size - len(samples))
    batch = make_batch(samples, spec_of(config.model).positions, 0, 0, restart=config.data.restart_positions)
    return trimmed(batch, samples, config) if task.labelled else batch


def _everywhere(values: Tensor, axis: Axis) -> Tensor:
    """The sum over an axis, in float64 on the CPU."""
    if axis.size > 1:
        dist.all_reduce(values, group=axis.group)
    return values


def _result(task: Task, sums: dict[str, float], counts: list[float], samples: int) -> dict[str, float]:
    means = {name: sums[name] / count for name, count in zip(task.losses, counts, strict=True) if count}
    first = task.losses[0]
    if not task.labelled and first not in means:
        raise InputError(f"none of the {samples} held-out samples has a label to judge the loss {first} by")
    result = {"loss": sum(means.values())} | (
        {} if task.labelled else {"perplexity": math.exp(min(means[first], 700.0))}
    )
    counted = dict(zip(task.losses, counts, strict=True))
    result |= {} if task.labelled else {f"{name}_accuracy": sums[f"{name}_correct"] / counted[name] for name in means}
    if len(means) > 1:
        result |= {f"{name}_loss": mean for name, mean in means.items()}
    return result | {"tokens": counted[first], "samples": float(samples)}

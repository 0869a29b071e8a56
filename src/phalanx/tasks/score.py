"""`phalanx eval`: a run's model on its own kind of data, on labelled files, or on a published task."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phalanx import registry
from phalanx.config import Config
from phalanx.data.indexed import set_paths
from phalanx.data.source import Array
from phalanx.data.source_names import names_source
from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError
from phalanx.tasks import sources, zeroshot
from phalanx.tasks.benchmarks import BENCHMARKS, columns, files
from phalanx.tasks.distributed_model import DistributedModel, distributed_model
from phalanx.tasks.preflight import task_of
from phalanx.tasks.scores import MEANINGS, Scores
from phalanx.train.evaluate import OnProgress, sample_numbers


def score(
    run: Path,
    benchmark: str = "",
    data: str = "",
    limit: int | None = None,
    part: int = sources.VALID,
    stride: int = zeroshot.STRIDE,
    best: bool = True,
    overrides: Sequence[str] = (),
    progress: OnProgress | None = None,
) -> Scores:
    """Return the scores of the run's model on a benchmark's `data`, over `limit` examples at most.

    Without a benchmark it is judged on the run's own kind of data, which `data` names, or on its own `part` of held-out
    data. Every process of the layout in `overrides` gets the same scores. InputError for an unknown benchmark, and for
    data that are not the benchmark's.
    """
    if benchmark and benchmark not in zeroshot.TASKS and benchmark not in BENCHMARKS and benchmark != "glue":
        raise InputError(f"no task {benchmark!r}; use one of {', '.join([*zeroshot.TASKS, 'glue', *BENCHMARKS])}")
    if benchmark and not data:
        raise InputError(f"--task {benchmark} needs its data: --data FILE")

    with distributed_model(run, overrides, best) as model:
        if benchmark in zeroshot.TASKS:
            return zeroshot.TASKS[benchmark](model, Path(data), limit, stride, progress)
        if registry.TASKS.find(model.config.task).labelled:
            return _labelled(model, benchmark, data, limit, progress)
        if benchmark:
            raise InputError(
                f"{run} has no head for {benchmark}; make one: phalanx tune {run} --task {benchmark} --data …"
            )
        return _prepared(model, data, limit, part, progress)


def _labelled(model: DistributedModel, name: str, data: str, limit: int | None, progress: OnProgress | None) -> Scores:
    """Score on labelled files: the run's own held-out ones, others of their form, or those of a benchmark."""
    config, files_ = model.config, [data] if data else [*model.config.data.valid]
    if name and name != "glue":
        config, files_ = _as_published(model, name, data)
    elif data and Path(data).is_dir():
        raise InputError(f"{data} is a folder; name the file, or with --task what is in the folder")

    task: Any = task_of(config, model.tokenizer)
    if not files_ and not config.data.split[1]:
        raise InputError(f"{model.run} held no examples out; name a file with --data")
    source = task.of(files_, limit) if files_ else task.valid
    values, answers = model.evaluate(task, source, progress=progress)
    values = {key: value for key, value in values.items() if key not in ("tokens", "samples")}
    with registry.blamed("task", config.task, "predictions()"):
        predictions = task.predictions(answers, source)
    return Scores(values, MEANINGS, len(source.examples), predictions)


def _as_published(model: DistributedModel, name: str, data: str) -> tuple[Config, list[str]]:
    """Return the configuration that reads a benchmark's files, and those to judge by. InputError without any."""
    benchmark, config = BENCHMARKS[name], model.config
    if benchmark.task != config.task:
        raise InputError(f"{model.run} was tuned for task={config.task}, and {name} is of task={benchmark.task}")
    matches = files(Path(data), benchmark.valid)
    if not matches:
        raise InputError(f"{data} has none of {', '.join(benchmark.valid)}; name the file itself")

    update: dict[str, Any] = {"form": benchmark.form}
    if benchmark.form == "table":
        own = columns(benchmark, matches[0])
        update |= {"text": own.text, "pair": own.pair, "label": own.label}
    return config.model_copy(update={"examples": config.examples.model_copy(update=update)}), matches


def _prepared(model: DistributedModel, data: str, limit: int | None, part: int, progress: OnProgress | None) -> Scores:
    """Score on a prepared set; a causal model also by `bits_per_byte` of the predicted text and `word_perplexity`. The
    nats of end-of-text tokens count, their names are no text.
    """
    config = model.config
    if data:
        if Path(data).is_file() and not set_paths(data)[0].exists():
            raise InputError(
                f"{data} is no prepared set; if it is text, judge it with: --task perplexity --data {data}"
            )
        explicit = config.data.model_copy(update={"valid": (data,), "train": ()})
        own = names_source(data)  # which takes any tokenizer
        if not own and not sources.tokenizer_of(explicit).same_ids(model.tokenizer):
            raise InputError(f"{data} was not prepared with the tokenizer of {model.run}; use its tokenizer.json")
        config, part = config.model_copy(update={"data": explicit}), sources.VALID

    task: Any = task_of(config, model.tokenizer)
    source = task.held_out(part)
    if source is None:
        raise InputError(f"{model.run} kept no such data apart for evaluation; name a prepared set with --data PREFIX")

    values, _ = model.evaluate(task, source, limit, progress)
    if task.losses == ("lm",):
        labels = np.concatenate([source.sample(i, i).labels for i in sample_numbers(source, limit)])
        values |= _per_text(labels[labels >= 0], model.tokenizer, values["loss"] * values["tokens"])
    return Scores(values, MEANINGS, int(values["samples"]))


def _per_text(labels: Array, tokenizer: Tokenizer, nats: float) -> dict[str, float]:
    """Return the loss per byte and per word of the text that was predicted, from the nats of all its labels."""
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

"""From what was asked for to what will run: every value that depends on another, on the data or on the machine.

Train, check, eval, plan, trace, scale and a cluster's job all come this way, so what one of them says of a run holds
for the others. It happens once: the result is written into the run folder and never changes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phalanx import registry
from phalanx.config import Config
from phalanx.data.source_names import is_remote, names_source
from phalanx.errors import InputError
from phalanx.heads.head import head_of
from phalanx.models.family import family, sketch_of, spec_of
from phalanx.spec.costs import decoders, flops_per_token
from phalanx.spec.model import Spec
from phalanx.train.layouts import filled, processes_of
from phalanx.train.misfit import layout_misfit
from phalanx.train.schedule import batch_size, check_schedule

# Compiling takes about a minute on a CPU and saves up to a third of every step after: worth it above this much work.
_COMPILE_FLOPS = {"cpu": 1e15, "cuda": 1e17}


def _bf16(dtype: str) -> str:
    """Return precision.dtype, "auto" being bf16: the default where no hardware is asked."""
    return "bf16" if dtype == "auto" else dtype


@dataclass(frozen=True)
class Target:
    """Where a run is to take place, and what is there of its data. By default neither is known: it is only planned.

    `train.machine.this_machine` makes the target that this machine is.
    """

    processes: int = 0
    """Of the run; 0: as many as the layout names."""
    device: str = "cpu"
    """cpu or cuda."""
    precision: Callable[[str], str] = _bf16
    """Makes precision.dtype definite. InputError for numbers that the device has not."""
    compiler: bool = False
    """Whether train.compile=auto may be on."""
    vocab: int = 0
    """Tokens of the data's tokenizer; 0 where the data are not at hand."""
    files: bool = False
    """Whether labelled files may be read, to learn from them what the model's head must be."""


def resolve(asked: Config, target: Target) -> Config:
    """Return the configuration with nothing left open, on a target. InputError for what cannot run there.

    What was resolved stays as it is.
    """
    config = _with_head(asked, target)
    config = _with_vocabulary(config, target)
    _check(config)
    config = _placed(config)

    dtype, compiled = target.precision(config.precision.dtype), _compiled(config, target)
    config = config.updated(train={"device": target.device, "compile": compiled}, precision={"dtype": dtype})

    processes = target.processes or processes_of(config.layout)
    if reason := layout_misfit(config, processes):
        raise InputError(reason)
    # examples.metric="" stays, for the task's own: a name would be another setting than that of runs that were begun so
    return filled(config, processes)


def _with_head(config: Config, target: Target) -> Config:
    """Return the configuration with the head that its task trains, as large as its files say, or model.classes where
    they are not at hand.

    InputError for a task that the model does not learn.
    """
    task, pretraining = config.task, family(config.model.family).TASK
    if task == pretraining:
        if tuned := head_of(sketch_of(config.model)):
            raise InputError(f"task={task} does not train model.head={tuned.part.loss}; use task={tuned.task}")
        return config

    kind: Any = registry.TASKS.find(task)  # imports torch, which pretraining is planned without
    if target.files:
        with registry.blamed("task", task, "fitted(), or the reading of its files,"):
            fitted: Config = kind.fitted(config)
        if head_of(sketch := sketch_of(fitted.model)) and min(_widths(sketch)) < 1:
            raise InputError(
                f"task={task}: its head gives no numbers; fitted() sets model.classes, or width() says how many"
            )
        return fitted

    names, model = kind.losses, config.model
    losses = set(names) if isinstance(names, tuple) else {task}  # a property, as mlm's, is known with its data alone
    if kind.labelled and not losses <= {*sketch_of(model).losses}:
        model = model.tuned(getattr(kind, "head", ""))
    spec = sketch_of(model)
    if not losses <= {*spec.losses}:
        raise InputError(f"task={task} is not for model.family={model.family}; use task={pretraining}")
    head = head_of(spec)
    if min(_widths(spec)) < 1 or (head and head.grouped and not head.part.candidates):
        raise InputError(f"task={task} has as many classes, or candidates, as its data say; set model.classes")
    return config.model_copy(update={"model": model})


def _widths(spec: Spec) -> list[int]:
    """Return how many numbers each product of a model's heads gives."""
    return [matrix.outputs.size for part in spec.heads for _, matrix in part.matrices()]


def _with_vocabulary(config: Config, target: Target) -> Config:
    """Return the configuration with as many words as the data's tokenizer has; where that is not at hand, as the
    bundled one that is named has, or as is usual for the model. InputError where nothing says how many.
    """
    asked = config.model.vocab
    if 0 < asked < target.vocab:
        raise InputError(f"model.vocab={asked} but the data's tokenizer has {target.vocab} tokens; leave model.vocab=0")
    vocab = asked or target.vocab or registry.TOKENIZERS.get(config.data.tokenizer) or config.model.usual_vocab
    if not vocab:
        raise InputError(
            f"how many tokens model.family={config.model.family} has is not known without data; set model.vocab"
        )
    return config.updated(model={"vocab": vocab})


def _check(config: Config) -> None:
    """Raise InputError for what cannot run anywhere."""
    spec, data = spec_of(config.model), config.data
    if data.sequence > spec.positions:
        raise InputError(
            f"data.sequence={data.sequence} is longer than model.positions={spec.positions}; lower it or raise those"
        )
    if config.task == "mlm" and data.pairs != "none":
        if "nsp" not in spec.losses:
            raise InputError(
                f"model.family={config.model.family} has no head for data.pairs={data.pairs}; use data.pairs=none"
            )
        if spec.segments == 1:
            raise InputError(
                f"model.segments=1 but data.pairs={data.pairs} makes two segments; use 2, or data.pairs=none"
            )
    if data.restart_positions and not (data.stop_at_documents or any(map(names_source, data.train))):
        raise InputError(
            "data.restart_positions=true needs to know where documents end; set data.stop_at_documents=true"
        )
    if config.train.z_loss and not any(decoders(spec)):
        raise InputError(f"train.z_loss is of the softmax over the vocabulary, and task={config.task} has none; set 0")
    check_schedule(config)


def _placed(config: Config) -> Config:
    """Return the configuration with the sets, the tokenizer and train.init by absolute paths, so that a run continues
    from any working directory.
    """
    data = config.data
    sets = {name: tuple(map(_absolute, getattr(data, name))) for name in ("train", "valid", "test")}
    tokenizer = data.tokenizer if data.tokenizer in registry.TOKENIZERS else _absolute(data.tokenizer)
    return config.updated(data={**sets, "tokenizer": tokenizer}, train={"init": _absolute(config.train.init)})


def _absolute(path: str) -> str:
    """Return a path, or PREFIX@weight, from the root on; "", URLs and module:Name stay as they are."""
    return str(Path(path).absolute()) if path and not is_remote(path) and not names_source(path) else path


def _compiled(config: Config, target: Target) -> str:
    """Return whether blocks are compiled: on or off."""
    if config.train.compile != "auto":
        return config.train.compile
    if not target.compiler or config.layout.schedule == "zbv":
        return "off"
    spec = spec_of(config.model)
    if target.device == "cpu" and spec.tuned:
        return "off"  # most of such rows is padding, which only blocks that are not compiled leave out there
    sequences = config.train.steps * batch_size(config.train.steps, config.train)
    work = sequences * config.data.sequence * flops_per_token(spec, config.data.sequence)
    return "on" if work > _COMPILE_FLOPS[target.device] else "off"

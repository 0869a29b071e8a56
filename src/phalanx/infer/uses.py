"""What can be done with a model: asked of its description, of the heads and tasks that there are, of backends and of
converters, so that what is new among any of these is told without a word here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from phalanx import registry
from phalanx.config import Config, ModelConfig
from phalanx.convert import huggingface, megatron, sources
from phalanx.errors import InputError
from phalanx.heads.head import head_class
from phalanx.infer import abilities, backends
from phalanx.infer.traced import untraceable
from phalanx.models.family import family, spec_of
from phalanx.precision.prepacked import NUMBERS
from phalanx.run.import_record import ImportRecord

PRECISIONS = tuple(NUMBERS)
CLASSES = 2  # of a head that a model is tried with


class Uses(NamedTuple):
    """The uses of a model.

    `pretrain` is the task of its pretraining, `tune` has names for `phalanx tune --task`, `verbs` those that ask it.
    `refused` has the verbs it was made for that cannot be used, `backends` the precisions that each backend has for it,
    `exports` the formats it goes out in; where one will not do there is the reason instead, in `backends` for none.
    """

    pretrain: str
    tune: tuple[str, ...]
    verbs: tuple[str, ...]
    refused: Mapping[str, str]
    backends: Mapping[str, tuple[str, ...] | str]
    exports: Mapping[str, str]


def uses_of(name: str, config: Config, record: ImportRecord) -> Uses:
    """Return what can be done here with a model that a user calls `name`."""
    spec = spec_of(config.model)
    verbs = ("generate",) if spec.causal else abilities.verbs(config)
    reasons = {verb: "" if spec.causal else abilities.refusal(verb, Path(name), config, record) for verb in verbs}
    return Uses(
        family(config.model.family).TASK,
        tunable(config.model),
        tuple(verb for verb, reason in reasons.items() if not reason),
        {verb: reason for verb, reason in reasons.items() if reason},
        {backend: _computed(backend, config.model) for backend in backends.NAMES},
        exports(config.model),
    )


def tunable(model: ModelConfig) -> tuple[str, ...]:
    """Return the tasks on labelled files that can train a model, as `phalanx tune --task` names them."""
    kinds: dict[str, Any] = {name: registry.TASKS.find(name) for name in registry.TASKS.places}
    fitting = [(name, kind.head) for name, kind in kinds.items() if kind.labelled and _trains(kind, model)]
    return tuple(head_class(head).example or name if head else name for name, head in fitting)


def _trains(task: Any, model: ModelConfig) -> bool:
    """Return whether a task on labelled files can train a model: with a head of its own, or with those it has."""
    if not task.head:
        return set(task.losses) <= {*spec_of(model).losses}
    try:
        spec_of(model.tuned(task.head, CLASSES))
    except InputError:
        return False
    return True


def _computed(backend: str, model: ModelConfig) -> tuple[str, ...] | str:
    """Return the precisions in which a backend computes a model here, or why in none."""
    spec = spec_of(model)
    kind: backends.Kind = "decoder" if spec.causal else "encoder"
    reasons = {precision: backends.unavailable(backend, kind, spec, precision) for precision in PRECISIONS}
    return tuple(each for each, reason in reasons.items() if not reason) or reasons[PRECISIONS[0]]


def _no_gguf(model: ModelConfig) -> str:
    """Return why a model does not become a GGUF file, or why none can be written here; "" if it does."""
    try:
        return str(sources.gguf().unexportable(model))
    except InputError as error:
        return str(error)


def exports(model: ModelConfig) -> dict[str, str]:
    """Return the formats of `phalanx export --to`, each with why a model does not go out in it, or ""."""
    spec = spec_of(model)
    return {
        "hf": huggingface.unexportable(model),
        "gguf": _no_gguf(model),
        "megatron": megatron.unexportable(model),
        "onnx": backends.missing_package("onnx", "onnxscript") or untraceable(spec),
    }

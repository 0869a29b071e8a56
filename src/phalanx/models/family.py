"""What a model family is, and from a [model] section to the description of its model."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

from phalanx import registry
from phalanx.config import ModelConfig
from phalanx.errors import InputError
from phalanx.models.hugging_face import HuggingFace
from phalanx.spec.model import Spec

Section = Mapping[str, Any]  # of [model]


class Family(Protocol):
    """A model family: an object by its name in the registry, or by "module:Name".

    A family that Hugging Face has too says so in an attribute HUGGING_FACE, by model_type.
    """

    @property
    def TASK(self) -> str:
        """The task that it is pretrained by."""
        ...

    @property
    def DEFAULTS(self) -> Section:
        """What its presets have in common."""
        ...

    @property
    def PRESETS(self) -> Mapping[str, Section]:
        """Named [model] sections."""
        ...

    def spec(self, model: ModelConfig) -> Spec:
        """Return the description of the model that a [model] section configures."""
        ...


def family(name: str) -> Family:
    """Return the family of that name. InputError where there is none."""
    return registry.MODELS.find(name)


def hugging_face(name: str) -> Mapping[str, HuggingFace]:
    """Return what a family's models are at Hugging Face, by model_type. InputError where there is no such family."""
    found: Mapping[str, HuggingFace] = getattr(family(name), "HUGGING_FACE", {})
    return found


@cache
def spec_of(model: ModelConfig) -> Spec:
    """Return the description of the model that a [model] section configures. InputError for sizes that no model can
    have.
    """
    check(model)
    return family(model.family).spec(model)


def with_preset(section: Section) -> dict[str, Any]:
    """A [model] section over its preset, and that over what its family has in common."""
    kind = family(section.get("family", "gpt2"))
    preset = section.get("preset", "")
    if preset and preset not in kind.PRESETS:
        raise InputError(f"model.preset={preset} is unknown; use one of {', '.join(kind.PRESETS)}")
    return {**kind.DEFAULTS, **kind.PRESETS.get(preset, {}), **section}


def check(config: ModelConfig) -> None:
    """Raise InputError for sizes that no model can have."""
    if config.hidden % config.heads:
        fits = [n for n in range(1, config.hidden // 16 + 1) if config.hidden % n == 0]
        near = sorted(fits, key=lambda n: abs(n - config.heads))[:4]
        choice = ", ".join(map(str, sorted(near))) or "1"
        raise InputError(f"model.heads={config.heads} does not divide model.hidden={config.hidden}; use {choice}")
    if config.vocab == 0:
        raise InputError("model.vocab=0 and no tokenizer to take it from; set model.vocab")

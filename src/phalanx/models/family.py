"""Model families, and the way from a [model] section to the description of its model."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Protocol

from phalanx import registry
from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.model_config import FAMILY, ModelConfig, model_section, section_of
from phalanx.models.hugging_face import HuggingFace
from phalanx.spec.model import Spec
from phalanx.spec.sound import flaw

Preset = Mapping[str, Any]  # keys of [model]


def sized(layers: int, hidden: int, heads: int) -> Preset:
    """Return the keys of a preset that is nothing but a size."""
    return {"layers": layers, "hidden": hidden, "heads": heads}


class Family(Protocol):
    """A model family: an object by its name in the registry, or by "module:Name".

    A family that Hugging Face has too says so in an attribute HUGGING_FACE, by model_type.
    """

    @property
    def TASK(self) -> str:
        """The task that the family is pretrained by."""
        ...

    @property
    def Config(self) -> type[ModelConfig]:
        """The family's [model] section: keys, each with a default and a help text, and `spec`, the model that they
        describe.
        """
        ...

    @property
    def PRESETS(self) -> Mapping[str, Preset]:
        """Named [model] sections."""
        ...


def family(name: str) -> Family:
    """Return the family of that name. InputError where there is none."""
    entry: Family = registry.MODELS.find(name)
    return entry


def hugging_face(name: str) -> Mapping[str, HuggingFace]:
    """Return what a family's models are at Hugging Face, by model_type. InputError where there is no such family."""
    forms: Mapping[str, HuggingFace] = getattr(family(name), "HUGGING_FACE", {})
    return forms


def configured(**keys: Any) -> ModelConfig:
    """Return a [model] section with these keys, validated by the class of its family."""
    return model_section(keys)


@cache
def spec_of(model: ModelConfig) -> Spec:
    """Return the description of the model that a [model] section configures. InputError for sizes that no model can
    have, and for a description that does not hold together.
    """
    spec = described(model)
    return _first(replace(spec, blocks=tuple(_first(block) for block in spec.blocks)))  # type: ignore[no-any-return]


def described(model: ModelConfig) -> Spec:
    """Return the same without keeping it, of a section from a file that may promise millions of layers."""
    check(model)
    with registry.blamed("model.family", model.family, "spec()"):
        spec = model.spec()
    where = f"model.family={model.family}"
    if not isinstance(spec, Spec):
        raise InputError(f"{where}: spec() is to return a phalanx.spec.model.Spec, not {type(spec).__name__}")
    if why := flaw(spec) or _unlike_its_section(spec, model):
        raise InputError(f"{where}: its spec: {why}")
    return spec


def _unlike_its_section(spec: Spec, model: ModelConfig) -> str:
    """Return how a sound description is of another model than the keys of its section; "" if it is not."""
    assert spec.embeddings is not None
    if len(spec.blocks) != model.layers:
        return f"transformer.blocks has {len(spec.blocks)} blocks, and model.layers={model.layers}"
    if (rows := spec.embeddings.token.rows.size) < model.vocab:
        return f"transformer.embeddings.token has {rows} rows, and model.vocab={model.vocab}"
    return ""


@cache
def _first(part: Any) -> Any:
    """Return the first of equal parts, so that what is kept about it is found without comparing all its values."""
    return part


def sketch_of(model: ModelConfig) -> Spec:
    """Return the description as far as it is known before there is a tokenizer: of one word where `vocab` is open."""
    return spec_of(model.model_copy(update={"vocab": model.vocab or 1}))


def context_of(config: Config) -> int:
    """Return the tokens that a run's model has learned to see at once: positions past its sequences are noise."""
    return min(spec_of(config.model).positions, config.data.sequence)


def with_preset(section: Preset) -> dict[str, Any]:
    """Return a [model] section laid over its preset. InputError for a preset that its family has not."""
    name, preset = section.get("family", FAMILY), section.get("preset", "")
    presets = family(name).PRESETS
    if not isinstance(presets, Mapping):
        raise InputError(f"model.family={name}: PRESETS is a {type(presets).__name__}, not [model] sections by name")
    if preset and preset not in presets:
        known = f"use one of {', '.join(presets)}" if presets else f"{name} has none"
        raise InputError(f"model.preset={preset} is unknown; {known}")
    if strange := presets.get(preset, {}).keys() - section_of(name).model_fields.keys():
        raise InputError(f"model.preset={preset} of {name} has {min(strange)}, which is no key of its [model]")
    return {**presets.get(preset, {}), **section}


def check(model: ModelConfig) -> None:
    """Raise InputError for sizes that no model can have."""
    with registry.blamed("model.family", model.family, "check()"):
        model.check()
    if model.vocab == 0:
        raise InputError("model.vocab=0 and no tokenizer to take it from; set model.vocab")

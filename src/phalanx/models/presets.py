"""The sizes that families have by name: family/preset, such as llama/3-8b."""

import difflib
from collections.abc import Mapping

from phalanx import registry
from phalanx.config import ModelConfig
from phalanx.errors import InputError
from phalanx.models.family import configured, family, hugging_face, spec_of, with_preset
from phalanx.spec.model import Spec
from phalanx.spec.outline import sizes
from phalanx.units import aligned


def names() -> list[str]:
    """Return the names of all presets of the package, family by family."""
    return [f"{name}/{preset}" for name in registry.MODELS.places for preset in family(name).PRESETS]


def presets() -> dict[str, Spec]:
    """Return the descriptions of all presets of the package by name, each with its makers' vocabulary."""
    return {name: spec_of(_model(*name.split("/"))) for name in names()}


def model_types() -> list[str]:
    """Return the kinds of model at Hugging Face, as their config.json names them, that families of the package have."""
    return [kind for name in registry.MODELS.places for kind in hugging_face(name)]


def table(models: Mapping[str, Spec]) -> list[str]:
    """Return the lines of a table of models by name, with their sizes."""
    titles = ("parameters", "layers", "hidden", "heads", "key heads", "context", "vocabulary")
    rows = [[name, *(f"{value:,}" for value in sizes(spec).values())] for name, spec in models.items()]
    return aligned([["", *titles], *rows], left=(0,), space="  ")


def preset_of(name: str) -> ModelConfig:
    """Return the model of a preset, "family/preset" or "module:Name/preset"; of one word, where neither the preset nor
    its family says how many. InputError where there is none.
    """
    owner, _, preset = name.rpartition("/")
    if name in names() or (registry.from_outside(owner) and preset in family(owner).PRESETS):
        return _model(owner, preset)

    if name in registry.MODELS.places:
        raise InputError(f"{name} is a family; name one of its presets: {', '.join(_within(name))}")
    if owner in registry.MODELS.places or registry.from_outside(owner):
        known = ", ".join(family(owner).PRESETS) or "none"
        raise InputError(f"{owner} has no preset {preset}; it has {known}{_meant(name)}")
    others = "a folder is hf:FOLDER, a model of the hub hf:org/name"
    raise InputError(f"{name} is no run and no preset, which phalanx models lists; {others}{_meant(name)}")


def _model(owner: str, preset: str) -> ModelConfig:
    model = configured(**with_preset({"family": owner, "preset": preset}))
    return model.model_copy(update={"vocab": model.vocab or model.usual_vocab or 1})


def _within(owner: str) -> list[str]:
    return [name for name in names() if name.startswith(f"{owner}/")]


def _meant(name: str) -> str:
    near = difflib.get_close_matches(name, names(), 2, 0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""

"""Whose keys a recipe has: those of [model] belong to a family, those of [optim] to an optimizer, each named by one."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from phalanx import registry
from phalanx.config import OPTIMIZER
from phalanx.model_config import FAMILY
from phalanx.optimizer import OptimConfig, optimizer_of
from phalanx.values import scalar

# Keys that [model] and [optim] of older run folders all had, with their defaults of that time.
FORMER: Mapping[str, Mapping[str, Any]] = {
    "model": {"segments": 0, "norm_first": True, "gelu": "tanh", "head": "", "classes": 0},
    "optim": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
}


class Owners(NamedTuple):
    """A model family and an optimizer, by name."""

    family: str = FAMILY
    optimizer: str = OPTIMIZER


def owners_of(mapping: Mapping[str, Any], words: Sequence[str] = ()) -> Owners:
    """Return the family and the optimizer that words name, the last of them, or else a recipe."""
    named = dict(word.split("=", 1) for word in words if "=" in word)

    def owner(section: str, key: str, otherwise: str) -> str:
        if (text := named.get(f"{section}.{key}")) is not None:
            return str(scalar(text, str))
        values = mapping.get(section)
        name = values.get(key, otherwise) if isinstance(values, Mapping) else otherwise
        return name if isinstance(name, str) else otherwise

    return Owners(owner("model", "family", FAMILY), owner("optim", "name", OPTIMIZER))


def without_former(mapping: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return a recipe without the keys that every section had once, where they hold what they then held by default.
    `known` are the dotted names of the keys that it may have.
    """
    kept = dict(mapping)
    for name, former in FORMER.items():
        if isinstance(section := mapping.get(name), dict):
            left = [key for key, value in former.items() if f"{name}.{key}" not in known and section.get(key) == value]
            kept[name] = {key: value for key, value in section.items() if key not in left}
    return kept


def without_others(mapping: Mapping[str, Any], its: Owners, owners: Owners) -> dict[str, Any]:
    """Return a recipe, or its base, without the [optim] keys that only its own optimizer (`its`) has, where `owners`
    names another.
    """
    section = mapping.get("optim")
    if its.optimizer == owners.optimizer or not isinstance(section, dict):
        return dict(mapping)
    own, theirs = (optimizer_of(each.optimizer).model_fields.keys() for each in (its, owners))
    return {**mapping, "optim": {key: value for key, value in section.items() if key not in own - theirs}}


def shared_alone(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe; where its optimizer is not bundled, with only the [optim] keys that all optimizers share."""
    section = mapping.get("optim")
    if not isinstance(section, dict) or section.get("name", OPTIMIZER) in registry.OPTIMIZERS.places:
        return dict(mapping)
    shared = OptimConfig.model_fields.keys() - {"name"}
    return {**mapping, "optim": {key: value for key, value in section.items() if key in shared}}

"""The keys of a configuration by their dotted names: which there are and whose, what each may be, and what it does."""

import difflib
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from phalanx import registry
from phalanx.config import OPTIMIZER, Config
from phalanx.errors import InputError
from phalanx.model_config import FAMILY, ModelConfig, section_of
from phalanx.optimizer import OptimConfig, optimizer_of
from phalanx.owners import Owners
from phalanx.section import Section, help_of
from phalanx.values import kind_of, toml

# What other programs call a setting, and the key, or the whole word, that it is here.
ELSEWHERE = {
    "batch_size": "train.batch", "global_batch_size": "train.batch", "micro_batch_size": "layout.micro_batch",
    "max_steps": "train.steps", "train_iters": "train.steps", "seq_length": "data.sequence",
    "max_length": "data.sequence", "learning_rate": "optim.lr", "warmup_steps": "optim.warmup",
    "optimizer": "optim.name", "size": "model.preset",
    "fp16": "precision.dtype=fp16", "bf16": "precision.dtype=bf16",
    "epochs": "train.steps=…, of which an epoch is the set's tokens ÷ (train.batch × data.sequence)",
}  # fmt: skip


def keys_in(config: Section, prefix: str = "") -> Iterator[tuple[str, Any, FieldInfo]]:
    """Yield every key of a configuration in order: its dotted name, its value, its field."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Section):
            yield from keys_in(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value, field


@cache
def known_keys(owners: Owners) -> dict[str, FieldInfo]:
    """Return the field of each key of a family and an optimizer, by dotted name. InputError for an unknown family or
    optimizer.
    """
    return {name: field for name, _, field in keys_in(_default(owners))}


def _default(owners: Owners) -> Config:
    """Return the configuration of a family and an optimizer in which no key is given."""
    section_of(owners.family)  # where there is none, said in its own words
    optimizer_of(owners.optimizer)
    try:
        return Config.model_validate({"model": {"family": owners.family}, "optim": {"name": owners.optimizer}})
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(said := first.get("ctx", {}).get("error"), InputError):
            raise said from None
        key = ".".join(map(str, first["loc"]))
        whose = f"optim.name={owners.optimizer}" if key.startswith("optim") else f"model.family={owners.family}"
        raise InputError(f"{whose}: {key} has no default that will do; every key needs one") from error


def field_of(key: str, owners: Owners) -> FieldInfo:
    """Return the field of a key of a configuration. InputError with the nearest known key when there is none."""
    known = known_keys(owners)
    if key in known:
        return known[key]
    if key in Config.model_fields:
        raise InputError(f"{key} is a section, not a key; write {key}.KEY=value, or [{key}] and its keys in TOML")

    which, its = ("optim.name", owners.optimizer) if key.startswith("optim.") else ("model.family", owners.family)
    for bundled in _bundled():
        if key in known_keys(bundled):
            name = bundled.optimizer if key.startswith("optim.") else bundled.family
            raise InputError(f"{key} is a key of {which}={name}, and {its} has none of that name")

    near = meant_by(key, known) or difflib.get_close_matches(key, [*known, *Config.model_fields], 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else "`phalanx train --help --all` lists all"
    raise InputError(f"{key} is not a key of the configuration; {hint}")


def all_keys() -> list[str]:
    """Return the dotted names of all keys, those of every bundled family and optimizer among them."""
    return [*dict.fromkeys(key for owners in _bundled() for key in known_keys(owners))]


def _bundled() -> Iterator[Owners]:
    yield from (Owners(family=family) for family in registry.MODELS.places)
    yield from (Owners(optimizer=optimizer) for optimizer in registry.OPTIMIZERS.places)


def keys_of(owners: Owners, sections: Collection[str]) -> list[str]:
    """Return the dotted names of the keys of a family and an optimizer that lie in `sections`. InputError for an
    unknown family or optimizer.
    """
    return [key for key in known_keys(owners) if key.partition(".")[0] in sections]


def meant_by(name: str, keys: Collection[str] = ()) -> list[str]:
    """Return the `keys`, by default of all, that a name means: its own, those whose last part it is, or the one that it
    is called in other programs; none where it is nothing known.
    """
    keys, leaf = keys or all_keys(), name.rpartition(".")[2]
    same = [name] if name in keys else [key for key in keys if key.rpartition(".")[2] == leaf]
    return same or ([ELSEWHERE[leaf]] if leaf in ELSEWHERE else [])


def help_text(only: Sequence[str] = (), owners: Owners | None = None) -> str:
    """Return the help of every key, or of those of `only` without their sections: its default, what it may be, and what
    it does.

    Without `owners` those of `only` are keys that all families and optimizers share, and none is looked up.
    """
    if only and not owners:
        config = Config(model=ModelConfig(family=FAMILY), optim=OptimConfig(name=OPTIMIZER))
    else:
        config = _default(owners or Owners())

    lines, last = [], ""
    for key, value, field in keys_in(config):
        if only and key not in only:
            continue
        section = key.rpartition(".")[0]
        if section != last and not only:
            lines += [f"\n{section}: {doc_of(type(getattr(config, section)))}"]
            last = section
        value = value if field.is_required() else field.get_default(call_default_factory=True)
        lines += [f"  {key}={toml(value)}  ({kind_of(field)})", f"      {help_of_key(config, key)}".rstrip()]
    return "\n".join(lines)


def help_of_key(config: Config, key: str) -> str:
    """Return the help text of a dotted key."""
    section, _, leaf = key.rpartition(".")
    return help_of(type(getattr(config, section) if section else config), leaf)


def doc_of(section: type[Section]) -> str:
    """Return the help text of a section."""
    return (section.__doc__ or "").strip()

"""Recipes: whole runs in TOML, by name or by path, with single keys overridden in words.

`load` composes two steps that are of use alone: `load_mapping` reads a recipe and lays overrides over it, as plain
nested dicts, and `validate` lays the model's preset under that and makes the frozen `Config`. `dump` writes a
configuration as TOML that explains itself and loads back to the same value. Types come from `Config`, so `train.init=7`
is the text "7" and `data.train=a,b` two texts, without quotes. Which keys [model] and [optim] have is said by the
family and the optimizer that the words, the recipe or its base name, in this order.
"""

import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from phalanx import registry
from phalanx.config import FAMILY, OPTIMIZER, Config, ModelConfig, optimizer_of, section_of
from phalanx.errors import InputError
from phalanx.foreign import brief
from phalanx.optimizer import OptimConfig
from phalanx.owners import Owners, owners_of, shared_alone, without_former, without_others
from phalanx.section import Section, help_of
from phalanx.values import kind_of, parse, shown, toml

BUNDLED = Path(__file__).parent / "recipes"
Mapped = dict[str, Any]
MOST = 4  # further wrong keys that are named
END = "# end"  # the last line of a dump, by which one that was cut off is known

# What other programs call a setting, and the key, or the whole word, that it is here.
ELSEWHERE = {
    "batch_size": "train.batch", "global_batch_size": "train.batch", "micro_batch_size": "layout.micro_batch",
    "max_steps": "train.steps", "train_iters": "train.steps", "seq_length": "data.sequence",
    "max_length": "data.sequence", "learning_rate": "optim.lr", "warmup_steps": "optim.warmup",
    "optimizer": "optim.name", "size": "model.preset",
    "fp16": "precision.dtype=fp16", "bf16": "precision.dtype=bf16",
    "epochs": "train.steps=…, of which an epoch is the set's tokens ÷ (train.batch × data.sequence)",
}  # fmt: skip


def names() -> dict[str, str]:
    """The bundled recipes, each with the comment that opens it."""
    return {path.stem: path.read_text().partition("\n")[0].lstrip("# ") for path in sorted(BUNDLED.glob("*.toml"))}


def load(name_or_path: str, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a recipe and `section.key=value` words; InputError for what is unknown or out of range."""
    return validate(load_mapping(name_or_path, overrides))


def from_words(words: Sequence[str]) -> Config:
    """The configuration of `section.key=value` words, all else by default."""
    return validate(overridden({}, words))


def load_dump(path: Path, trained: bool) -> Config:
    """The configuration that was written to `path`. Where it is not to be `trained` an optimizer from outside the
    package need not be there: of its keys those that all optimizers have are read.
    """
    mapping = read(path) if trained else shared_alone(read(path))
    return validate(without_former(mapping, _known(owners_of(mapping))))


def load_mapping(name_or_path: str, overrides: Sequence[str] = ()) -> Mapped:
    """A recipe with its base (`extends = "name"`) under it and the overrides over it, as nested plain dicts."""
    path = _find(name_or_path)
    mapping, below = read(path), Mapped()
    if (base := mapping.pop("extends", None)) is not None:
        below = read(_find(str(base), path.parent))
        if "extends" in below:
            raise InputError(f"{path}: extends={base}, which extends another in turn; one step is allowed")
    return overridden(_merged(mapping, below, overrides), overrides)


def _merged(mapping: Mapped, below: Mapped, words: Sequence[str]) -> Mapped:
    """A recipe laid over its base, both without the keys of an optimizer in whose place another is named."""
    whole = _lay(mapping, below)
    owners = owners_of(whole, words)
    whole = _lay(without_others(mapping, owners_of(whole), owners), without_others(below, owners_of(below), owners))
    return without_former(whole, _known(owners))


def overridden(mapping: Mapped, words: Sequence[str]) -> Mapped:
    """A mapping with `section.key=value` words laid over it."""
    owners = owners_of(mapping, words)
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise InputError(f"{word} is not an override; write section.key=value{_such_as(word)}")
        *section, leaf = key.split(".")
        value = parse(text, _field(key, owners))
        mapping = _lay({section[0]: {leaf: value}} if section else {leaf: value}, mapping)
    return mapping


def read(path: Path) -> Mapped:
    """The content of a TOML file. InputError where it cannot be read."""
    text = text_of(path)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of its syntax, its longest number, its depth
        raise InputError(f"{path} is not TOML that can be read: {brief(error)}") from error


def text_of(path: Path) -> str:
    """The text of a file in UTF-8, with or without a mark at its beginning. InputError where it cannot be read, or is
    in another encoding.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise InputError(
            f"{path} is not text in UTF-8 (is it in UTF-16?); save it as UTF-8, or put the whole file back"
        )
    return text


def validate(mapping: Mapping[str, Any]) -> Config:
    """The frozen configuration, the model's preset laid under it; InputError in one line for all that is wrong."""
    owners = owners_of(mapping)
    for name, value in mapping.items():
        for key in [f"{name}.{leaf}" for leaf in value] if isinstance(value, Mapping) else [name]:
            _field(key, owners)

    model = mapping.get("model", {})
    if isinstance(preset := model.get("preset"), str) and preset and model.get("family", FAMILY) == owners.family:
        from phalanx.models.family import with_preset  # not for --help, which is to answer at once

        mapping = {**mapping, "model": with_preset(model)}
    try:
        return Config.model_validate(mapping)
    except ValidationError as error:
        wrong = dict.fromkeys(".".join(map(str, complaint["loc"][:2])) for complaint in error.errors())
        first, *others = ((f"{key}={shown(_value(mapping, key))}", kind_of(_field(key, owners))) for key in wrong)
        more = "".join(f"; {said} neither, it takes {kind}" for said, kind in others[:MOST])
        more += f" (and {len(others) - MOST} more like it)" * (len(others) > MOST)
        raise InputError(f"{first[0]} will not do; it takes {first[1]}{more}") from error


def _value(mapping: Mapping[str, Any], key: str) -> Any:
    """What stands at a dotted key."""
    section, _, leaf = key.rpartition(".")
    return mapping[section][leaf] if section else mapping[leaf]


def dump(config: Config) -> str:
    """`config` as TOML, every key with its help text; `load` gives back an equal value."""
    lines = []
    for key, value, _ in _keys(config):
        section, _, leaf = key.rpartition(".")
        header = f"[{section}]"
        if section and header not in lines:
            lines += [f"# {_doc(type(getattr(config, section)))}", header, ""]
        lines += [f"# {_help(config, key)}".rstrip(), f"{leaf} = {toml(value)}", ""]
    return "\n".join([*lines, END, ""])


def is_whole(text: str) -> bool:
    """Whether a dump, maybe changed by hand, is there to its end. One that was written before it had a line to say so
    ended with the key print_every.
    """
    return END in text.splitlines() or re.search(r"^print_every = \d+\n", text, re.MULTILINE) is not None


def all_keys() -> list[str]:
    """The dotted names of all keys, those of every bundled family and optimizer among them."""
    return [*dict.fromkeys(key for owners in _bundled() for key in _known(owners))]


def _bundled() -> Iterator[Owners]:
    yield from (Owners(family=family) for family in registry.MODELS.places)
    yield from (Owners(optimizer=optimizer) for optimizer in registry.OPTIMIZERS.places)


def keys_of(owners: Owners, sections: Collection[str]) -> list[str]:
    """The dotted names of the keys of a family or an optimizer. InputError where there is no such one."""
    return [key for key in _known(owners) if key.partition(".")[0] in sections]


def meant_by(name: str, keys: Collection[str] = ()) -> list[str]:
    """Those of `keys`, by default of all, that `name` is, is the last part of, or is in other programs; none where it
    is nothing known.
    """
    keys, leaf = keys or all_keys(), name.rpartition(".")[2]
    same = [name] if name in keys else [key for key in keys if key.rpartition(".")[2] == leaf]
    return same or ([ELSEWHERE[leaf]] if leaf in ELSEWHERE else [])


def help_text(only: Sequence[str] = (), owners: Owners | None = None) -> str:
    """Every key, or those of `only` without their sections, with its default, what it may be, and what it does.

    Without `owners` those of `only` are keys that all families and optimizers share, and none is looked up.
    """
    if only and not owners:
        config = Config(model=ModelConfig(family=FAMILY), optim=OptimConfig(name=OPTIMIZER))
    else:
        config = _default(owners or Owners())
    lines, last = [], ""
    for key, value, field in _keys(config):
        if only and key not in only:
            continue
        section = key.rpartition(".")[0]
        if section != last and not only:
            lines += [f"\n{section}: {_doc(type(getattr(config, section)))}"]
            last = section
        value = value if field.is_required() else field.get_default(call_default_factory=True)
        lines += [f"  {key}={toml(value)}  ({kind_of(field)})", f"      {_help(config, key)}".rstrip()]
    return "\n".join(lines)


def _find(name_or_path: str, beside: Path = Path()) -> Path:
    """The file of a bundled recipe, or the path itself; `beside` is where a base's relative path begins."""
    bundled = BUNDLED / f"{name_or_path}.toml"
    path = bundled if bundled.is_file() and "/" not in name_or_path else beside / name_or_path
    if path.is_file():
        return path
    if "=" in name_or_path:
        raise InputError(
            f"{name_or_path} is no recipe; a recipe comes first, as: phalanx train gpt-tiny {name_or_path}"
        )
    near = difflib.get_close_matches(name_or_path, names(), 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"{name_or_path} is neither a recipe nor a TOML file; {hint}recipes: {', '.join(names())}")


def _lay(over: Mapped, under: Mapped) -> Mapped:
    """`over` laid upon `under`, section by section."""
    merged = {**under, **over}
    for name in over.keys() & under.keys():
        if isinstance(over[name], dict) and isinstance(under[name], dict):
            merged[name] = {**under[name], **over[name]}
    return merged


def _keys(config: Section, prefix: str = "") -> Iterator[tuple[str, Any, FieldInfo]]:
    """Every key of a configuration in order: its dotted name, its value, what is known of it."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Section):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value, field


def _default(owners: Owners) -> Config:
    """The configuration of a family and an optimizer in which no key is given."""
    section_of(owners.family)  # where there is none, said in its own words
    optimizer_of(owners.optimizer)
    try:
        return Config.model_validate({"model": {"family": owners.family}, "optim": {"name": owners.optimizer}})
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        whose = f"optim.name={owners.optimizer}" if key.startswith("optim") else f"model.family={owners.family}"
        raise InputError(f"{whose}: {key} has no default that will do; every key needs one") from error


@cache
def _known(owners: Owners) -> dict[str, FieldInfo]:
    return {name: field for name, _, field in _keys(_default(owners))}


def _field(key: str, owners: Owners) -> FieldInfo:
    """What is known of a key of a configuration; InputError with the nearest known key when there is none."""
    known = _known(owners)
    if key in known:
        return known[key]
    if key in Config.model_fields:
        raise InputError(f"{key} is a section, not a key; write {key}.KEY=value, or [{key}] and its keys in TOML")
    which, its = ("optim.name", owners.optimizer) if key.startswith("optim.") else ("model.family", owners.family)
    for other in _bundled():
        if key in _known(other):
            name = other.optimizer if key.startswith("optim.") else other.family
            raise InputError(f"{key} is a key of {which}={name}, and {its} has none of that name")
    near = meant_by(key, known) or difflib.get_close_matches(key, [*known, *Config.model_fields], 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else "`phalanx train --help --all` lists all"
    raise InputError(f"{key} is not a key of the configuration; {hint}")


def _such_as(word: str) -> str:
    """An example of an override: the one that is meant where a prepared set was named alone."""
    return f"; did you mean data.train={word}?" if Path(f"{word}.bin").is_file() else ", as train.steps=100"


def _help(config: Config, key: str) -> str:
    """The help text of a dotted key."""
    section, _, leaf = key.rpartition(".")
    return help_of(type(getattr(config, section) if section else config), leaf)


def _doc(section: type[Section]) -> str:
    return (section.__doc__ or "").strip()

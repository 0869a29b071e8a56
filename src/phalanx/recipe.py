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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.foreign import brief
from phalanx.keys import doc_of, field_of, help_of_key, keys_in, known_keys
from phalanx.model_config import FAMILY
from phalanx.owners import Owners, owners_of, shared_alone, without_former, without_others
from phalanx.values import kind_of, parse, shown, toml

BUNDLED = Path(__file__).parent / "recipes"
Mapped = dict[str, Any]
MOST = 4  # further wrong keys that are named
END = "# end"  # the last line of a dump, by which one that was cut off is known


def names() -> dict[str, str]:
    """Return the bundled recipes, each with the comment that opens it."""
    return {path.stem: path.read_text().partition("\n")[0].lstrip("# ") for path in sorted(BUNDLED.glob("*.toml"))}


def load(name_or_path: str, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a recipe and `section.key=value` words. InputError for what will not do."""
    return validate(load_mapping(name_or_path, overrides))


def from_words(words: Sequence[str]) -> Config:
    """Return the configuration of `section.key=value` words, all else by default."""
    return validate(overridden({}, words))


def load_dump(path: Path, trained: bool) -> Config:
    """Return the configuration that was written to `path`. Where it is not to be `trained` an optimizer from outside
    the package need not be there: of its keys those that all optimizers have are read.
    """
    mapping = read(path) if trained else shared_alone(read(path))
    return validate(without_former(mapping, known_keys(owners_of(mapping))))


def load_mapping(name_or_path: str, overrides: Sequence[str] = ()) -> Mapped:
    """Return a recipe with its base (`extends = "name"`) under it and the overrides over it, as nested plain dicts."""
    path = _find(name_or_path)
    mapping, below = read(path), Mapped()
    if (base := mapping.pop("extends", None)) is not None:
        below = read(_find(str(base), path.parent))
        if "extends" in below:
            raise InputError(f"{path}: extends={base}, which extends another in turn; one step is allowed")
    return overridden(_merged(mapping, below, overrides), overrides)


def _merged(mapping: Mapped, below: Mapped, words: Sequence[str]) -> Mapped:
    """Return a recipe laid over its base, both without the keys of an optimizer in whose place another is named."""
    whole = _lay(mapping, below)
    owners = owners_of(whole, words)
    whole = _lay(without_others(mapping, owners_of(whole), owners), without_others(below, owners_of(below), owners))
    return without_former(whole, known_keys(owners))


def overridden(mapping: Mapped, words: Sequence[str]) -> Mapped:
    """Return a mapping with `section.key=value` words laid over it."""
    owners = owners_of(mapping, words)
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise InputError(f"{word} is not an override; write section.key=value{_such_as(word)}")
        *section, leaf = key.split(".")
        value = parse(text, field_of(key, owners))
        mapping = _lay({section[0]: {leaf: value}} if section else {leaf: value}, mapping)
    return mapping


def read(path: Path) -> Mapped:
    """Return the content of a TOML file. InputError where it cannot be read."""
    text = text_of(path)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of its syntax, its longest number, its depth
        raise InputError(f"{path} is not TOML that can be read: {brief(error)}") from error


def text_of(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without a mark at its beginning. InputError where it cannot be read,
    or is in another encoding.
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
    """Return the frozen configuration, the model's preset laid under it. InputError in one line for all
    that is wrong.
    """
    owners = owners_of(mapping)
    for name, value in mapping.items():
        for key in [f"{name}.{leaf}" for leaf in value] if isinstance(value, Mapping) else [name]:
            field_of(key, owners)

    model = mapping.get("model", {})
    if isinstance(preset := model.get("preset"), str) and preset and model.get("family", FAMILY) == owners.family:
        from phalanx.models.family import with_preset  # not for --help, which is to answer at once

        mapping = {**mapping, "model": with_preset(model)}
    try:
        return Config.model_validate(_with_lists(mapping, owners))
    except ValidationError as error:
        wrong = dict.fromkeys(".".join(map(str, complaint["loc"][:2])) for complaint in error.errors())
        first, *others = ((f"{key}={shown(_value(mapping, key))}", kind_of(field_of(key, owners))) for key in wrong)
        more = "".join(f"; {setting} neither, it takes {kind}" for setting, kind in others[:MOST])
        more += f" (and {len(others) - MOST} more like it)" * (len(others) > MOST)
        raise InputError(f"{first[0]} will not do; it takes {first[1]}{more}") from error


def _with_lists(mapping: Mapping[str, Any], owners: Owners) -> Mapping[str, Any]:
    """Return a mapping with lists of texts where one text stands for such a list: it means what it means as a word."""
    for key, field in known_keys(owners).items():
        section, _, leaf = key.rpartition(".")
        given = mapping.get(section)
        if field.annotation == tuple[str, ...] and isinstance(given, Mapping) and isinstance(given.get(leaf), str):
            mapping = {**mapping, section: {**given, leaf: parse(given[leaf], field)}}
    return mapping


def _value(mapping: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key."""
    section, _, leaf = key.rpartition(".")
    return mapping[section][leaf] if section else mapping[leaf]


def dump(config: Config) -> str:
    """Return `config` as TOML, every key with its help text; `load` gives back an equal value."""
    lines = []
    for key, value, _ in keys_in(config):
        section, _, leaf = key.rpartition(".")
        header = f"[{section}]"
        if section and header not in lines:
            lines += [f"# {doc_of(type(getattr(config, section)))}", header, ""]
        lines += [f"# {help_of_key(config, key)}".rstrip(), f"{leaf} = {toml(value)}", ""]
    return "\n".join([*lines, END, ""])


def is_whole(text: str) -> bool:
    """Return whether a dump, maybe changed by hand, is there to its end. One that was written before it had a line to
    say so ended with the key print_every.
    """
    return END in text.splitlines() or re.search(r"^print_every = \d+\n", text, re.MULTILINE) is not None


def _find(name_or_path: str, beside: Path = Path()) -> Path:
    """Return the file of a bundled recipe, or the path itself; `beside` is where a base's relative path begins."""
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
    """Return `over` laid upon `under`, section by section."""
    merged = {**under, **over}
    for name in over.keys() & under.keys():
        if isinstance(over[name], dict) and isinstance(under[name], dict):
            merged[name] = {**under[name], **over[name]}
    return merged


def _such_as(word: str) -> str:
    """Return an example of an override: the one that is meant where a prepared set was named alone."""
    return f"; did you mean data.train={word}?" if Path(f"{word}.bin").is_file() else ", as train.steps=100"

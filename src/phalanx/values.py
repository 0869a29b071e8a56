"""Values of a configuration's keys in words: what an override's text means, what a key may be, and TOML."""

import json
import tomllib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from phalanx.foreign import LONGEST, short


def parse(text: str, field: FieldInfo) -> Any:
    """Return the value that an override's text means for its key."""
    if get_origin(field.annotation) is not tuple:
        return scalar(text, field.annotation)
    whole = scalar(text, list)
    if isinstance(whole, list) and all(isinstance(item, str) for item in whole):
        return whole  # quoted texts, which may hold commas
    items = text.strip().removeprefix("[").removesuffix("]").split(",")
    return [scalar(item.strip(), get_args(field.annotation)[0]) for item in items if item.strip()]


def scalar(text: str, kind: Any) -> Any:
    """Return `text` read as TOML, or as it stands where it is none or where text is wanted."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # of its syntax, its longest number, its depth
        return text
    wants_text = kind is str or get_origin(kind) is Literal
    return text if wants_text and not isinstance(value, str) else value


def kind_of(field: FieldInfo) -> str:
    """Return in words what a key may be."""
    return _describe(field.annotation, field.metadata)


def _describe(kind: Any, bounds: Sequence[Any] = ()) -> str:
    """Return a type and its pydantic bounds in words."""
    arguments = get_args(kind)
    if get_origin(kind) is Annotated:
        return _describe(arguments[0], arguments[1:])
    if get_origin(kind) is Literal:
        return " | ".join(arguments)
    if get_origin(kind) is tuple:
        count = "" if Ellipsis in arguments else f"{len(arguments)}, each "
        return f"a list of {count}{_describe(arguments[0])}"
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    stack = [part for bound in bounds for part in getattr(bound, "metadata", [bound])]
    limits = [f"{sign} {getattr(part, name)}" for part in stack for name, sign in signs.items() if hasattr(part, name)]
    word = {int: "integer", float: "number", bool: "true | false", str: "text"}.get(kind, str(kind))
    return " ".join([word, " and ".join(limits)]).strip()


def shown(value: Any) -> str:
    """Return a value as TOML writes it, or the beginning of one that is long or deep."""
    text = toml(value) if isinstance(value, (str, bool)) else short(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def toml(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML's escapes are JSON's
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml, value))}]"
    return repr(value)

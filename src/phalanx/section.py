"""A section of a configuration, and the help texts of its keys."""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Fraction = Annotated[float, Field(ge=0, lt=1)]
Size = Annotated[int, Field(gt=0, le=1 << 24)]
Share = Annotated[float, Field(ge=0, le=1e9)]


class Section(BaseModel):
    """Common rules of every section: frozen, unknown keys forbidden, no number infinite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number is wanted: Python takes true for the number 1."""
        assert info.field_name
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("neither true nor false")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _a_number_has_64_bits(cls, value: Any) -> Any:
        """Refuse whole numbers of more than 64 bits: TOML's have no more, and Python's own would not print."""
        if any(
            isinstance(number, int) and number.bit_length() > 64
            for number in (value if isinstance(value, list) else [value])
        ):
            raise ValueError("a number of more than 64 bits")
        return value

    def updated(self, **sections: Mapping[str, Any]) -> Self:
        """Return a copy with keys of sections in it replaced, as updated(train={"steps": 9}). Nothing is validated."""
        changed = {name: getattr(self, name).model_copy(update=keys) for name, keys in sections.items()}
        return self.model_copy(update=changed)


@cache
def shadowed(section: type[Section], shared: type[Section]) -> str:
    """Return how a section has a key of the one that it extends as something else, as "heads is str, …"; "" if all are
    of the same kind. A few words may stand for any text, a whole number for a real one.
    """
    everywhere = "every family" if "family" in shared.model_fields else "every optimizer"
    for key, field in shared.model_fields.items():
        own, kind = section.model_fields[key], field.annotation
        words, among = (get_args(each) if get_origin(each) is Literal else () for each in (own.annotation, kind))
        allowed: tuple[Any, ...] = (float, int) if kind is float else (str,) if among else (kind,)
        narrower = words and all(word in among if among else isinstance(word, str) and kind is str for word in words)
        if not narrower and (among or own.annotation not in allowed):
            return f"{key} is {_name(own.annotation)}, which is {_name(kind)} in {everywhere}; give it another name"
        if not own.is_required() and own.default_factory is None and not isinstance(own.default, allowed):
            return f"{key} is a {type(own.default).__name__}, and a key of {everywhere}; give it another name"
    return ""


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


@cache
def help_texts(module: str) -> dict[str, str]:
    """Return the help text of every key of a module's sections by its class and name, as `OptimConfig.lr`: the
    docstring below it in the source.

    It is read when somebody asks; pydantic's own reading (`use_attribute_docstrings`) would slow every start.
    """
    try:
        source = inspect.getsource(sys.modules[module])
    except (OSError, TypeError, KeyError, SyntaxError):  # a module without source
        return {}
    return dict(_texts(ast.parse(source).body, ""))


def _texts(body: Sequence[ast.stmt], path: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted name of every key in the classes of `body`, and its help text."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _texts(node.body, f"{path}{node.name}.")
    for key, below in pairwise(body):
        match key, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield path + name, " ".join(text.split())  # one line, as the comment above a key of a run's TOML


def help_of(section: type[Section], key: str) -> str:
    """Return the help text of a section's key: its own, or that of the class it comes from; "" if there is none."""
    sections = (each for each in section.__mro__ if issubclass(each, Section))
    texts = (help_texts(each.__module__).get(f"{each.__qualname__}.{key}", "") for each in sections)
    return next(filter(None, texts), "")

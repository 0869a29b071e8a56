"""JSON as its standard has it: Python's own reader also takes NaN and Infinity, which are no numbers there."""

import json
from typing import Any, NoReturn


def parse_json(content: str | bytes, unique: bool = False) -> Any:
    """Return the value of a JSON text, or of its bytes in UTF-8. ValueError for whatever is no JSON or cannot be held.

    With `unique` also for a key that stands twice in an object; without, its last value counts.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        return (_UNIQUE if unique else _JSON).decode(text)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:
        if "set_int_max_str_digits" in str(error):
            raise ValueError("it has a number of too many digits") from None
        raise


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of keys that all differ. ValueError where one comes twice."""
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {key[:100]!r} stands twice in an object")
        made[key] = value
    return made


_JSON = json.JSONDecoder(parse_constant=_refuse)
_UNIQUE = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_once)

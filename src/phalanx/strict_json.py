"""JSON as its standard has it: Python's own reader also takes NaN and Infinity, which are no numbers there."""

import json
from typing import Any, NoReturn


def parse_json(content: str | bytes) -> Any:
    """The value of a JSON text, or of its bytes in UTF-8. ValueError for whatever is no JSON or cannot be held."""
    try:
        return _JSON.decode(content if isinstance(content, str) else content.decode("utf-8-sig"))
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


_JSON = json.JSONDecoder(parse_constant=_refuse)

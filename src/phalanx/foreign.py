"""Files that other programs wrote. Whatever is wrong in one is the user's to mend, so it is told in one line.

Libraries raise anything at a damaged file: safetensors, tokenizers and torch have errors of their own and raise
RuntimeError, KeyError or AttributeError besides. `reading` is the one place that turns these into an `InputError`.
It goes around the calls of a library alone, never around code of ours, whose defects keep their tracebacks.
"""

import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from phalanx.errors import InputError
from phalanx.strict_json import parse_json

ANEW = "was it cut off? copy or download it again"
LONGEST = 200  # characters of a library's message
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
POINTER = b"version https://git-lfs"  # how the file begins that Git keeps in place of a large one


@contextmanager
def reading(path: Path, remedy: str = ANEW) -> Iterator[None]:
    """Raise InputError with `path` and `remedy` for whatever the body, which reads that file, raises.

    MemoryError passes: it says nothing of the file. So does a KeyboardInterrupt.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except OSError as error:
        if error.filename is None:  # torch says so of a file that is cut
            raise unreadable(path, brief(error), remedy) from error
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:
        raise unreadable(path, brief(error), remedy) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a library in Rust
            raise
        raise unreadable(path, brief(error), remedy) from None


def unreadable(path: Path, reason: str, remedy: str = ANEW) -> InputError:
    """Return the error to raise for a file that a library refuses: its reason, and what would do."""
    if _is_pointer(path):
        return InputError(f"{path} is a pointer of Git LFS, not the file itself; fetch that with: git lfs pull")
    return InputError(f"{path} cannot be read ({reason}); {remedy}")


def _is_pointer(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(POINTER)) == POINTER
    except OSError:
        return False


def brief(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type where it has none."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} …"


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. InputError for anything else, NaN and Infinity among it, which JSON has not."""
    content = _json(path, "it is to be one JSON object in UTF-8")
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content


def read_objects(path: Path) -> list[dict[str, Any]]:
    """Return the list of objects in a JSON file. InputError for anything else."""
    content = _json(path, "it is to be one JSON list in UTF-8")
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        raise InputError(f"{path} holds no JSON list of objects")
    return content


def _json(path: Path, remedy: str) -> Any:
    with reading(path, remedy):
        return parse_json(path.read_bytes())


def complaint(file: Path | str, error: ValidationError, names: Mapping[str, str]) -> InputError:
    """Return the error to raise for the first thing that a schema found wrong in a file, by its dotted name there.
    `names` has the file's name of a key by ours.
    """
    first = error.errors()[0]
    key, *within = map(str, first["loc"])
    where = ".".join([names.get(key, key), *within])
    if first["type"] == "missing":
        return InputError(f"{file} has no {where}")
    return InputError(f"{file}: {where}={short(first['input'])} will not do: {first['msg']}")


def short(value: Any) -> str:
    """Return a value of any size and depth as one short line."""
    try:
        return _SHORT.repr(value).replace("\n", " ")
    except ValueError:  # Python's limit
        return "(a number of too many digits)"

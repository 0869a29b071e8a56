"""Texts out of Parquet files, a few rows at a time. Needs the optional pyarrow."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from shutil import copyfileobj
from typing import Any

from phalanx.data.inputs import PACKED, Resumable
from phalanx.data.streams import unpacked
from phalanx.errors import InputError

ROWS = 64  # decoded at once


def texts(path: Path, key: str, start: int) -> Iterator[tuple[str, str, float]]:
    """Yield the column `key` from row `start` on: text, what is wrong with it, and the part of the rows read.

    Raises InputError.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise Resumable(f"reading {path} needs pyarrow: pip install phalanx[data]") from error

    with ExitStack() as stack:
        source: Any = path
        if path.suffix.lower() in PACKED:
            source = stack.enter_context(tempfile.TemporaryFile())
            copyfileobj(stack.enter_context(unpacked(path))[0], source)
        try:
            file = ParquetFile(source, pre_buffer=False, buffer_size=1 << 20)
            _check_column(path, key, file.schema_arrow)
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            firsts = [0, *accumulate(counts)]
            groups = [i for i in range(len(counts)) if firsts[i + 1] > start]

            row = firsts[groups[0]] if groups else 0
            for batch in file.iter_batches(ROWS, groups, [key], use_threads=False):
                for value in batch.column(0):
                    row += 1
                    if row > start:
                        yield *_text(value), row / firsts[-1]
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{path} is no whole Parquet file: {str(error).splitlines()[0]}") from error


def _text(value: Any) -> tuple[str, str]:
    """Return a value's text and what is wrong with it. Parquet does not check that texts are UTF-8."""
    try:
        text = value.as_py()
    except UnicodeDecodeError:
        return "", "not UTF-8"
    return ("", "no text") if text is None else (text, "")


def _check_column(path: Path, key: str, schema: Any) -> None:
    if schema.names.count(key) > 1:
        raise InputError(f"{path} has {schema.names.count(key)} columns {key!r}; rename all but one")
    if key not in schema.names:
        raise InputError(f"{path} has no column {key!r}; it has {', '.join(schema.names)}: choose one with --key")
    kind = str(schema.field(key).type)
    if not kind.removeprefix("dictionary<values=").startswith(("string", "large_string")):
        raise InputError(f"column {key!r} of {path} holds {kind}, not text; choose another with --key")

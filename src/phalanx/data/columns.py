"""Texts out of Parquet and Arrow files, a few rows at a time. Needs the optional pyarrow.

An Arrow file is mapped into memory where it lies on this machine and is not packed, so its size does not matter; both
of Arrow's formats are read, the stream that `datasets` writes and the file with an index at its end.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from shutil import copyfileobj
from typing import Any

from phalanx.data.inputs import ARROW, PACKED, kind
from phalanx.data.remote import AnyPath
from phalanx.data.streams import unpacked
from phalanx.errors import InputError, Resumable

ROWS = 64  # decoded at once
MAGIC = b"ARROW1"  # of Arrow's format with an index

Text = tuple[str, str, float]  # a row's text, what is wrong with it, and the part of the rows read


def texts(path: AnyPath, key: str, start: int) -> Iterator[Text]:
    """Yield the column `key` from row `start` on: text, what is wrong with it, and the part of the rows read.

    Raises InputError.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise Resumable(f"reading {path} needs pyarrow: pip install phalanx[data]") from error

    form, rows = ("Arrow", _arrow) if kind(path) in ARROW else ("Parquet", _parquet)
    with ExitStack() as stack:
        source = _opened(path, stack)
        try:
            yield from rows(path, source, key, start)
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{path} is no whole {form} file: {str(error).splitlines()[0]}") from error


def _opened(path: AnyPath, stack: ExitStack) -> Any:
    """Return a file of which pyarrow can read any place, closed with the stack."""
    from pyarrow import memory_map

    if path.suffix.lower() in PACKED:
        source = tempfile.TemporaryFile()  # noqa: SIM115  (the stack closes it)
        stack.callback(source.close)
        copyfileobj(stack.enter_context(unpacked(path))[0], source)
        source.seek(0)
        return source
    if isinstance(path, Path) and kind(path) in ARROW and path.stat().st_size:
        return stack.enter_context(memory_map(str(path)))
    return stack.enter_context(path.open("rb"))


def _parquet(path: AnyPath, source: Any, key: str, start: int) -> Iterator[Text]:
    from pyarrow.parquet import ParquetFile

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


def _arrow(path: AnyPath, source: Any, key: str, start: int) -> Iterator[Text]:
    from pyarrow import ipc

    indexed = source.read(len(MAGIC)) == MAGIC
    source.seek(0)
    size, row = max(path.stat().st_size, 1), 0
    reader = ipc.open_file(source) if indexed else ipc.open_stream(source)
    _check_column(path, key, reader.schema)

    batches = map(reader.get_batch, range(reader.num_record_batches)) if indexed else iter(reader)
    for batch in batches:
        if row + batch.num_rows <= start:  # a batch that is passed over is not decoded
            row += batch.num_rows
            continue
        part = min(source.tell() / size, 1.0)
        for value in batch.column(key):
            row += 1
            if row > start:
                yield *_text(value), part


def _text(value: Any) -> tuple[str, str]:
    """Return a value's text and what is wrong with it. Neither format checks that texts are UTF-8."""
    try:
        text = value.as_py()
    except UnicodeDecodeError:
        return "", "not UTF-8"
    return ("", "no text") if text is None else (text, "")


def _check_column(path: AnyPath, key: str, schema: Any) -> None:
    if schema.names.count(key) > 1:
        raise InputError(f"{path} has {schema.names.count(key)} columns {key!r}; rename all but one")
    if key not in schema.names:
        raise InputError(f"{path} has no column {key!r}; it has {', '.join(schema.names)}: choose one with --key")
    kind = str(schema.field(key).type)
    if not kind.removeprefix("dictionary<values=").startswith(("string", "large_string")):
        raise InputError(f"column {key!r} of {path} holds {kind}, not text; choose another with --key")

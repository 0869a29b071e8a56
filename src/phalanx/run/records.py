"""The records of metrics.jsonl: a run's measurements, one JSON object a line, each with its step and kind."""

import json
from pathlib import Path
from typing import Any

from phalanx import durable
from phalanx.errors import InputError
from phalanx.foreign import short

FILE = "metrics.jsonl"

Record = dict[str, Any]


def read(path: Path) -> list[Record]:
    """Return the records in order, without a last line that is torn. InputError names a line that is no record, or has
    something else than a number where a number belongs.
    """
    records = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        record = _parse(line)
        if record is None:
            if number < len(lines):
                raise InputError(f"{path}, line {number}: not a metrics record; remove that line")
            continue
        if odd := _no_number(record):
            where = f"the {record['kind']} record of step {record['step']}"
            raise InputError(f"{path}, line {number}: {odd} in {where} is no number; mend that line, or remove it")
        records.append(record)
    return records


def cut(path: Path, step: int) -> list[Record]:
    """Drop the records of later steps than `step`, and a torn end, from the file; return those that stay."""
    if not path.exists():
        return []
    kept = [record for record in read(path) if record["step"] <= step]
    content = "".join(json.dumps(record) + "\n" for record in kept).encode()
    if content != path.read_bytes():
        durable.write(path, content)
    return kept


def _parse(line: bytes) -> Record | None:
    """Return a whole line's record, or None."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = line.endswith(b"\n") and isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if whole and isinstance(record.get("kind"), str) else None


def _no_number(record: Record) -> str:
    """Return the first value that should be a number and is none, as key=value; nothing where all are."""
    wanted = record.keys() - {"kind"} if record["kind"] in ("train", "valid") else {"parameters"}
    odd = (item for item in record.items() if item[0] in wanted and not isinstance(item[1], int | float | None))
    return next((f"{key}={short(value)}" for key, value in odd), "")

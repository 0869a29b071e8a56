"""Record of the stages that are done: FOLDER/quickstart.json.

Every stage is recorded with a digest of all that decides its result. A stage whose digest is unchanged and whose files
are there is not done again; one that was begun with the same digest goes on where it stopped; otherwise what it left is
removed first.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from phalanx import durable
from phalanx.errors import InputError

FILE = "quickstart.json"


class Entry(TypedDict):
    """A stage that was begun; `result` is None until it ended."""

    inputs: str
    seconds: float
    result: dict[str, Any] | None


class Ledger:
    """The stages of a quickstart folder. InputError where the folder holds something else."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / FILE
        self.entries: dict[str, Entry] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self.entries = json.loads(self.path.read_bytes())
            elif any(folder.iterdir()):
                raise InputError(f"{folder} holds other files; give another --folder, and the quickstart goes there")
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(f"{self.path} cannot be used ({error}); give another --folder") from error

    def done(self, stage: str, inputs: str, owns: Sequence[str]) -> Entry | None:
        """Return the entry of a stage that needs no work: it ended with the same inputs, and its files are there."""
        entry = self.entries.get(stage)
        whole = entry and entry["inputs"] == inputs and entry["result"] is not None
        return entry if whole and all((self.folder / name).exists() for name in owns) else None

    def begin(self, stage: str, inputs: str, owns: Sequence[str]) -> bool:
        """Note that work begins; True if it goes on with what an interrupted one left."""
        before = self.entries.get(stage)
        if before is not None and before["inputs"] == inputs and before["result"] is None:
            return True
        for name in owns:
            _remove(self.folder / name)
        self.entries[stage] = Entry(inputs=inputs, seconds=0.0, result=None)
        self._write()
        return False

    def end(self, stage: str, seconds: float, result: dict[str, Any] | None) -> None:
        """Add the seconds of work, and the result if it came to one."""
        entry = self.entries[stage]
        entry["seconds"] += seconds
        entry["result"] = result
        self._write()

    def _write(self) -> None:
        durable.write(self.path, json.dumps(self.entries, indent=1, ensure_ascii=False).encode())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

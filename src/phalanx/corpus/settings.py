"""Settings of `phalanx curate`, and the folders it works in."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from phalanx import durable
from phalanx.errors import InputError

ROWS = 8  # of a band of MinHash


@dataclass(frozen=True)
class Settings:
    """One curation. Files are shared out among `tasks`, which any number of workers do."""

    files: tuple[str, ...]
    tasks: int
    document: str
    key: str
    language: str
    certainty: float
    least: int  # tokens
    tokenizer: str
    jaccard: float
    against: tuple[str, ...]

    @property
    def bands(self) -> int:
        """Bands of 8 hashes so that documents of the Jaccard similarity meet in one with about two chances of three:
        (1 / bands) ** (1 / 8) is the similarity (Leskovec et al., Mining of Massive Datasets, 3.4).
        """
        return math.ceil((1 / self.jaccard) ** ROWS)


@dataclass(frozen=True)
class Places:
    """Paths within the folder of a curation."""

    out: Path

    @property
    def text(self) -> Path:
        """The folder of the documents that are kept, which `phalanx prepare` reads."""
        return self.out / "text"

    def removed(self, rule: str) -> Path:
        """Return the folder of the documents that a rule removed."""
        return self.out / "removed" / rule

    def work(self, name: str) -> Path:
        """Return the folder of what one stage leaves for the next."""
        return self.out / "work" / name

    def tally(self, name: str) -> Path:
        """Return the folder of the counts of each task of a stage."""
        return self.out / "work" / "tally" / name


def begin(settings: Settings, out: Path) -> Places:
    """Make the folder of a curation, or go on in one of the same settings. InputError where it holds anything else."""
    file, record = out / "settings.json", {"phalanx": 1, **asdict(settings)}
    mine: dict[str, Any] = json.loads(json.dumps(record))

    if file.is_file():
        written = json.loads(file.read_text())
        for key, value in mine.items():
            if written.get(key) != value:
                raise InputError(f"{out} was begun with another {key} ({_short(written.get(key))}); give another --out")
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out} holds something else; give another --out")
    else:
        out.mkdir(parents=True, exist_ok=True)
        durable.write(file, json.dumps(record, indent=1).encode())
    return Places(out)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 60 else f"{text[:57]}…"

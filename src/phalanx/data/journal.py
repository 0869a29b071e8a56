"""The journal of a preparation: what is safe on disk, and where in the inputs the rest begins."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from phalanx import durable
from phalanx.data.documents import Bookmark
from phalanx.data.indexed import Position
from phalanx.data.manifest import Manifest, Request
from phalanx.errors import InputError, Resumable

SHOWN = 10  # malformed records that are named


class Cursor(BaseModel):
    """How far reading has come: the next record is at `bookmark` in source number `source`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: int = 0
    bookmark: Bookmark = Bookmark()
    text_bytes: int = 0
    malformed: int = 0
    malformed_first: tuple[str, ...] = ()
    undecodable: int = 0  # of the malformed ones: plain text in another encoding
    blank: int = 0
    within: bool = False  # whether the next record goes on with a document

    def moved(self, source: int, bookmark: Bookmark, size: int, within: bool = False) -> "Cursor":
        """Return the cursor after reading went on to a bookmark, over `size` bytes of text."""
        place = {"source": source, "bookmark": bookmark, "within": within}
        return self.model_copy(update={**place, "text_bytes": self.text_bytes + size})

    def with_fault(self, fault: str, undecodable: bool) -> "Cursor":
        """Return the cursor after one more malformed record; `undecodable` says whether another encoding may help."""
        update = {
            "malformed": self.malformed + 1,
            "malformed_first": (*self.malformed_first, fault)[:SHOWN],
            "undecodable": self.undecodable + undecodable,
        }
        return self.model_copy(update=update)

    def with_blank(self) -> "Cursor":
        """Return the cursor after one more document of blanks alone."""
        return self.model_copy(update={"blank": self.blank + 1})


class Journal(BaseModel):
    """PREFIX.partial.json: lies beside the partial files until the set is finished."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: Request
    position: Position = Position()
    cursor: Cursor = Cursor()

    @classmethod
    def read(cls, prefix: str) -> "Journal | None":
        """Return the journal of an interrupted preparation, if there is one. Raises InputError when it is damaged."""
        path = journal_path(prefix)
        if not path.exists():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise InputError(f"{path} is damaged; start over with --force") from error

    def write(self, prefix: str) -> None:
        """Replace the journal in one piece."""
        durable.write(journal_path(prefix), self.model_dump_json().encode())


def left_out(counts: Cursor | Manifest) -> str:
    """Return in words how many malformed records and blank documents were left out, and the first malformed ones."""
    text = ""
    if counts.malformed:
        first = "; ".join(counts.malformed_first) + _hint(counts.undecodable > 0)
        text = f", {counts.malformed:,} malformed records left out (first: {first})"
    if counts.blank:
        text += f", {counts.blank:,} blank document{'s' * (counts.blank != 1)} left out"
    return text


def stopped_by(fault: str, undecodable: bool) -> Resumable:
    """Return the error to raise when a malformed record ends a strict preparation."""
    return Resumable(f"{fault}{_hint(undecodable)}; mend it, or leave out --strict to skip and count such records")


def _hint(undecodable: bool) -> str:
    """Return a hint that may help where plain text could not be decoded; else nothing."""
    return "; --encoding names another encoding, such as cp1252" if undecodable else ""


def journal_path(prefix: str) -> Path:
    """Return where the journal of a set lies."""
    return Path(f"{prefix}.partial.json")

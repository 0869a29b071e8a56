"""Facts of an imported model's folder that neither its weights nor a configuration tell: `import.json` in the run."""

from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phalanx import durable
from phalanx.errors import InputError
from phalanx.run.folder import RunFolder

FILE = "import.json"
FORMS = "hf", "megatron"  # of other programs' folders

Token = Annotated[int, Field(strict=True, ge=0, lt=1 << 30)]


class ModelSource(NamedTuple):
    """Where a model lies: in a run folder, or as FORM:FOLDER in that of another program, such as hf:FOLDER."""

    form: str  # "" for a run folder
    folder: Path

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the source that a user names. InputError where no folder is named."""
        form, colon, folder = text.partition(":")
        foreign = colon and form in FORMS
        if not (folder if foreign else text):
            raise InputError(f"{text!r} names no model; give a run, or hf:FOLDER")
        return cls(form, Path(folder)) if foreign else cls("", Path(text))

    def __str__(self) -> str:
        """Return the source as a user names it: a folder, with its form before a colon."""
        return f"{self.form}:{self.folder}" if self.form else str(self.folder)


class ImportRecord(BaseModel):
    """The facts of an imported model's folder. A run that was trained here has the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str = ""
    """The folder, as hf:PATH or megatron:PATH. Runs that were imported before this was kept have none."""
    missing: dict[str, str] = {}
    """Weights that the folder lacked, so that they are random: names here, and the folder's."""
    multilabel: bool = False
    """Classes that do not exclude one another: each has a probability of its own."""
    normalize: bool = True
    """Whether vectors of texts are brought to length 1."""
    begin: Token | None = None
    """The token that begins a text there, where it is another than the tokenizer's end of text."""
    ends: tuple[Token, ...] = ()
    """The tokens that end a text there, where they are others than the tokenizer's end of text."""
    no_vectors: str = ""
    """Why vectors of texts cannot be computed as the folder means them."""

    def unavailable(self, *heads: str) -> str:
        """Return why heads of the model, such as "masked", cannot be used: the weights that were not in the folder from
        which it was imported. Empty where they can.
        """
        names = [theirs for ours, theirs in self.missing.items() if ours.split(".")[0] in heads]
        return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not in its folder" if names else ""

    @classmethod
    def read(cls, run: RunFolder) -> Self:
        """Return the record of a run, the defaults where there is none. InputError where the file is damaged."""
        file = run.path / FILE
        try:
            return cls.model_validate_json(file.read_bytes()) if file.exists() else cls()
        except ValidationError:
            raise InputError(f"{file} is damaged; import the model again") from None

    def write(self, run: RunFolder) -> None:
        """Write the record into a run. Nothing is written where it has the defaults."""
        if self != type(self)():
            durable.write(run.path / FILE, self.model_dump_json(indent=2, exclude_defaults=True).encode())

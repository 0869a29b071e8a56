"""Facts of an imported model's folder that neither its weights nor a configuration tell: `import.json` in the run."""

from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phalanx import durable
from phalanx.errors import InputError
from phalanx.run import hub_models
from phalanx.run.folder import RunFolder

FILE = "import.json"
FORMS = "hf", "megatron", "gguf"  # of other programs' folders and files

Token = Annotated[int, Field(strict=True, ge=0, lt=1 << 30)]


class ModelSource(NamedTuple):
    """Where a model lies: in a run folder, or as FORM:FOLDER in that of another program, such as hf:FOLDER, or in its
    file, as gguf:FILE. What is no folder here may be a model of the Hugging Face hub, hf:org/name or
    hf:org/name@revision.
    """

    form: str  # "" for a run folder
    folder: Path

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the source that a user names. InputError where no folder is named."""
        form, colon, folder = text.partition(":")
        foreign = colon and form in FORMS
        if not (folder if foreign else text):
            raise InputError(f"{text!r} names no model; give a run, hf:FOLDER or gguf:FILE")
        return cls(form, Path(folder)) if foreign else cls("", Path(text))

    def __str__(self) -> str:
        """Return the source as a user names it: a folder, with its form before a colon."""
        return f"{self.form}:{self.folder}" if self.form else str(self.folder)

    @property
    def hub(self) -> str:
        """The name at the hub, org/name or org/name@revision; "" for a folder here and for what cannot be a name."""
        named = self.form == "hf" and hub_models.is_name(str(self.folder)) and not self.folder.exists()
        return str(self.folder) if named else ""

    @property
    def name(self) -> str:
        """The last part of where it lies, to call it by."""
        return self.hub.partition("@")[0].rpartition("/")[2] or self.folder.resolve().name

    @property
    def origin(self) -> str:
        """The source as a record keeps it, which holds in whatever folder a command is given."""
        return f"{self.form}:{self.hub or self.folder.resolve()}"

    def local(self, weights: bool = True) -> Path:
        """Return its folder on this machine. A model of the hub is downloaded first, with its `weights` or without.
        InputError where that cannot be done, or where a folder of Hugging Face's is neither here nor at the hub.
        """
        if self.hub:
            return hub_models.download(self.hub, weights)
        if self.form == "hf" and not self.folder.is_dir():
            raise InputError(
                f"{self}: there is no folder {self.folder} here; a model of the Hugging Face hub is named hf:org/name"
            )
        return self.folder


class ImportRecord(BaseModel):
    """The facts of an imported model's folder. A run that was trained here has the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str = ""
    """The folder or file, as hf:PATH, megatron:PATH or gguf:PATH, or a model of the hub, as hf:org/name@revision. Runs
    that were imported before this was kept have none.
    """
    commit: str = ""
    """The commit at which a model of the hub was imported."""
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
    chat_template: str = ""
    """How a conversation becomes a prompt, in Jinja, as the folder or file says it."""
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

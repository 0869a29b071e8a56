"""A model of another program made a run, whichever form it has that says all of itself: megatron: asks for more."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from phalanx.convert.huggingface import import_model
from phalanx.convert.imported import Imported
from phalanx.errors import InputError
from phalanx.run.import_record import ModelSource


def import_source(source: ModelSource, out: Path, seed: int = 0, outside: str = "", head: str = "") -> Imported:
    """Make a run of hf: or gguf:, as `import_model` or `gguf.import_file` does. InputError for another form, and for a
    file whose family or head is to be one from `outside`.
    """
    if source.form == "hf":
        return import_model(source, out, seed, outside, head)
    if source.form != "gguf":
        raise InputError(f"{source}: make a run of it first: phalanx import {source} --out RUN")
    if outside or head:
        raise InputError(f"{source}: --family and --head are for hf: folders; GGUF has its own names of families")
    imported: Imported = gguf().import_file(source.folder, out)
    return imported


def gguf() -> ModuleType:
    """Return the module phalanx.convert.gguf. InputError where the package that it needs is not installed."""
    try:
        return import_module("phalanx.convert.gguf")
    except ModuleNotFoundError as error:
        raise InputError(f"GGUF needs the package {error.name}; install phalanx[gguf]") from None

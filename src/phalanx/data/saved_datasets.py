"""Folders saved by Hugging Face's `datasets` (`save_to_disk`): which of their Arrow files are the data.

The library is not needed: state.json names the files of a Dataset, in order, and dataset_dict.json the splits of a
DatasetDict, each a folder with a Dataset.
"""

from typing import Any

from phalanx.data.remote import AnyPath
from phalanx.errors import InputError
from phalanx.foreign import short
from phalanx.strict_json import parse_json

DICT, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
DEFAULT = "train"


def is_saved(folder: AnyPath) -> bool:
    """Return whether a folder was saved by `datasets`."""
    return (folder / DICT).is_file() or ((folder / STATE).is_file() and (folder / INFO).is_file())


def saved_files(folder: AnyPath, split: str) -> list[AnyPath]:
    """Return the Arrow files of a saved Dataset, in order, or of the `split` of a saved DatasetDict, by default
    "train". InputError for a split that it has not, or for a file that is missing.
    """
    if (folder / DICT).is_file():
        splits = _read(folder / DICT).get("splits")
        if not isinstance(splits, list):
            raise InputError(f"{folder / DICT} does not name splits; save the data set again")
        return _files(folder / chosen(str(folder), split, [str(name) for name in splits]), "")
    return _files(folder, split)


def chosen(name: str, split: str, splits: list[str]) -> str:
    """Return the split to take of a data set that is called `name`. InputError that lists what it has for another."""
    if (split or DEFAULT) not in splits:
        raise InputError(f"{name} has no split {split or DEFAULT!r}; choose one with --split: {', '.join(splits)}")
    return split or DEFAULT


def _files(folder: AnyPath, split: str) -> list[AnyPath]:
    state = _read(folder / STATE)
    if split and (own := state.get("_split")) != split:
        raise InputError(f"{folder} is no data set of several splits, it is {own or 'one'} alone; leave out --split")
    if state.get("_indices_data_files"):
        raise InputError(f"{folder} selects rows of its files by an index; save it again after flatten_indices()")

    names = [entry.get("filename") for entry in state.get("_data_files") or [] if isinstance(entry, dict)]
    files = [folder / name for name in names if isinstance(name, str)]
    if not files:
        raise InputError(f"{folder / STATE} names no files of data; save the data set again")
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} is missing, which {STATE} beside it names; copy or save the data set again")
    return files


def _read(file: AnyPath) -> dict[str, Any]:
    try:
        content = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} cannot be read ({error}); save the data set again") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds {short(content)}, not an object; save the data set again")
    return content

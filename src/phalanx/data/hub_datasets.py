"""Data sets of the Hugging Face hub by name, hf-dataset:org/name[:config][@revision]: the files of a split, downloaded.

Which files those are is said by `configs` in the repository's README, else by the files' names, as `datasets` reads
them; no code of a repository is run. Files lie in huggingface_hub's own cache, which other programs share, and are used
from there without a network. Which files a commit has is noted beside them, or a part of a split that was downloaded
once would be taken for all of it then.
"""

import glob
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from phalanx import cache, durable
from phalanx.data.saved_datasets import DEFAULT, DICT, INFO, STATE, chosen
from phalanx.errors import InputError, Resumable
from phalanx.foreign import reading, short
from phalanx.hub import refusal, snapshot

PREFIX = "hf-dataset:"
README = "README.md"
# What says in the name of a file, or of its folders, of which split it is, where no number of shards does.
KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
NO_DATA = (INFO, "dataset_infos.json", DICT, STATE)

_NAME = re.compile(r"([\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?::([\w.+-]+))?(?:@([\w./-]+))?", re.ASCII)
_SHARD = re.compile(r"(?:.*/)?([\w.]+)-\d+-of-\d+(?:-[0-9a-f]+)?\.[\w.]+")
_GLOB = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def is_named(name: str) -> bool:
    """Return whether an input is a data set of the hub."""
    return name.startswith(PREFIX)


def split_files(name: str, split: str, known: Callable[[Path], bool]) -> list[Path]:
    """Return the files of a data set's split, by default of "train", in order, after those that are not in the cache
    were downloaded. `known` says whether a file's text can be read.

    InputError for a name, a configuration or a split that is not there, for files of other kinds, and where the hub
    cannot be asked and the cache has not all of them.
    """
    if not (parts := _NAME.fullmatch(name.removeprefix(PREFIX))):
        raise InputError(f"{name} names no data set; write hf-dataset:org/name, with :config and @revision if need be")
    if not find_spec("huggingface_hub"):
        raise Resumable(f"{name} needs the package huggingface_hub: pip install phalanx[hub]")
    repository, config, revision = parts.groups()

    with _told(name, repository, revision):
        folder = snapshot(repository, revision, [README], "dataset")
        listed = _listed(repository, folder.name)
    splits = _splits(name, _configurations(folder / README), config, listed, known)
    files = splits[chosen(name, split, [*splits])]
    if strange := [file for file in files if not known(Path(file))]:
        raise InputError(
            f"{name}: {strange[0]} is of a kind that is not read; text, JSONL, Parquet and Arrow files are"
        )

    with _told(name, repository, revision):
        folder = snapshot(repository, folder.name, [README, *map(glob.escape, files)], "dataset", bars=True)
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise Resumable(f"{name}: {missing[0]} is not in the cache, and the hub cannot be asked for it")
    return [folder / file for file in files]


def _listed(repository: str, commit: str) -> list[str]:
    """Return the names of all files of a commit: as noted, or as the hub says, in order."""
    from huggingface_hub import HfApi

    note = cache.home() / "hub" / repository.replace("/", "--") / f"{commit}.json"
    if note.is_file():
        with reading(note, "delete it, and the hub is asked again"):
            return [str(file) for file in json.loads(note.read_bytes())]
    files = sorted(HfApi().list_repo_files(repository, repo_type="dataset", revision=commit))
    note.parent.mkdir(parents=True, exist_ok=True)
    durable.write(note, json.dumps(files).encode())
    return files


def _configurations(readme: Path) -> list[dict[str, Any]]:
    """Return the `configs` of a README that name files."""
    from huggingface_hub.repocard import metadata_load

    if not readme.is_file():
        return []
    with reading(readme, "its head is to be YAML"):
        found = (metadata_load(readme) or {}).get("configs")
    entries = found if isinstance(found, list) else []
    return [each for each in entries if isinstance(each, dict) and ("data_files" in each or "data_dir" in each)]


def _splits(
    name: str, configurations: Sequence[dict[str, Any]], config: str | None, files: Sequence[str],
    known: Callable[[Path], bool],
) -> dict[str, list[str]]:  # fmt: skip
    """Return the files of each split, of the configuration `config` or of the one that is the default."""
    if configurations:
        return _described(name, _configuration(name, configurations, config), files, known)
    inside = [file for file in files if not config or file.startswith(f"{config}/")]
    if not (splits := _by_names(inside, known)):
        where = f" under {config}/" if config else ""
        raise InputError(f"{name} has no text, JSONL, Parquet or Arrow files{where}")
    return splits


def _configuration(name: str, configurations: Sequence[dict[str, Any]], config: str | None) -> dict[str, Any]:
    names = [str(each.get("config_name", "default")) for each in configurations]
    if config:
        chosen_ones = [each for each, own in zip(configurations, names, strict=True) if own == config]
    elif len(configurations) == 1:
        chosen_ones = [*configurations]
    else:
        pairs = zip(configurations, names, strict=True)
        chosen_ones = [each for each, own in pairs if each.get("default") is True or own == "default"]
    if not chosen_ones:
        raise InputError(
            f"{name} has no configuration {config or 'default'!r}; "
            f"write one as {PREFIX}org/name:CONFIG: {', '.join(names)}"
        )
    return chosen_ones[0]


def _described(
    name: str, configuration: dict[str, Any], files: Sequence[str], known: Callable[[Path], bool]
) -> dict[str, list[str]]:
    """Return the files of each split that a configuration of the README describes."""
    top = str(configuration.get("data_dir") or "").strip("/")
    inside = [file for file in files if not top or file.startswith(f"{top}/")]
    described = configuration.get("data_files")
    if described is None:
        return _by_names(inside, known)
    if isinstance(described, str) or not all(isinstance(entry, dict) for entry in described):
        described = [{"split": DEFAULT, "path": described}]

    splits: dict[str, list[str]] = {}
    for entry in described:
        patterns = [entry.get("path")] if isinstance(entry.get("path"), str) else entry.get("path")
        if not isinstance(patterns, list) or not patterns:
            raise InputError(f"{name}: its README names data_files {short(entry)}, which are no paths")
        split = splits.setdefault(str(entry.get("split", DEFAULT)), [])
        for pattern in patterns:
            matches = [file for file in inside if _matches(f"{top}/{pattern}".lstrip("/"), file)]
            if not matches:
                raise InputError(f"{name}: its README names files {pattern!r}, and it has none")
            split += [file for file in matches if file not in split]
    return splits


def _by_names(files: Sequence[str], known: Callable[[Path], bool]) -> dict[str, list[str]]:
    """Return the files of each split as their names tell it; all of them as "train" where none does."""
    data = [file for file in files if known(Path(file)) and Path(file).name not in NO_DATA]
    splits: dict[str, list[str]] = {}
    for file in data:
        if split := _split_of(file):
            splits.setdefault(split, []).append(file)
    return splits or ({DEFAULT: data} if data else {})


def _split_of(file: str) -> str:
    """Return the split that a file's name tells, or nothing."""
    if shard := _SHARD.fullmatch(file):
        return shard[1]
    words = re.split(r"[/._\s\d-]+", file)
    return next((split for split, keys in KEYWORDS.items() if not {*keys}.isdisjoint(words)), "")


def _matches(pattern: str, file: str) -> bool:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return re.fullmatch("".join(_GLOB.get(part) or re.escape(part) for part in parts), file) is not None


@contextmanager
def _told(name: str, repository: str, revision: str | None) -> Iterator[None]:
    """Raise Resumable, one line, for whatever the body, calls of huggingface_hub, raises."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise Resumable(f"{name}: {refusal(error, repository, revision, 'dataset', 'not all of it')}") from error

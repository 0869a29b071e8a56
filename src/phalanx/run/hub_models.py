"""Models of the Hugging Face hub by name: the files of one that are needed here, downloaded once."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from phalanx.errors import InputError
from phalanx.foreign import read_json
from phalanx.hub import fetch, refusal, snapshot

WEIGHTS = "model.safetensors", "pytorch_model.bin"  # the first that is there counts; a NAME.index.json has its pieces
SMALL = (  # files beside the weights, as patterns: configuration, tokenizer, chat templates, sentence-transformers
    "config.json", "generation_config.json", *(f"{name}.index.json" for name in WEIGHTS),
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "merges.txt",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "[0-9]_*/config.json",
)  # fmt: skip

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", re.ASCII)


def is_name(text: str) -> bool:
    """Return whether a text has the form of a model's name at the hub: org/name, or org/name@revision."""
    return _NAME.fullmatch(text) is not None


def download(name: str, weights: bool = True) -> Path:
    """Return the folder of a model of the hub, org/name or org/name@revision, as it is at that branch, tag or commit
    (by default at the main branch). It lies in huggingface_hub's cache and is called by its commit.

    What of it is not there yet is downloaded; `weights` in one format alone, safetensors where there are some.
    Without a network the copy in the cache is returned. InputError where there is none, where the hub has no such model
    or does not give it, and where huggingface_hub is not installed.
    """
    if not find_spec("huggingface_hub"):
        raise InputError(
            f"hf:{name}: there is no folder {name} here; to download a model of that name from the Hugging Face hub "
            "install phalanx[hub]"
        )
    repository, _, revision = name.partition("@")

    with _told(name, "no copy of it"):
        folder = snapshot(repository, revision or None, SMALL)
    if not weights or has_weights(folder):
        return folder

    for form in WEIGHTS:
        with _told(name, "only a part of it"):
            is_there = fetch(repository, folder.name, _files(folder, form))
        if is_there:
            print(f"phalanx: downloaded hf:{name} into {folder}", file=sys.stderr, flush=True)
            return folder
    raise InputError(f"hf:{name}: the hub has neither {' nor '.join(WEIGHTS)} of it, whole or in pieces")


def has_weights(folder: Path) -> bool:
    """Return whether a folder has all files of a model's weights in one of the formats."""
    return any(_is_whole(folder, form) for form in WEIGHTS)


def headers(name: str, folder: Path) -> dict[str, tuple[str, tuple[int, ...]]] | None:
    """Return the type and the shape of each tensor of a model of the hub, whose small files are in `folder`, by the
    headers of its safetensors; None where these cannot be had: without a network, or of other formats.
    """
    from huggingface_hub import HfApi

    try:
        found = HfApi().get_safetensors_metadata(name.partition("@")[0], revision=folder.name)
    except Exception:
        return None
    tensors = [item for file in found.files_metadata.values() for item in file.tensors.items()]
    return {tensor: (info.dtype, tuple(info.shape)) for tensor, info in tensors}


def _files(folder: Path, form: str) -> list[str]:
    """Return the files of the weights in a format: those that the index in the folder names, or the one file."""
    index = folder / f"{form}.index.json"
    pieces = read_json(index).get("weight_map") if index.is_file() else None
    if not isinstance(pieces, dict):
        return [form]
    return sorted({file for file in pieces.values() if isinstance(file, str)})


def _is_whole(folder: Path, form: str) -> bool:
    return all((folder / file).is_file() for file in _files(folder, form))


@contextmanager
def _told(name: str, cached: str) -> Iterator[None]:
    """Raise InputError, one line with both readings of a name that may be a folder's with a mistake in it, for whatever
    the body, calls of huggingface_hub, raises. `cached` says what of the model the cache has if the hub is not reached.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        repository, _, revision = name.partition("@")
        reason = refusal(error, repository, revision, "model", cached)
        raise InputError(f"hf:{name}: there is no folder {name} here, and {reason}") from error

"""Models of the Hugging Face hub by name: the files of one that are needed here, downloaded once.

They lie in huggingface_hub's own cache, which other programs share; without a network the copy there is used. A
transfer that breaks off is resumed, and files that a command had downloaded before it was stopped are not asked for
again.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from phalanx.errors import InputError
from phalanx.foreign import brief, read_json

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

    with _told(name, "no copy"):
        folder = _snapshot(repository, revision or None, SMALL, bars=False)
    if not weights or has_weights(folder):
        return folder

    for form in WEIGHTS:
        with _told(name, "only a part"):
            _snapshot(repository, folder.name, [*SMALL, *_files(folder, form)], bars=sys.stderr.isatty())
        if _is_whole(folder, form):
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


def _snapshot(repository: str, revision: str | None, patterns: Sequence[str], bars: bool) -> Path:
    """Download the files of a repository that any of the patterns means, and return their folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    class Silent(tqdm):
        def __init__(self, *values: Any, **named: Any) -> None:
            super().__init__(*values, **{**named, "disable": True})  # type: ignore[no-untyped-call]

    chosen = None if bars else Silent
    return Path(snapshot_download(repository, revision=revision, allow_patterns=[*patterns], tqdm_class=chosen))


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
        raise InputError(f"hf:{name}: there is no folder {name} here, and {_reason(name, error, cached)}") from error


def _reason(name: str, error: Exception, cached: str) -> str:
    """Return why the hub does not give a model, and what would do."""
    from huggingface_hub import constants, errors

    repository, _, revision = name.partition("@")
    hub, token = f"the hub ({constants.ENDPOINT})", "set HF_TOKEN to a token that may read it"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return f"{hub} {_unreached(error.__cause__)}, and the cache {constants.HF_HUB_CACHE} has {cached} of it"
    if isinstance(error, errors.GatedRepoError):
        return f"{hub} gives {repository} only to those who were granted access; ask for it on its page, and {token}"

    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{hub} has {repository}, but not the revision {revision} ({status})"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{hub} has no model {repository} ({status}); if it has, and it is private, {token}"
    if status in (401, 403):
        return f"{hub} refuses {repository} ({status}); {token}"
    return f"its download from {hub} failed ({brief(error)}); the same command goes on with what is missing"


def _unreached(cause: BaseException | None) -> str:
    """Return why the hub was not asked, or did not answer."""
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if cause is None or type(cause).__name__ == "OfflineModeIsEnabled":
        return "is not asked (HF_HUB_OFFLINE is set)"
    if status in (401, 403):
        return f"refuses it ({status}; set HF_TOKEN to a token that may read it)"
    return f"answers {status}" if status else f"cannot be reached ({brief(cause)})"

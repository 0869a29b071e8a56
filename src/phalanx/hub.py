"""The Hugging Face hub, asked through huggingface_hub: files of a repository, and why it does not give them.

Files lie in huggingface_hub's own cache, which other programs share; without a network those there are used. A transfer
that breaks off is resumed, and files that a command had downloaded before it was stopped are not asked for again.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from phalanx.foreign import brief

Kind = Literal["model", "dataset"]
TOKEN = "set HF_TOKEN to a token that may read it"


def snapshot(
    repository: str, revision: str | None, patterns: Sequence[str], kind: Kind = "model", bars: bool = False
) -> Path:
    """Download the files of a repository that any pattern means, with `bars` if there is a terminal to show them.
    Return their folder, which is called by the commit. Errors are those of huggingface_hub: `refusal` tells them.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    class Silent(tqdm):
        def __init__(self, *values: Any, **named: Any) -> None:
            super().__init__(*values, **{**named, "disable": True})  # type: ignore[no-untyped-call]

    shown = None if bars and sys.stderr.isatty() else Silent
    place = snapshot_download(
        repository, repo_type=kind, revision=revision, allow_patterns=[*patterns], tqdm_class=shown
    )
    return Path(place)


def fetch(repository: str, commit: str, files: Sequence[str]) -> bool:
    """Download large files of a model, each with a bar if there is a terminal, and return whether it has them all.

    They come one after another in this thread, so that Ctrl-C ends the command at once: it would wait for threads until
    their files are whole.
    """
    from huggingface_hub import errors, hf_hub_download

    for file in files:
        try:
            hf_hub_download(repository, file, revision=commit)
        except errors.LocalEntryNotFoundError:
            raise
        except errors.EntryNotFoundError:
            return False
    return True


def refusal(error: Exception, repository: str, revision: str | None, kind: Kind, cached: str) -> str:
    """Return why the hub does not give a repository, and what would do: an error of huggingface_hub as a clause.
    `cached` says what of it the cache has, where the hub is not reached.
    """
    from huggingface_hub import constants, errors

    hub = f"the hub ({constants.ENDPOINT})"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        cause = error.__cause__ or errors.OfflineModeIsEnabled()
        return f"{hub} {_unreached(cause)}, and the cache {constants.HF_HUB_CACHE} has {cached}"
    if isinstance(error, errors.GatedRepoError):
        return f"{hub} gives {repository} only to those who were granted access; ask for it on its page, and {TOKEN}"

    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{hub} has {repository}, but not the revision {revision} ({status})"
    if isinstance(error, errors.RepositoryNotFoundError):
        what = {"model": "model", "dataset": "data set"}[kind]
        return f"{hub} has no {what} {repository} ({status}); if it has, and it is private, {TOKEN}"
    if status in (401, 403):
        return f"{hub} refuses {repository} ({status}); {TOKEN}"
    return f"its download from {hub} failed ({brief(error)}); the same command goes on with what is missing"


def _unreached(cause: BaseException) -> str:
    """Return why the hub was not asked, or did not answer."""
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if type(cause).__name__ == "OfflineModeIsEnabled":
        return "is not asked (HF_HUB_OFFLINE is set)"
    if status in (401, 403):
        return f"refuses it ({status}; {TOKEN})"
    return f"answers {status}" if status else f"cannot be reached ({brief(cause)})"

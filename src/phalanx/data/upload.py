"""Prepared sets that are to lie in an object store: made in the cache, where a preparation goes on, then sent.

The manifest is sent last, and taken away first where a set is replaced: a set that has one is whole. A mark beside the
set, PREFIX.partial.json, says who prepares it; writing that also shows, before any work, that one may.
"""

import fcntl
import hashlib
import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from rich.console import Console

from phalanx import cache, durable
from phalanx.data.indexed import set_paths
from phalanx.data.manifest import SUFFIXES, Manifest, manifest_path
from phalanx.data.meter import Meter
from phalanx.data.remote import RemotePath
from phalanx.data.source_names import is_remote
from phalanx.errors import InputError
from phalanx.strict_json import parse_json


def staging(out: str) -> str:
    """Return the prefix under which the set `out` is made on this machine: `out` itself unless that is remote."""
    if not is_remote(out):
        return out
    folder = cache.home() / "staging" / hashlib.sha256(out.encode()).hexdigest()[:24]
    return str(folder / RemotePath(out).name)


def claim(out: str, force: bool) -> None:
    """Mark a remote set as being prepared here. InputError where it may not be written, where there is one already, and
    where somebody else prepares it, unless `force` is to replace it.
    """
    if out.startswith(("http://", "https://")):
        raise InputError(f"--out {out}: a set is not written to a web server; give s3://, gs:// or a path")
    Path(staging(out)).parent.mkdir(parents=True, exist_ok=True)  # or the mark would speak of what cannot be
    mark, ours = mark_path(out), {"machine": platform.node(), "staging": staging(out)}
    if not force:
        theirs = parse_json(mark.read_bytes()) if mark.exists() else None
        if theirs and theirs != ours:
            place = f"{theirs.get('staging')} on {theirs.get('machine')}" if isinstance(theirs, dict) else "elsewhere"
            raise InputError(f"{mark} says that {place} is to become this set; go on there, or start here with --force")
        for path in (manifest_path(out), *set_paths(out)):
            if not theirs and path.exists():
                raise InputError(f"{path} exists and comes from other inputs or options; --force replaces it")
    mark.write_bytes(json.dumps(ours).encode())


def release(out: str) -> None:
    """Take the mark away again."""
    mark_path(out).unlink(missing_ok=True)


def publish(out: str, console: Console) -> Manifest:
    """Send the finished set that was made for `out`, go on where that was interrupted, and remove it here. Return the
    manifest as it lies there: the times in it are the versions of the files sent.
    """
    made = staging(out)
    with _alone(made):
        manifest = Manifest.read(made)
        RemotePath(str(manifest_path(out))).unlink(missing_ok=True)
        versions = _send(made, out, manifest, console)

        written = {
            suffix: manifest.written[suffix].model_copy(update={"time": versions[manifest.sha256[suffix]]})
            for suffix in SUFFIXES
        }
        published = manifest.model_copy(update={"written": written})
        published.write(out)
        release(out)
        shutil.rmtree(Path(made).parent)
    return published


def _send(made: str, out: str, manifest: Manifest, console: Console) -> dict[str, int]:
    """Send what is not there yet, the index last. Return the versions of the files there, by their checksums."""
    note = Path(f"{made}.sent.json")
    stamps = parse_json(note.read_bytes()) if note.exists() else {}  # of the files there, by checksum
    files = {
        manifest.tokenizer_sha256: (Path(f"{made}.tokenizer.json"), RemotePath(f"{out}.tokenizer.json")),
        **{manifest.sha256[s]: (Path(f"{made}.{s}"), RemotePath(f"{out}.{s}")) for s in SUFFIXES},
    }

    sizes = [file.stat().st_size for file, _ in files.values()]
    with Meter(console, f"sending to {out}", sum(sizes)) as meter:
        for (checksum, (file, there)), before in zip(files.items(), accumulate(sizes, initial=0), strict=False):
            if checksum not in stamps or not there.exists() or [*there.stamp()] != stamps[checksum]:
                there.upload(file, lambda sent, before=before: meter.show(before + sent, 0))  # type: ignore[misc]
                stamps[checksum] = there.stamp()
                durable.write(note, json.dumps(stamps).encode())
    return {checksum: version for checksum, (_, version) in stamps.items()}


@contextmanager
def _alone(made: str) -> Iterator[None]:
    """Keep others from sending what was made. InputError where one does already."""
    with Path(f"{made}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{made} is being sent by another process; wait for it") from None
        yield


def mark_path(out: str) -> RemotePath:
    """Return where the mark of a remote set lies while it is being prepared."""
    return RemotePath(f"{out}.partial.json")

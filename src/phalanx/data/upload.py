"""Prepared sets that are to lie in an object store: made in the cache, where a preparation goes on, then sent.

The manifest is sent last, and taken away first where a set is replaced: a set that has one is whole. A mark beside the
set, PREFIX.partial.json, says who prepares it; writing that also shows, before any work, that one may.
"""

import hashlib
import json
import platform
import shutil
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
    mark, ours = _mark(out), {"machine": platform.node(), "staging": staging(out)}
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
    _mark(out).unlink(missing_ok=True)


def publish(out: str, console: Console) -> Manifest:
    """Send the finished set that was made for `out`, go on where that was interrupted, and remove it here. Return the
    manifest as it lies there: the times in it are the versions of the files sent.
    """
    made = staging(out)
    manifest, note = Manifest.read(made), Path(f"{made}.sent.json")
    sent = parse_json(note.read_bytes()) if note.exists() else {}  # stamps there, by the checksums of what was sent
    files = {
        manifest.tokenizer_sha256: (f"{made}.tokenizer.json", f"{out}.tokenizer.json"),
        **{manifest.sha256[suffix]: (f"{made}.{suffix}", f"{out}.{suffix}") for suffix in SUFFIXES},
    }

    RemotePath(str(manifest_path(out))).unlink(missing_ok=True)
    sizes = [Path(local).stat().st_size for local, _ in files.values()]
    with Meter(console, f"sending to {out}", sum(sizes)) as meter:
        for (checksum, (local, name)), before in zip(files.items(), accumulate(sizes, initial=0), strict=False):
            there = RemotePath(name)
            if checksum not in sent or not there.exists() or [*there.stamp()] != sent[checksum]:
                there.upload(Path(local), lambda count, before=before: meter.show(before + count, 0))  # type: ignore[misc]
                sent[checksum] = [*there.stamp()]
                durable.write(note, json.dumps(sent).encode())

    written = {
        suffix: manifest.written[suffix].model_copy(update={"time": sent[manifest.sha256[suffix]][1]})
        for suffix in SUFFIXES
    }
    published = manifest.model_copy(update={"written": written})
    published.write(out)
    release(out)
    shutil.rmtree(Path(made).parent)
    return published


def _mark(out: str) -> RemotePath:
    return RemotePath(f"{out}.partial.json")

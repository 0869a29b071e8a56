"""Two trees side by side: both do the same jobs, in processes of this interpreter on this machine."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from tests.unchanged.differences import differing
from tests.unchanged.jobs import INPUTS, Job, write_texts

HERE = Path(__file__).parents[2]
PHALANX = 'phalanx() { "$PYTHON" -m phalanx "$@"; }\nset -e\n'


class Failed(Exception):
    """The comparison cannot be made: there is no such commit, or it does not do a job that it should."""


@dataclass(frozen=True)
class Side:
    """A tree with its `src`, and the folder in which it does its jobs, each in a folder of the job's name."""

    tree: Path
    folder: Path
    cache: Path  # of compiled kernels, which are named by their source

    def do(self, job: Job) -> str:
        """Do a job, unless its files are there of an earlier time. The exit code and last words of one that fails."""
        folder = self.folder / job.name
        done, errors = folder.with_name(f"{folder.name}.done"), folder.with_name(f"{folder.name}.errors")
        if done.exists() and done.read_text() == job.script:
            return ""

        done.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with (folder / "output.txt").open("wb") as output, errors.open("wb") as stderr:
            code = subprocess.run(
                ["sh", "-c", PHALANX + job.script],
                cwd=folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=stderr,
            ).returncode  # fmt: skip
        if code:
            last = errors.read_text(errors="replace").strip().rpartition("\n")[2]
            return f"exit code {code}: {last}"
        done.write_text(job.script)
        return ""

    @property
    def environment(self) -> dict[str, str]:
        """Of the job's processes: this tree, one thread, no GPU, and nothing that the terminal decides."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PHALANX_")}
        own = {"PYTHON": sys.executable, "PYTHONPATH": f"{self.tree / 'src'}:{HERE}", "XDG_CACHE_HOME": str(self.cache)}
        plain = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}
        return {**kept, **own, **plain}


@dataclass(frozen=True)
class Pair:
    """The older commit and the tree at hand. Both begin from what the older one made, in its folder `in`."""

    old: Side
    new: Side

    def differences(self, job: Job) -> dict[str, str]:
        """By file, what differs first; by "exit code" how the newer tree fails. Failed where the older does."""
        if error := self.old.do(job):
            raise Failed(f"{job.name}: {error} in the older tree")
        if error := self.new.do(job):
            return {"exit code": error}
        return differing(self.old.folder / job.name, self.new.folder / job.name, job.compared, job.tolerance)


def make(commit: str, keep: Path) -> Pair:
    """Both sides in a folder, where the older one's results stay as long as commit, machine, packages and inputs do."""
    named = _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").decode().strip()
    made_of = "".join(job.script for job in INPUTS) + _machine()
    root = keep / f"{named[:12]}-{hashlib.sha256(made_of.encode()).hexdigest()[:8]}"
    old = Side(root / "tree", root / "old", keep / "cache")
    if not old.tree.exists():
        with tarfile.open(fileobj=io.BytesIO(_git("archive", named, "src"))) as archive:
            archive.extractall(root / "partial", filter="data")
        (root / "partial").rename(old.tree)
    inputs = old.folder / "in"
    inputs.mkdir(parents=True, exist_ok=True)
    write_texts(inputs)

    new = Side(HERE, root / "new", keep / "cache")
    shutil.rmtree(new.folder, ignore_errors=True)
    new.folder.mkdir()
    (new.folder / "in").symlink_to(inputs.resolve())
    return Pair(old, new)


def _git(*words: str) -> bytes:
    ended = subprocess.run(["git", "-C", str(HERE), *words], capture_output=True)
    if ended.returncode:
        raise Failed(f"git {' '.join(words)}: {ended.stderr.decode().strip() or 'no such commit'}")
    return ended.stdout


def _machine() -> str:
    """What results depend on beside the sources: the processor and the packages."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    processor = {line for line in lines if line.startswith(("model name", "flags"))}
    packages = sorted(f"{each.name} {each.version}" for each in distributions())
    return repr((sorted(processor), sys.version, os.environ.get("ATEN_CPU_CAPABILITY"), packages))

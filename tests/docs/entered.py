"""Which files of Phalanx a training run enters, and their lines: `python -m tests.docs.entered`.

In every process of a run on tp · pp · dp a profiler notes each function that is called; what only defines counts not.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import phalanx

ROOT = Path(phalanx.__file__).parent
HOOK = """
import atexit, os, sys, threading
seen, leave = set(), os._exit

def note(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_flags & 2 and "/phalanx/" in code.co_filename:  # a function, of Phalanx's
        seen.add(code.co_filename)

def write():
    with open(os.path.join(os.environ["ENTERED"], str(os.getpid())), "w") as file:
        file.write("\\n".join(seen))

def end(code):
    write()
    leave(code)

os._exit = end
atexit.register(write)
sys.setprofile(note)
threading.setprofile(note)
"""
LAYOUT = "layout.tp=2 layout.pp=2 layout.dp=2 train.batch=8 train.steps=2 train.device=cpu train.compile=off"


def entered(folder: Path) -> list[Path]:
    """The files that 8 processes enter which train a small GPT for two steps; `folder` is for their data and notes."""
    (folder / "text.txt").write_text("A line of a text.\n\n" * 2000)
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    (folder / "notes").mkdir()
    phalanx_ = [sys.executable, "-m", "phalanx"]
    prepare = f"prepare {folder}/text.txt --out {folder}/set --tokenizer gpt2 --document blank-line".split()
    subprocess.run([*phalanx_, *prepare], check=True, capture_output=True)

    path = os.pathsep.join([str(folder / "hook"), str(ROOT.parent)])
    train = f"train gpt-tiny data.train={folder}/set {LAYOUT} --out {folder}/run".split()
    environment = {**os.environ, "PYTHONPATH": path, "ENTERED": str(folder / "notes"), "OMP_NUM_THREADS": "1"}
    subprocess.run([*phalanx_, *train], check=True, capture_output=True, env=environment)
    names = {name for note in (folder / "notes").iterdir() for name in note.read_text().splitlines()}
    return sorted(path for path in map(Path, names) if path.is_relative_to(ROOT))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        files = entered(Path(folder))
    counts = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    print(*(f"{count:6}  {file.relative_to(ROOT)}" for file, count in counts.items()), sep="\n")
    print(f"{len(files)} files of {sum(counts.values()):,} lines")

"""How soon a run is under way, and what a checkpoint costs it.

    python -m benchmarks.starting [help first checkpoint limits] [--folder .] [--json FILE]

help        `phalanx --help`, from the start of the process to its end
first       `phalanx train`, from the start of the process to the record of step 1: a tiny model and a small one, as it
            comes and compiled, with the compiler's caches empty and kept from the start before
checkpoint  GPT-2 355M with both of AdamW's moments: how long the loop stands still for a save, what it does to the
            steps until it is written, and loading beside reading the same files one after another
limits      what may take so long and no longer: the help, a plan for 512 GPUs, the trace of a rank of GPT-2 8.3B, and a
            first step; of the processor too, which tells more where others use the machine, and of one core

Files are written in a temporary folder in --folder, whose disk is measured, and removed.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.origin import machine

PHALANX = [sys.executable, "-m", "phalanx"]
TINY = ["gpt-tiny", "train.batch=8"]
SMALL = [*TINY, "model.layers=6", "model.hidden=384", "model.heads=6", "data.sequence=256", "train.batch=4"]
LIMITS = {  # in seconds
    "phalanx --help": (0.3, ["--help"]),
    "plan, 512 GPUs": (2.0, ["plan", "gpt2-8.3b", "--gpus", "512"]),
    "trace, 8.3B": (30.0, ["trace", "gpt2-8.3b", "layout.tp=8", "train.batch=512", "--ranks", "512"]),
    "first step": (4.0, ["train", *TINY]),  # and the end of that run, which writes a checkpoint
}
COLD, WARM = "read from the disk", "from the page cache"
Figures = dict[str, float]


def helped(_: Path, rounds: int) -> Figures:
    """The program's help."""

    def once() -> float:
        begun = time.perf_counter()
        subprocess.run([*PHALANX, "--help"], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begun

    return {"phalanx --help, s": statistics.median(once() for _ in range(rounds + 1))}


def limited(folder: Path, _: int) -> Figures:
    """Seconds by the clock and of one processor of what has a limit, once each; "over" where both are beyond it."""
    data, figures = _data(folder), Figures()
    run = [f"data.train={data}", "train.device=cpu", "train.compile=off", "train.steps=1", "train.eval_every=0"]
    for name, (limit, words) in LIMITS.items():
        more = [*run, "--out", str(folder / "limited")] if name == "first step" else []
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*PHALANX, *words, *more], check=True, stdout=subprocess.DEVNULL, env=environment)
        seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        over = "over" if min(seconds, busy) > limit else "within"
        figures |= {f"{name}, s": seconds, f"{name}, s of a processor, {over} {limit:g}": busy}
    return figures


def first(folder: Path, rounds: int) -> Figures:
    """First steps."""
    data = _data(folder)
    figures = {"import torch, s": statistics.median(_imported() for _ in range(rounds))}
    for name, words in ("tiny", TINY), ("small", SMALL):
        runs = [_first_step(folder, [*words, "train.compile=off"], data) for _ in range(rounds)]
        figures[f"first step, {name}, s"] = statistics.median(runs)
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    figures["first step, small, compiled, s"] = _first_step(folder, [*SMALL, "train.compile=on"], data, caches)
    figures["the same again, s"] = _first_step(folder, [*SMALL, "train.compile=on"], data, caches)
    return figures


def _imported() -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - begun


def _data(folder: Path) -> Path:
    """A prepared novel."""
    import phalanx

    (novel,) = (Path(phalanx.__file__).parent / "assets" / "novels").glob("Burnett_Garden*")
    tokenizer, out = folder / "tokenizer.json", folder / "data"
    for words in (
        ["tokenizer", "train", str(novel), "--out", str(tokenizer), "--vocab", "2048"],
        ["prepare", str(novel), "--out", str(out), "--tokenizer", str(tokenizer), "--document", "blank-line"],
    ):
        subprocess.run([*PHALANX, *words], check=True, stdout=subprocess.DEVNULL)
    return out


def _first_step(folder: Path, words: list[str], data: Path, caches: dict[str, str] | None = None) -> float:
    """Seconds from the start of the process to when the step's record was written."""
    out = Path(tempfile.mkdtemp(dir=folder)) / "run"
    settings = [f"data.train={data}", "train.device=cpu", "train.steps=1", "train.eval_every=0"]
    begun = time.time()
    command = [*PHALANX, "train", *words, *settings, "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | (caches or {}))
    return (out / "metrics.jsonl").stat().st_mtime - begun


def checkpointed(folder: Path, _: int) -> Figures:
    """Saves and loads of a trainer."""
    import torch

    from benchmarks.trained import Shape, trainer_of
    from phalanx.run.folder import RunFolder
    from phalanx.train import state

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    run = RunFolder(folder / "run")
    run.checkpoints.mkdir(parents=True)
    trainer, _told = trainer_of(Shape(24, 1024, 16, 1, 50304, 128), run)
    trained, saver = trainer._state(), trainer.checkpointer
    places = state.places(trained, trainer.parameters)
    size = sum(t.nbytes for part in (trained["model"], *trained["optimizer"]["state"].values()) for t in part.values())
    saver.prepare(trained)
    number = 0

    def step() -> float:
        nonlocal number
        begun = time.perf_counter()
        trainer.step(number)
        number += 1
        return time.perf_counter() - begun

    stood: list[float] = []
    waiting = saver.staged

    def staged() -> None:
        begun = time.perf_counter()
        waiting()
        stood[-1] += time.perf_counter() - begun

    saver.staged = staged
    stood.append(0.0)
    step()
    saver._thread.submit(bool).result()
    alone = statistics.median(step() for _ in range(3))
    figures: Figures = {"checkpoint, GB": size / 1e9, "a step alone, s": alone}
    for name in "first save", "next save":
        begun = time.perf_counter()
        saver.save(number, trained, places=places)
        stood.append(time.perf_counter() - begun)
        beside = [step()]
        while saver._writing is not None and not saver._writing.done():
            beside.append(step())
        saver.wait()
        figures[f"{name}: the loop stands still, s"] = stood[-1]
        figures[f"{name}: steps beside it"] = len(beside)
        figures[f"{name}: these took longer by, s in all"] = sum(beside) - alone * len(beside)
    begun = time.perf_counter()
    saver.save(number, trained, places=places)
    saver.wait()
    figures["a save with nothing beside it, GB/s"] = size / 1e9 / (time.perf_counter() - begun)
    files = sorted((run.checkpoints / f"step-{number:07d}").glob("*.safetensors"))
    return figures | _loaded(trained, lambda: saver.load(trained, places=places), files, size)


def _loaded(trained: Any, load: Callable[[], object], files: list[Path], size: int) -> Figures:
    """How fast a checkpoint of `size` bytes is loaded, beside its files read as they are."""
    import torch

    figures: Figures = {}
    weight = next(iter(trained["model"].values()))
    expected = weight.clone()
    weight.zero_()
    buffer = bytearray(1 << 24)
    for state_, evict in (COLD, True), (WARM, False):
        read = _speed(size, lambda: _read(files, buffer), files, evict)
        loaded = _speed(size, load, files, evict)
        figures |= {
            f"files {state_}, GB/s": read,
            f"loaded {state_}, GB/s": loaded,
            f"of that, {state_}": loaded / read,
        }
    assert torch.equal(weight, expected)
    return figures


def _speed(size: int, action: Callable[[], object], files: list[Path], evict: bool) -> float:
    """GB/s, the median of three."""
    times = []
    for _ in range(3):
        for file in files if evict else ():
            handle = os.open(file, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
        begun = time.perf_counter()
        action()
        times.append(time.perf_counter() - begun)
    return size / 1e9 / statistics.median(times)


def _read(files: list[Path], buffer: bytearray) -> None:
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass


SUBJECTS: dict[str, Callable[[Path, int], Figures]] = {
    "help": helped,
    "first": first,
    "checkpoint": checkpointed,
    "limits": limited,
}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", help=f"of {', '.join(SUBJECTS)}; all by default")
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure; 13 GB for checkpoints")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each kind; the median is told")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    if unknown := set(words.subjects) - set(SUBJECTS):
        parser.error(f"no subject {', '.join(unknown)}; there are {', '.join(SUBJECTS)}")
    print(machine(), flush=True)
    told: dict[str, Any] = {"machine": machine(), "load": os.getloadavg()[0]}
    for subject in words.subjects or SUBJECTS:
        with tempfile.TemporaryDirectory(dir=words.folder, prefix="starting-") as folder:
            figures = SUBJECTS[subject](Path(folder), words.rounds)
        told[subject] = figures
        for name, value in figures.items():
            print(f"{name:<55} {value:8.3f}", flush=True)
    if words.json:
        words.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()

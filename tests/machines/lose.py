"""Train on three hosts under torchrun, lose one on the way, go on with those that are left, and compare with a run that
nothing happened to. By hand, as root: python -m tests.machines.lose kill gamma
"""

import argparse
import contextlib
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from phalanx.run import records
from phalanx.run.folder import RunFolder
from tests.interpreter import python
from tests.machines.hosts import NAMES, Hosts, refused
from tests.train.processes import command, start
from tests.train.runs import Corpus, make_corpus

STEPS, LOST_AT = 40, 15
WORDS = ["train.batch=12", f"train.steps={STEPS}", "train.eval_every=0", "save.every=5", "model.dropout=0.1"]
# torchrun's own: 30 and 5 seconds. On a busy machine a host may take long to come to the first meeting, or to say that
# it is still there; without it the others would begin, and stop to meet again.
AGREEMENT = "last_call_timeout=10,keep_alive_interval=3"
# No limit: ranks that start in tenths of a second may fail to meet often before torchrun knows who is left.
RESTARTS = 1_000_000
PATIENCE = 300  # seconds, against a test that would hang


class Machines:
    """One training under torchrun on several hosts; `tell` hears what happens, and when."""

    def __init__(self, hosts: Hosts, words: Sequence[str], run: Path, tell: Callable[[str], None]) -> None:
        self.hosts, self.words, self.run, self.tell = hosts, words, run, tell
        self.logs = run.parent / "logs"
        self.logs.mkdir(exist_ok=True)
        self.agents: dict[str, subprocess.Popen[str]] = {}

    def start(self, names: Sequence[str]) -> None:
        """The same command on each of these hosts; the first is where they meet."""
        up = self.run.with_name(f"up-{len(names)}")
        up.mkdir()
        torchrun = [python(), "-c", "from tests.machines.lose import agent; agent()", str(up), str(len(names)),
                    f"--nnodes=2:{len(names)}", "--nproc-per-node=1",
                    "--rdzv-backend=c10d", f"--rdzv-endpoint={names[0]}:29500", f"--rdzv-conf={AGREEMENT}",
                    f"--max-restarts={RESTARTS}", "--monitor-interval=0.2"]  # fmt: skip
        phalanx = ["-m", "phalanx", *self.words, str(self.run)]
        self.tell(f"torchrun on {', '.join(names)}")
        for name in names:
            with (self.logs / f"{name}.txt").open("a") as log:
                self.agents[name] = self.hosts.run(name, [*torchrun, *phalanx], log, {"OMP_NUM_THREADS": "1"})

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait, and tell of every start and of every twentieth step; TimeoutError when it never comes to that."""
        deadline, told, over = time.monotonic() + PATIENCE, self._progress(), False
        while not reached():
            now = self._progress()
            if now[0] != told[0] or now[1] // 20 > told[1] // 20:
                self.tell(f"start {now[0]}, step {now[1]} of {STEPS}")
                told = now
            if over or time.monotonic() > deadline:
                raise TimeoutError(self.said())
            over = self.ended([*self.agents])
            time.sleep(0.01)

    @property
    def starts(self) -> int:
        """How often training began or went on."""
        return self._progress()[0]

    @property
    def step(self) -> int:
        """The newest step."""
        return self._progress()[1]

    def noticed(self, name: str) -> bool:
        """Whether this host's process has missed another."""
        return "lost another process" in (self.logs / f"{name}.txt").read_text()

    def ended(self, names: Sequence[str]) -> bool:
        """Whether torchrun has come to its end on these hosts."""
        return all(self.agents[name].poll() is not None for name in names)

    def said(self) -> str:
        """The ends of what the hosts printed."""
        return "\n".join(f"{log.stem}: {log.read_text()[-3000:]}" for log in sorted(self.logs.iterdir()))

    def _progress(self) -> tuple[int, int]:
        told = _records(self.run)
        return sum(record["kind"] == "start" for record in told), max((record["step"] for record in told), default=0)


def lose(fault: str, victim: str, corpus: Corpus, folder: Path, tell: Callable[[str], None] = lambda _: None) -> float:
    """The largest difference of a loss to that of one process that nothing happened to. `fault` is kill or cut."""
    words = ["train", "gpt-tiny", *corpus.words("gpt"), *WORDS, "--out"]
    alone = start(command, folder, *words, str(folder / "alone"))
    with Hosts(3) as hosts:
        left = [name for name in hosts.names if name != victim]
        machines = Machines(hosts, words, folder / "run", tell)
        machines.start(hosts.names)
        machines.until(lambda: machines.step >= LOST_AT)
        tell(f"{fault} {victim}")
        getattr(hosts, fault)(victim)
        aware = left if fault == "kill" else hosts.names
        machines.until(lambda: all(machines.noticed(name) for name in aware))
        tell(f"{', '.join(aware)} noticed")
        if victim == hosts.names[0]:  # where torchrun met: it cannot meet there again, and may wait for ever
            for name in left:
                hosts.kill(name)
            machines.start(left)
        machines.until(lambda: machines.ended(left))
        assert [machines.agents[name].returncode for name in left] == [0, 0], machines.said()
    assert machines.starts == 2 and RunFolder(folder / "run").config().layout.dp == 2
    alone.join()
    one, several = _losses(folder / "alone"), _losses(folder / "run")
    assert list(one) == list(several) == list(range(1, STEPS + 1))
    return max(abs(one[step] - several[step]) for step in one)


def agent() -> None:
    """torchrun, in a process whose words are a folder, a number, and torchrun's own: it begins when so many processes
    are up, each of which has put a file into the folder.
    """
    up, count, *words = sys.argv[1:]
    tempfile.mkstemp(dir=up)
    while len([*Path(up).iterdir()]) < int(count):
        time.sleep(0.01)
    sys.argv = ["torchrun", *words]
    runpy.run_module("torch.distributed.run", run_name="__main__")


def _losses(run: Path) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in _records(run) if record["kind"] == "train"}


def _records(run: Path) -> list[records.Record]:
    """Those there are by now."""
    with contextlib.suppress(FileNotFoundError):
        return records.read(run / records.FILE)
    return []


def main() -> None:
    """Tell what happens, with seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fault", choices=("kill", "cut"))
    parser.add_argument("host", choices=NAMES[:3])
    chosen = parser.parse_args()
    if reason := refused():
        sys.exit(reason)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder))
        gap = lose(
            chosen.fault, chosen.host, corpus, Path(folder),
            lambda text: print(f"{time.monotonic() - began:5.1f} s  {text}", flush=True),
        )  # fmt: skip
    print(f"largest difference to one process, over {STEPS} steps: {gap:.1e}")


if __name__ == "__main__":
    main()

"""Kill and stop ranks and launchers of tiny runs at random moments, and see that nothing is left behind, that the run
resumes, and that its curve is that of a run left alone. By hand: python -m tests.faults.kills --kills 50 --stops 20
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from phalanx.run.folder import RunFolder
from phalanx.runtime.watchdog import EXIT_CODE
from tests.faults.launched import Launched, alive, is_free, wait_until
from tests.train.runs import Corpus, curve, make_corpus, starts_and_steps

FARTHEST = 12  # steps that a run does at most before the next fault
LAYOUTS = {
    "tp2": ["--procs", "2", "layout.tp=2"],
    "pp2": ["--procs", "2", "layout.pp=2"],
    "zero3": ["--procs", "3", "layout.shard=zero3", "train.batch=9"],
    "dp2 tp2": ["--procs", "4", "layout.tp=2"],
    "pp2 tp2": ["--procs", "4", "layout.pp=2", "layout.tp=2"],
}


class Disturbed:
    """A run on a layout that meets with one fault after another."""

    def __init__(self, corpus: Corpus, folder: Path, layout: str, faults: int, dice: random.Random) -> None:
        self.dice, self.run, self.whole = dice, folder / layout.replace(" ", "-"), folder / f"{layout}-whole"
        self.words = [
            "gpt-tiny", *corpus.words("gpt"), f"train.steps={FARTHEST * (faults + 1)}", "train.eval_every=7",
            "save.every=3", "layout.micro_batch=2", "model.dropout=0.1", *LAYOUTS[layout], "layout.timeout=5",
        ]  # fmt: skip

    def meet(self, number: signal.Signals) -> str:
        """Start or go on, meet with a signal at a random moment, and end; what happened."""
        launched = Launched(self.run, self.words)
        try:
            moment = self._moment(launched, starting=number == signal.SIGKILL)
            ranks = launched.ranks()
            at = self.dice.randrange(-1, len(ranks)) if ranks else -1
            os.kill(launched.number if at < 0 else ranks[at], number)
            code = self._ended(launched, number, at)
            wait_until(lambda: not alive([launched.number, *ranks]) and is_free(self.run))
            assert not any("Traceback" in line for line in launched.lines()), launched.lines()
        finally:
            launched.kill()
        return f"{number.name} of {'the launcher' if at < 0 else f'rank {at}'} {moment}: exit code {code}"

    def finish(self) -> None:
        """Go on to the end, and compare with a run that nothing happened to."""
        for run in (self.run, self.whole):
            code, lines = Launched(run, self.words).end(patience=1800)  # hundreds of steps, perhaps on a busy machine
            assert (code, lines) == (0, []), (run, code, lines)
        assert curve(self.run) == curve(self.whole), f"{self.run} is not the run left alone"
        names = [path.name for path in RunFolder(self.run).checkpoints.iterdir()]
        assert not [name for name in names if name.endswith((".partial", ".old"))], names

    def _moment(self, launched: Launched, starting: bool) -> str:
        """Let the run come to a random point of its start or of its steps."""
        if starting and self.dice.random() < 0.3:
            time.sleep(seconds := self.dice.uniform(0, 3))
            return f"{seconds:.1f} s after its start"
        launched.trains(1, steps := self.dice.randrange(1, FARTHEST))
        time.sleep(self.dice.uniform(0, 0.05))
        return f"after {steps} more steps"

    def _ended(self, launched: Launched, number: signal.Signals, at: int) -> int | None:
        """Its exit code, once it has come to the end that the signal should lead to."""
        if at < 0 and number == signal.SIGSTOP:  # it sleeps while its ranks go on, and wakes to be told to stop
            before = starts_and_steps(self.run)
            wait_until(lambda: starts_and_steps(self.run) > before)
            os.kill(launched.number, signal.SIGCONT)
            os.kill(launched.number, signal.SIGTERM)
        expected = {(True, signal.SIGKILL): -signal.SIGKILL, (False, signal.SIGKILL): 128 + signal.SIGKILL,
                    (True, signal.SIGSTOP): 128 + signal.SIGTERM, (False, signal.SIGSTOP): EXIT_CODE}  # fmt: skip
        code, lines = launched.end()
        assert code == expected[at < 0, number], (code, lines)
        return code


def main() -> None:
    """Tell of every fault, with seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    began, dice = time.monotonic(), random.Random(chosen.seed)
    faults = [signal.SIGKILL] * chosen.kills + [signal.SIGSTOP] * chosen.stops
    dice.shuffle(faults)
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder))
        names = [*LAYOUTS][: len(faults)]
        each = -(-len(faults) // len(names))
        runs = {name: Disturbed(corpus, Path(folder), name, each, dice) for name in names}
        for place, fault in enumerate(faults):
            name = names[place % len(names)]
            told = runs[name].meet(fault)
            print(f"{time.monotonic() - began:6.1f} s  {name:8} {told}", flush=True)
        for name, run in runs.items():
            run.finish()
            print(
                f"{time.monotonic() - began:6.1f} s  {name:8} finished; its curve is that of a run left alone",
                flush=True,
            )
    print(f"{chosen.kills} kills, {chosen.stops} stops: nothing was left behind")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

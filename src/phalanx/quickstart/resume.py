"""A run interrupted by the signal that clusters send, resumed, and laid beside one that was left alone."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from phalanx.quickstart.learn import run_folder, words
from phalanx.quickstart.plan import Workspace
from phalanx.quickstart.stages import Result, Stopped
from phalanx.run.records import FILE, read
from phalanx.tasks.run import train

WHOLE, PARTED = "left-alone", "interrupted"
OWNS = (f"runs/{WHOLE}", f"runs/{PARTED}")


def interrupt_and_resume(workspace: Workspace) -> Result:
    """Train two runs of the same configuration: one in this process, one in two others with a SIGTERM between them."""
    over = words(workspace, "gpt", (*workspace.plan.gpt, *workspace.plan.interrupted))
    whole, parted = run_folder(workspace, WHOLE), run_folder(workspace, PARTED)
    for run in (whole, parted):
        shutil.rmtree(run, ignore_errors=True)  # neither may have a past
    if stopped_by := train("gpt-tiny", over, whole, quiet=True):
        raise Stopped(stopped_by)

    _interrupt(["gpt-tiny", *over, "--out", str(parted)], parted, workspace.plan.cut)
    stopped_after = max(losses(parted))
    code = start("train", str(parted)).wait()
    assert code == 0, f"the run to resume ended with {code}"

    expected, resumed = losses(whole), losses(parted)
    equal = sum(step in resumed and resumed[step] == loss for step, loss in expected.items())
    return {
        "steps": len(expected),
        "equal": equal,
        "stopped_after": stopped_after,
        "at": str(parted),
        "other": str(whole),
    }


def describe_resumed(result: Result) -> Iterator[str]:
    """Yield how many steps of the two runs agree."""
    yield f"SIGTERM stopped it after step {result['stopped_after']}: it saved and ended. A new process went on."
    if result["equal"] == result["steps"]:
        yield f"The loss of all {result['steps']} steps is equal, to the last bit, to that of a run left alone."
    else:
        yield f"Only {result['equal']} of {result['steps']} losses equal those of a run left alone. That is a defect."
    yield f"Continue a run of yours with: phalanx train RUN, as in: phalanx train {result['at']}"


def losses(run: Path) -> dict[int, float]:
    """Return the training loss by step; nothing where the run has no records."""
    records = read(run / FILE) if (run / FILE).exists() else []
    return {record["step"]: record["loss"] for record in records if record["kind"] == "train"}


def start(*words: str) -> "subprocess.Popen[bytes]":
    """Start `phalanx WORDS` in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "phalanx", *words])


def _interrupt(arguments: list[str], run: Path, cut: int) -> None:
    """Train in a process of its own and send it SIGTERM once `cut` steps are recorded."""
    process = start("train", *arguments)
    try:
        while process.poll() is None and len(losses(run)) < cut:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
    finally:
        code = process.wait()
    assert code == 128 + signal.SIGTERM, f"the run to interrupt ended with {code}"

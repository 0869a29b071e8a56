"""A real Slurm of two nodes runs the script that `phalanx launch slurm` writes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.machines.slurm import CannotRun, Cluster, command
from tests.train.runs import Corpus, curve, make_corpus

LONG = ["layout.tp=2", "layout.micro_batch=2", "train.steps=120", "train.eval_every=0", "save.every=0"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Slurm, where it can be had."""
    before = os.environ.copy()
    os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(sys.path))
    try:
        with Cluster(tmp_path_factory.mktemp("slurm") / "cluster"):
            yield
    except CannotRun as reason:
        pytest.skip(str(reason))
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def undisturbed(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The curve of the same command without Slurm."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    phalanx("train", "gpt-tiny", *corpus.words("gpt"), *LONG, "--out", str(run))
    return curve(run)


def phalanx(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "phalanx", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def submit(run: Path, corpus: Corpus, *options: str) -> str:
    """The number of a job that trains in `run`, with a process on each of the two nodes."""
    words = ["gpt-tiny", *corpus.words("gpt"), *LONG, "--out", str(run)]
    shape = ["--nodes", "2", "--procs-per-node", "1", "--cpus-per-proc", "1"]
    return phalanx("launch", "slurm", *words, *shape, *options).split()[1].rstrip(":")


def until(true: Callable[[], object], job: str, run: Path) -> None:
    """Wait for something to be so."""
    deadline = time.monotonic() + 180
    while not true():
        log = run / f"slurm-{job}.log"
        assert time.monotonic() < deadline, f"{state(job)}\n{log.read_text() if log.exists() else 'no log'}"
        time.sleep(0.2)


def state(job: str) -> str:
    """The job's state in Slurm's words."""
    return command("squeue", "-h", "--states=all", "-j", job, "-o", "%T").strip()


def steps(run: Path) -> int:
    """Steps that are done."""
    return len((run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").exists() else 0


def restarts(run: Path) -> int:
    """Times that the run went on from a checkpoint."""
    return (run / "metrics.jsonl").read_text().count('"start"') - 1


def stopped(job: str, run: Path, times: int) -> None:
    """Wait for a job that was told to stop to have saved, and to be in the queue again."""
    until(lambda: state(job) == "PENDING", job, run)
    assert (run / f"slurm-{job}.log").read_text().count("stopped by SIGTERM; saved step") == times


def test_preempted_or_out_of_time_a_job_saves_queues_again_and_goes_on(cluster, corpus, undisturbed, tmp_path):
    run = tmp_path / "run"
    job = submit(run, corpus, "--grace", "60")
    until(lambda: steps(run) > 5, job, run)
    urgent = command("sbatch", "--parsable", "--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=:").strip()
    stopped(job, run, times=1)
    seen = steps(run)
    until(lambda: steps(run) > seen + 5, job, run)
    trainer = int((run / "lock").read_text())
    os.kill(trainer, signal.SIGSTOP)  # or it is done before Slurm, which looks twice a minute, sees that its time is up
    command("scontrol", "update", f"jobid={job}", "timelimit=1")
    until(lambda: (run / f"slurm-{job}.log").read_text().count("CANCELLED AT") == 2, job, run)
    os.kill(trainer, signal.SIGCONT)
    stopped(job, run, times=2)
    assert steps(run) < len(undisturbed)
    command("scontrol", "update", f"jobid={job}", "timelimit=UNLIMITED")
    until(lambda: state(job) == "COMPLETED", job, run)
    assert state(urgent) == "COMPLETED"
    assert restarts(run) == 2
    assert curve(run) == undisturbed


def test_a_crashed_job_starts_again_and_a_cancelled_one_saves_and_stays_away(cluster, corpus, tmp_path):
    run = tmp_path / "run"
    job = submit(run, corpus, "save.every=5", "--restarts", "1")
    until(lambda: steps(run) > 10, job, run)
    os.kill(int((run / "lock").read_text()), signal.SIGKILL)
    until(lambda: restarts(run) == 1, job, run)
    seen = steps(run)
    until(lambda: steps(run) > seen, job, run)
    command("scancel", job)
    until(lambda: state(job) == "CANCELLED", job, run)
    assert "stopped by SIGTERM; saved step" in (run / f"slurm-{job}.log").read_text()
    assert list((run / "checkpoints").glob("step-*"))


def test_says_what_slurm_refuses(cluster, corpus, tmp_path):
    with pytest.raises(AssertionError, match=r"Slurm refused it: .*Invalid partition"):
        submit(tmp_path / "run", corpus, "--partition", "none")

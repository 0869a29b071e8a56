"""A run as a Slurm job: one script that saves when it is told to stop, queues again, and goes on.

One Slurm task is one process, without torchrun between: Slurm binds and counts every process, its signals reach the
trainers themselves, and a trainer's exit code is the step's.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phalanx import durable
from phalanx.errors import InputError
from phalanx.tasks.run import read
from phalanx.train.resolve import Target, resolve

# What the script says itself, or, with --gpus-per-task, would undo: a process finds its GPU among all of its node's.
_OWN = {
    "nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "gpus", "gpus-per-node", "gpus-per-task", "job-name", "time",
    "chdir", "output", "open-mode", "signal", "requeue", "no-requeue",
}  # fmt: skip

_SCRIPT = """\
#!/bin/bash
# {title}
{request}

# Slurm sends SIGTERM to the processes {grace} s before the time limit, and when a preempted job's grace time begins.
# They save after the step under way and exit with 143. The job may be queued again, and adds to the same log.
#SBATCH --signal=TERM@{grace}
#SBATCH --requeue
#SBATCH --open-mode=append

# Should this shell be told as well, it waits for the processes to save.
trap : TERM

# Since Slurm 22.05 srun must be told what a task's share of the cores is.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK

# A process for each task; when one fails, the others end as well. After a crash all start again from the checkpoint, at
# most {restarts} times; but not when training is done, when the command was wrong, or when it was told to stop.
for restart in $(seq 0 {restarts}); do
    srun --kill-on-bad-exit=1 {command}
    code=$?
    case $code in 0 | 2 | 143) break ;; esac
done

# Saved before its end: queue again, and the same command goes on from the checkpoint. But a job that was cancelled, or
# that Slurm has queued again by itself, is not RUNNING any more.
if [ $code = 143 ] && [ "$(squeue --noheader --jobs $SLURM_JOB_ID --format %T)" = RUNNING ]; then
    scontrol requeue $SLURM_JOB_ID
fi
exit $code
"""


@dataclass(frozen=True)
class Job:
    """A request to the cluster: `processes` on each node, one a GPU if `gpus`, with `cpus` cores each; `time` as Slurm
    writes it; SIGTERM `grace` seconds before its end; after a crash to start again, `restarts` times at most; `options`
    are further `key=value` of sbatch.
    """

    nodes: int
    processes: int
    gpus: bool
    cpus: int = 1
    time: str = ""
    grace: int = 300
    restarts: int = 0
    name: str = ""
    options: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise InputError for what sbatch would take in another sense, or Slurm would run in circles."""
        for word in self.options:
            key = word.partition("=")[0]
            if not re.fullmatch("[a-z][a-z-]*", key) or not word.isprintable():
                raise InputError(f"--sbatch {word!r} is no option of sbatch; write it without dashes, as qos=long")
            if key in _OWN:
                raise InputError(f"--sbatch {word}: the script says {key} itself; see `phalanx launch slurm --help`")
        if self.time and _seconds(self.time) <= self.grace:
            raise InputError(
                f"--time {self.time} leaves nothing to train in: SIGTERM comes {self.grace} s before the end; "
                "give more time, or a smaller --grace"
            )


def launch(name: str, overrides: Sequence[str], out: Path | None, job: Job, dry: bool) -> str:
    """Write RUN/slurm.sh and submit it. Return what to tell the user; with `dry`, only the script's text.

    InputError for a layout that does not fit the job, and when Slurm refuses it.
    """
    job.check()
    folder, config, tokenizer = read(name, overrides, out)
    resolve(config, Target(job.nodes * job.processes, vocab=tokenizer.vocab, files=True))

    text = script(name, overrides, folder.path, job)
    if dry:
        return text

    file = folder.path / "slurm.sh"
    file.parent.mkdir(parents=True, exist_ok=True)
    durable.write(file, text.encode())
    number = _submit(file)
    return f"job {number}: {file}, log {folder.path / f'slurm-{number}.log'}"


def script(name: str, overrides: Sequence[str], run: Path, job: Job) -> str:
    """Return the text of the job's script."""
    title = f"{run.name}: {job.nodes} nodes × {job.processes} " + ("GPUs, a process each" if job.gpus else "processes")
    lines = [
        f"job-name={job.name or run.name}",
        f"nodes={job.nodes}",
        f"ntasks-per-node={job.processes}",
        f"cpus-per-task={job.cpus}",
        *[f"gpus-per-node={job.processes}"] * job.gpus,
        *[f"time={job.time}"] * bool(job.time),
        *job.options,
        f"chdir={Path.cwd()}",
        f"output={str(run.absolute()).replace('%', '%%')}/slurm-%j.log",
    ]

    words = [shlex.quote(word) for word in overrides]
    if run != Path(name):
        words.append(f"--out {shlex.quote(str(run))}")
    command = [f"{shlex.quote(sys.executable)} -m phalanx train {shlex.quote(name)}", *words]

    return _SCRIPT.format(
        title=title,
        request="\n".join(map(_line, lines)),
        grace=job.grace,
        restarts=job.restarts,
        command=" \\\n        ".join(command),
    )


def _line(option: str) -> str:
    """Return an #SBATCH line; its value is quoted where it needs be. InputError for a value that is not printable."""
    key, equals, value = option.partition("=")
    if not value.isprintable():
        raise InputError(f"{key} {value!r} holds a character that a job's script cannot; give another name")
    return f"#SBATCH --{key}{equals}{shlex.quote(value) if value else ''}"


def _seconds(time: str) -> int:
    """Return the seconds of a Slurm time: minutes, minutes:seconds, hours:minutes:seconds, days-hours,
    days-hours:minutes or with :seconds. InputError for any other form.
    """
    form = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if not form:
        raise InputError(f"--time {time} is no time of Slurm's; write minutes, hours:minutes:seconds, or days-hours")
    days, *rest = form.groups()
    parts = [int(part) for part in rest if part]
    units = (3600, 60, 1) if days or len(parts) == 3 else (60, 1)
    return 86400 * int(days or 0) + sum(part * unit for part, unit in zip(parts, units, strict=False))


def _submit(file: Path) -> str:
    """Submit the script `file`. Return the job's number. InputError where there is no sbatch, or Slurm refuses."""
    try:
        done = subprocess.run(["sbatch", "--parsable", str(file)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise InputError(
            f"{file} is written, but there is no sbatch here to submit it; do that on a machine of the cluster"
        ) from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise InputError(f"{file} is written, but Slurm refused it: {reason[0].removeprefix('sbatch: error: ')}")
    return done.stdout.strip().partition(";")[0]

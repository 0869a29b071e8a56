"""Who does the tasks of a stage: this machine's processes, Slurm's jobs, or a Ray cluster. What was done is not done
again: datatrove keeps a file for each task that ended.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from typing import Any

from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from loguru import logger

from phalanx.corpus.stages import Stage
from phalanx.errors import InputError
from phalanx.parent import end_with

ENGINES = ("local", "slurm", "ray")
LOOKS = 0.3  # seconds between two looks at how far it is

OnProgress = Callable[[int, int], None]


class _Quiet(LocalPipelineExecutor):  # type: ignore[misc]
    """datatrove's local executor, quiet on the terminal: there is a bar, and errors are raised. Its processes end with
    this one, killed or not.
    """

    def run(self) -> Any:
        """Run the tasks of the stage that are not done."""
        launcher, running = os.getpid(), [True]

        def tie() -> None:
            if running and os.getppid() == launcher:
                end_with(launcher)

        os.register_at_fork(after_in_child=tie)  # which cannot be taken back, but does nothing once the stage is run
        try:
            return super().run()
        finally:
            running.clear()

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        logger.disable("datatrove")
        return super()._run_for_rank(rank, local_rank, node_rank)


def run(stages: Iterable[Stage], work: Path, engine: str, workers: int, options: Mapping[str, str],
        progress: OnProgress) -> bool:  # fmt: skip
    """Run all stages in order. Return False where they were only submitted."""
    stages = list(stages)
    if engine == "slurm":
        _submit(stages, work, workers, dict(options))
        return False

    total, stop = sum(stage.tasks for stage in stages), Event()
    watch = Thread(target=_watch, args=(stages, work, total, progress, stop), daemon=True)
    watch.start()
    logger.disable("datatrove")

    try:
        for stage in stages:
            _executor(stage, work, engine, workers, options).run()
    finally:
        stop.set()
        watch.join()
    progress(total, total)
    return True


def _executor(stage: Stage, work: Path, engine: str, workers: int, options: Mapping[str, str]) -> Any:
    logs, workers = str(work / "logs" / stage.name), min(workers, stage.tasks)
    if engine == "local":
        return _Quiet(stage.pipeline, stage.tasks, workers, logs)
    if engine == "ray":
        own = _typed(options, {"cpus_per_task": int, "mem_per_cpu_gb": float})
        if find_spec("ray") is None:
            raise InputError("--engine ray needs the package ray; install phalanx[ray]")
        return RayPipelineExecutor(stage.pipeline, stage.tasks, workers, logging_dir=logs, **own)
    raise InputError(f"--engine {engine}: use one of {', '.join(ENGINES)}")


def _submit(stages: list[Stage], work: Path, workers: int, options: dict[str, str]) -> None:
    """Submit each stage as an array of jobs that waits for the one before. InputError if an option or sbatch is
    missing.
    """
    for key in ("time", "partition"):
        if key not in options:
            raise InputError(f"--engine slurm needs --option {key}=…")
    if shutil.which("sbatch") is None:
        raise InputError("--engine slurm: no sbatch here; run it on a machine that submits jobs")

    own = {"cpus_per_task": int, "mem_per_cpu_gb": int, "qos": str, "venv_path": str, "env_command": str}
    extra = {key: value for key, value in options.items() if key not in {"time", "partition", *own}}

    before = None
    for stage in stages:
        before = SlurmPipelineExecutor(
            stage.pipeline, stage.tasks, options["time"], options["partition"], workers=workers, sbatch_args=extra,
            job_name=f"curate-{stage.name}", logging_dir=str(work / "logs" / stage.name), depends=before,
            slurm_logs_folder=str(work / "slurm"), mail_type="NONE",
            **_typed({key: options[key] for key in own if key in options}, own),
        )  # fmt: skip

    assert before is not None
    before.run()


def _typed(options: Mapping[str, str], kinds: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    for key in options:
        if key not in kinds:
            raise InputError(f"--option {key}={options[key]} is not known to this engine; it takes {', '.join(kinds)}")
    return {key: kinds[key](value) for key, value in options.items()}


def _watch(stages: list[Stage], work: Path, total: int, progress: OnProgress, stop: Event) -> None:
    while not stop.wait(LOOKS):
        folders = [work / "logs" / stage.name / "completions" for stage in stages]
        progress(sum(len(list(folder.iterdir())) for folder in folders if folder.is_dir()), total)

"""The decay of a run whose learning rate is stable, from any of its checkpoints, as a run of its own.

Until its last steps the rate of a warm-up, stable, decay schedule does not depend on how long the run is (MiniCPM,
arXiv 2404.06395): a stable run can be decayed at any point, several times, and go on as if nobody had looked.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.run.branch import Branch
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder, names_run
from phalanx.train.schedule import decay_steps, warmup_steps

USUAL = 0.1  # of the whole run, as of SmolLM3 and MiniCPM


class Decay(NamedTuple):
    """What `phalanx train RUN --decay` asks for: its steps, or their share of the whole run when below 1, and the step
    of the checkpoint that it begins from; None: the newest.
    """

    steps: float
    step: int | None = None


def branch_of(name: str, decay: Decay) -> tuple[Branch, list[str]]:
    """Return where the decay of a run begins, and the words over the run's configuration that make it one.

    InputError where that is no run, has no such checkpoint, or its rate is not stable there.
    """
    if not names_run(name):
        raise InputError(f"--decay is for a run whose rate is stable: phalanx train RUN --decay, and {name} is no run")
    if not 0 < decay.steps < math.inf:
        raise InputError(
            f"--decay {decay.steps:g} is no decay; give its steps, or their share of the whole run below 1, as {USUAL}"
        )
    run = RunFolder.open(name)
    step, checkpoints, best = Checkpointer(run).until(decay.step)

    config = run.config(trained=True)
    if reason := _unstable(config, step):
        raise InputError(f"{name} cannot decay from step {step}: {reason}")

    length = round(step * decay.steps / (1 - decay.steps)) if decay.steps < 1 else round(decay.steps)
    warmup = warmup_steps(config.optim, config.train.steps)
    words = [
        "optim.schedule=wsd", f"optim.decay_steps={max(1, length)}", f"train.steps={step + max(1, length)}",
        f"optim.warmup={warmup if warmup >= 1 else 0}",  # in steps: a share would be one of this run's
        "train.patience=0", "train.init=",
    ]  # fmt: skip
    return Branch(run, step, checkpoints, best), words


def decay_folder(branch: Branch, out: Path | None) -> RunFolder:
    """Return the folder of a run that branches off: `out`, or one beside the source that is named by the step."""
    return RunFolder(out or branch.source.path.with_name(f"{branch.source.path.name}-decay-{branch.step}"))


def check_same_model(branch: Branch, config: Config) -> None:
    """Raise InputError where words ask for another model, task or optimizer than the checkpoint is of."""
    before = branch.source.config(trained=True)
    pairs: Sequence[tuple[str, object, object]] = [
        ("task", before.task, config.task),
        ("optim.name", before.optim.name, config.optim.name),
        *((f"model.{key}", value, getattr(config.model, key, None)) for key, value in before.model),
    ]
    for key, value, asked in pairs:
        if value != asked:
            raise InputError(f"{key}={asked} cannot be decayed from {branch.source.path}, which has {key}={value}")


def _unstable(config: Config, step: int) -> str:
    """Return why the rate of a run is not stable after `step` steps; "" if it is."""
    optim, total = config.optim, config.train.steps
    if optim.schedule not in ("wsd", "constant"):
        return f"its rate falls all the way (optim.schedule={optim.schedule}); train with optim.schedule=wsd"
    if step == 0 or step < (warmup := warmup_steps(optim, total)):
        return "it has not been trained" if step == 0 else f"its warm-up ends with step {warmup:g}"
    if optim.schedule == "wsd" and step > (last := total - decay_steps(optim, total)):
        return f"its own decay began after step {last:g}; give an earlier checkpoint by --from STEP"
    return ""

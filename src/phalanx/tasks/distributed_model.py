"""A trained model laid out to be judged: the same scores on one process and on any layout."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from phalanx import recipe
from phalanx.config import Config, LayoutConfig, PrecisionConfig
from phalanx.data.source import Array, Source
from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError
from phalanx.infer.abilities import refusal
from phalanx.infer.bundle import OpenRun, open_run
from phalanx.models.family import context_of, spec_of
from phalanx.parallel.layout import Layout
from phalanx.parallel.mesh import Mesh, make_mesh
from phalanx.precision import gemm
from phalanx.run.checkpoint import Checkpointer, Restored
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ImportRecord
from phalanx.runtime import process_group, rendezvous
from phalanx.tasks.run import joined
from phalanx.train import state
from phalanx.train.evaluate import OnProgress, answered
from phalanx.train.layouts import processes_of, rows_together
from phalanx.train.misfit import layout_misfit
from phalanx.train.task import Task

ROWS = 16  # sequences of a forward pass


@dataclass(frozen=True)
class DistributedModel:
    """A model of a run, on every rank its part. `restored` says which checkpoint it is."""

    run: Path
    config: Config
    tokenizer: Tokenizer
    model: nn.Module
    mesh: Mesh
    restored: Restored
    record: ImportRecord

    @property
    def context(self) -> int:
        """The number of tokens that the model has learned to see at once."""
        return context_of(self.config)

    def evaluate(
        self, task: Task, source: Source, limit: int | None = None, progress: OnProgress | None = None
    ) -> tuple[dict[str, float], list[Array]]:
        """Return the values of an evaluation, and for a labelled task the model's answer to each sample."""
        return answered(self.model, task, source, self.config, limit, progress, self.mesh)


def evaluation_config(run: Path, overrides: Sequence[str]) -> Config:
    """Return the run's configuration with a layout to judge it on: one process, fp32, unless `overrides` say otherwise.

    InputError for an override that an evaluation does not take.
    """
    config = RunFolder.open(run).config()
    for word in overrides:
        if not word.startswith(("layout.", "precision.", "train.device=", "examples.threshold=", "examples.longest=")):
            raise InputError(
                f"{word}: an evaluation takes layout.*, precision.*, train.device, examples.threshold and "
                "examples.longest; the rest is given"
            )

    together = rows_together(config)
    layout = LayoutConfig(micro_batch=-(-ROWS // together) * together)
    fresh = config.model_copy(update={"layout": layout, "precision": PrecisionConfig(dtype="fp32")})
    fresh = fresh.updated(train={"device": "auto", "compile": "off", "init": "", "rampup": (0, 0, 0)})

    requested = recipe.validate(recipe.overridden(fresh.model_dump(), overrides))
    # nothing is trained: a batch that every replica and pipeline can divide, so that the layout alone is judged
    rows = requested.layout.micro_batch * max(rendezvous.world(), processes_of(requested.layout)) * 2
    return requested.updated(train={"batch": rows})


def processes_of_layout(run: Path, overrides: Sequence[str]) -> int:
    """Return the number of processes to start for a model of a run on a layout.

    InputError for one that is impossible, before anything is started.
    """
    requested = evaluation_config(run, overrides)
    count = processes_of(requested.layout)
    if count > 1 and (reason := layout_misfit(requested, count)):
        raise InputError(reason)
    return count


@contextmanager
def distributed_model(run: Path, overrides: Sequence[str] = (), best: bool = True) -> Iterator[DistributedModel]:
    """Yield the model of a run folder, best or newest; every process of the layout calls this alike.

    InputError for a run that cannot be judged.
    """
    store = rendezvous.meet()
    opened, requested = open_run(run), evaluation_config(run, overrides)
    if reason := refusal("judge", run, opened.config, opened.record):
        raise InputError(reason)
    with joined(requested, opened.tokenizer, store) as config:
        yield _loaded(opened, config, best)
        process_group.leave()


def _loaded(opened: OpenRun, config: Config, best: bool) -> DistributedModel:
    device = torch.device(config.train.device)
    spec, prepare_stage = spec_of(config.model), partial(gemm.fill, dtype=config.precision.dtype, device=device)
    mesh = make_mesh(config.layout, device, spec)
    layout = Layout(config, mesh, spec, prepare_stage)

    weights = {"model": state.capture_weights(layout.parameters, [])["model"]}
    group = dist.new_group(backend="gloo", group_desc="loading") if mesh.world.size > 1 else None
    restored = Checkpointer(opened.folder, group=group).load(
        weights, best=best, places=state.places(weights, layout.parameters)
    )
    module = layout.module.eval()
    return DistributedModel(opened.folder.path, config, opened.tokenizer, module, mesh, restored, opened.record)

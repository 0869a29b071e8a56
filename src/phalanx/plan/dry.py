"""A recipe made definite for processes that are not there, without its data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phalanx import recipe, registry
from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.models.family import family as family_of
from phalanx.models.family import sketch_of
from phalanx.plan.cluster import Cluster
from phalanx.run.folder import RunFolder
from phalanx.train.lay_out import lay_out, processes_of
from phalanx.train.settle import expand, settle

WORDS = {True: 50257, False: 30522}  # of GPT-2's and BERT's tokenizers, by causal, where model.vocab leaves it open


def rehearse(name: str, overrides: Sequence[str], processes: int = 0, cluster: Cluster | None = None) -> Config:
    """What a recipe, a TOML file or a run folder would be on so many processes; 0: as many as its layout names.

    Nothing is opened but the recipe; precision is what it would be on a cluster's GPUs, or on hardware that has bf16,
    and blocks are not compiled. InputError for what cannot run.
    """
    if name not in recipe.names() and Path(name).is_dir():
        name = str(RunFolder.open(name).config_file)
    config = expand(recipe.load_mapping(name, overrides))
    config = _headed(config)
    train = config.train.model_copy(update={"device": "cpu", "compile": "off", "init": ""})
    dtype: str = config.precision.dtype
    if cluster:
        dtype = cluster.precision(dtype)
    elif dtype == "auto":
        dtype = "bf16"
    precision = config.precision.model_copy(update={"dtype": dtype})
    words = config.model.vocab or WORDS[sketch_of(config.model).causal]
    asked = config.model_copy(update={"train": train, "precision": precision})
    return lay_out(settle(asked, words), processes or processes_of(asked.layout))


def _headed(config: Config) -> Config:
    """With the head that the task trains. InputError for a task that the model does not learn, and for a head whose
    size only data could say.
    """
    task, family = config.task, family_of(config.model.family)
    if task == family.TASK:
        if tuned := sketch_of(config.model).tuned:
            raise InputError(f"task={task} does not train model.head={tuned}; use task={tuned}")
        return config
    kind: Any = registry.TASKS.find(task)  # imports torch, which pretraining is planned without
    losses, model = set(kind.losses) if kind.labelled else {task}, config.model
    if kind.labelled and not losses <= {*sketch_of(model).losses}:
        model = model.tuned(task)
    spec = sketch_of(model)
    if not losses <= {*spec.losses}:
        raise InputError(f"task={task} is not for model.family={model.family}; use task={family.TASK}")
    sizes = [matrix.outputs.size for head in spec.heads for _, matrix in head.matrices()]
    if 0 in sizes or (spec.answer and spec.answer.candidates < (task == "choice")):
        raise InputError(f"task={task} has as many classes, or candidates, as its data say; set model.classes")
    return config.model_copy(update={"model": model})

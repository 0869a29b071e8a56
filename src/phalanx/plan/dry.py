"""A recipe made definite for processes that are not there, without its data."""

from collections.abc import Sequence
from pathlib import Path

from phalanx import recipe
from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.models.family import family as family_of
from phalanx.models.family import sketch_of
from phalanx.models.gpt2 import unlike
from phalanx.plan.cluster import Cluster
from phalanx.run.folder import RunFolder
from phalanx.train.lay_out import lay_out, processes_of
from phalanx.train.settle import expand, settle

WORDS = {"clm": 50257, "mlm": 30522}  # of GPT-2's and BERT's tokenizers, where model.vocab leaves it open


def rehearse(name: str, overrides: Sequence[str], processes: int = 0, cluster: Cluster | None = None) -> Config:
    """What a recipe, a TOML file or a run folder would be on so many processes; 0: as many as its layout names.

    Nothing is opened but the recipe; precision is what it would be on a cluster's GPUs, or on hardware that has bf16,
    and blocks are not compiled. InputError for what cannot run, and for models whose steps are not described.
    """
    if name not in recipe.names() and Path(name).is_dir():
        name = str(RunFolder.open(name).config_file)
    config = expand(recipe.load_mapping(name, overrides))
    _described(config)
    train = config.train.model_copy(update={"device": "cpu", "compile": "off", "init": ""})
    dtype: str = config.precision.dtype
    if cluster:
        dtype = cluster.precision(dtype)
    elif dtype == "auto":
        dtype = "bf16"
    precision = config.precision.model_copy(update={"dtype": dtype})
    words = config.model.vocab or WORDS[config.task]
    asked = config.model_copy(update={"train": train, "precision": precision})
    return lay_out(settle(asked, words), processes or processes_of(asked.layout))


def _described(config: Config) -> None:
    """InputError for what the planner would take for something else."""
    family, task = config.model.family, config.task
    spec = sketch_of(config.model)
    if why := unlike(spec):
        raise InputError(f"model.family={family} is not planned: only models of GPT-2's kind and BERT's are; its {why}")
    if task == family_of(family).TASK and not spec.tuned:
        return
    named = f"model.head={spec.tuned}" if spec.tuned else f"task={task} with model.family={family}"
    raise InputError(
        f"{named}: only pretraining is planned (task=clm with gpt2, task=mlm with bert), whose steps have a vocabulary "
        "at their end; name the recipe or the run that this model was pretrained by"
    )

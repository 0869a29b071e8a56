"""A recipe made definite for processes that are not there, without its data."""

from collections.abc import Sequence
from pathlib import Path

from phalanx import recipe
from phalanx.config import Config
from phalanx.run.folder import RunFolder
from phalanx.train.lay_out import lay_out, processes_of
from phalanx.train.settle import expand, settle

WORDS = {"clm": 50257, "mlm": 30522}  # of GPT-2's and BERT's tokenizers, where model.vocab leaves it open


def rehearse(name: str, overrides: Sequence[str], processes: int = 0) -> Config:
    """What a recipe, a TOML file or a run folder would be on so many processes; 0: as many as its layout names.

    Nothing is opened but the recipe; precision is that of hardware that has bf16, and blocks are not compiled.
    InputError for what cannot run.
    """
    if name not in recipe.names() and Path(name).is_dir():
        name = str(RunFolder.open(name).config_file)
    config = expand(recipe.load_mapping(name, overrides))
    train = config.train.model_copy(update={"device": "cpu", "compile": "off", "init": ""})
    dtype = "bf16" if config.precision.dtype == "auto" else config.precision.dtype
    precision = config.precision.model_copy(update={"dtype": dtype})
    words = config.model.vocab or WORDS.get(config.task, WORDS["clm"])
    asked = config.model_copy(update={"train": train, "precision": precision})
    return lay_out(settle(asked, words), processes or processes_of(asked.layout))

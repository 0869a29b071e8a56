"""From a recipe's name to a finished run: the one place where task, data, folder and trainer meet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phalanx import recipe, registry
from phalanx.config import Config
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.errors import InputError
from phalanx.run.folder import RunFolder
from phalanx.tasks.sources import tokenizer_of
from phalanx.train.monitor import Monitor
from phalanx.train.resolve import expand, resolve
from phalanx.train.trainer import Trainer


def train(name: str, overrides: Sequence[str] = (), out: Path | None = None, quiet: bool = False) -> int:
    """Train by a recipe, a TOML file, or the folder of a run to continue. The number of the signal that ended it, or 0.

    InputError when the folder holds a run of another configuration.
    """
    if Path(name).is_dir():
        if overrides or out:
            raise InputError(
                f"{name} is a run folder: it continues as it was configured; leave out {[*overrides, out][0]}"
            )
        return _fit(RunFolder.open(name), quiet)
    mapping = recipe.load_mapping(name, overrides)
    config = expand(mapping)
    tokenizer = tokenizer_of(config.data)
    config = resolve(config, tokenizer)
    folder = RunFolder(out or Path("runs") / Path(name).stem)
    if folder.exists:
        _agree(folder, config)
    else:
        _foresee(config, tokenizer)
        folder = RunFolder.create(folder.path, config, tokenizer.json())
    return _fit(folder, quiet)


def _fit(folder: RunFolder, quiet: bool) -> int:
    with folder.lock():
        config = folder.config()
        trainer = Trainer(config, _task(config), folder, Monitor(config, folder, quiet))
        trainer.fit()
        return trainer.stopped_by


def _foresee(config: Config, tokenizer: Tokenizer) -> None:
    """Find what is wrong with a run before there is a folder of it."""
    registry.find("optim.name", registry.OPTIMIZERS, config.optim.name)
    if init := config.train.init:
        other = load_tokenizer(str(RunFolder.open(init).tokenizer))
        if other.json() != tokenizer.json():
            raise InputError(
                f"train.init={init} has another tokenizer than the data; prepare the data with its tokenizer.json"
            )
    _task(config)


def _task(config: Config) -> Any:
    return registry.find("task", registry.TASKS, config.task)(config, tokenizer_of(config.data))


def _agree(folder: RunFolder, config: Config) -> None:
    """InputError unless the folder's run has this configuration."""
    there, here = (c.model_dump() for c in (folder.config(), config))
    for section, values in here.items():
        pairs = values.items() if isinstance(values, dict) else [("", values)]
        for key, value in pairs:
            found = there[section][key] if key else there[section]
            if found != value:
                dotted = f"{section}.{key}" if key else section
                raise InputError(
                    f"{folder.path} holds a run with {dotted}={found}, not {value}; give another --out, "
                    f"or continue that run with: phalanx train {folder.path}"
                )

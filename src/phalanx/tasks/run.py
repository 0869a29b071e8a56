"""From a recipe's name to a finished run: the one place where task, data, folder and trainer meet."""

import json
from collections.abc import Sequence
from pathlib import Path

from phalanx import durable, recipe, registry
from phalanx.config import Config
from phalanx.data.indexed import IndexedDataset
from phalanx.data.manifest import Manifest, manifest_path
from phalanx.data.source import split_weight
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.errors import InputError
from phalanx.models.build import family
from phalanx.run.folder import RunFolder
from phalanx.tasks.sources import tokenizer_of
from phalanx.train.monitor import Monitor
from phalanx.train.resolve import device_of, expand, resolve
from phalanx.train.task import Task
from phalanx.train.trainer import Trainer


def train(name: str, overrides: Sequence[str] = (), out: Path | None = None, quiet: bool = False) -> int:
    """Train by a recipe, a TOML file, or the folder of a run to continue. The number of the signal that ended it, or 0.

    InputError when the folder holds a run of another configuration that has saved something.
    """
    if name not in recipe.names() and Path(name).is_dir():
        if overrides or out:
            raise InputError(
                f"{name} is a run folder: it continues as it was configured; leave out {[*overrides, out][0]}"
            )
        return _fit(RunFolder.open(name), quiet)
    mapping = recipe.load_mapping(name, overrides)
    config = expand(mapping)
    tokenizer = tokenizer_of(config.data)
    config = resolve(config, tokenizer)
    folder = RunFolder(out or Path("runs") / Path(name).name.removesuffix(".toml"))
    if folder.exists and (folder.saved or folder.config() == config):
        _agree(folder, config)
    else:
        _foresee(config, tokenizer)
        if folder.exists:
            folder.discard()
        folder = RunFolder.create(folder.path, config, tokenizer.json())
        durable.write(folder.path / "data.json", json.dumps(_fingerprints(config), indent=1).encode())
    return _fit(folder, quiet)


def _fit(folder: RunFolder, quiet: bool) -> int:
    with folder.lock():
        config = folder.config()
        device_of(config.train.device)
        _same_data(folder, config)
        trainer = Trainer(config, _task(config), folder, Monitor(config, folder, quiet))
        trainer.fit()
        return trainer.stopped_by


def _foresee(config: Config, tokenizer: Tokenizer) -> None:
    """Find what is wrong with a run before there is a folder of it."""
    registry.OPTIMIZERS.find(config.optim.name)
    if init := config.train.init:
        other = load_tokenizer(str(RunFolder.open(init).tokenizer))
        if other.json() != tokenizer.json():
            raise InputError(
                f"train.init={init} has another tokenizer than the data; prepare the data with its tokenizer.json"
            )
    task = _task(config)
    _ = task.train, task.valid  # opens the sets
    losses, known = task.losses, family(config.model.family).LOSSES
    if not set(losses) <= set(known):
        raise InputError(
            f"task={config.task} is about {losses[0]}, model.family={config.model.family} is not; change one"
        )


def _fingerprints(config: Config) -> dict[str, str]:
    """What tells the bytes of each set from others: its checksum, or its size where it has no manifest."""
    prints = {}
    for name in (*config.data.train, *config.data.valid, *config.data.test):
        prefix = split_weight(name)[0]
        known = manifest_path(prefix).exists()
        prints[prefix] = Manifest.read(prefix).sha256["bin"] if known else str(len(IndexedDataset(prefix).tokens))
    return prints


def _same_data(folder: RunFolder, config: Config) -> None:
    """InputError if a set was prepared anew since the run began: its curve would not be one curve."""
    file = folder.path / "data.json"
    began = json.loads(file.read_text()) if file.is_file() else {}
    for prefix, now in _fingerprints(config).items():
        if began.get(prefix, now) != now:
            raise InputError(f"{prefix} has changed since {folder.path} began; put the old set back or start a new run")


def _task(config: Config) -> Task:
    return registry.TASKS.find(config.task)(config, tokenizer_of(config.data))


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

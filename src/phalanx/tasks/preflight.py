"""Checks of a run before it begins or goes on: its settings, its weights, its data on every machine."""

import platform
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from phalanx import registry
from phalanx.config import Config
from phalanx.data.custom import fingerprint_of
from phalanx.data.manifest import checksum
from phalanx.data.source import split_weight
from phalanx.data.source_names import names_source
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.data.verify import fingerprint
from phalanx.errors import InputError
from phalanx.models.family import spec_of
from phalanx.run.folder import RunFolder
from phalanx.runtime import rendezvous
from phalanx.tasks.sources import tokenizer_of
from phalanx.train.task import Task
from phalanx.train.warm_start import weights_misfit

FREE = ("phalanx", "layout.", "save.", "log.", "train.device", "train.compile")  # what a run may change on its way


def check_new_run(config: Config, tokenizer: Tokenizer) -> dict[str, str]:
    """Raise InputError for what is wrong with a run that is to begin; return the fingerprints of its data.

    These take time to work out: much of every file is read.
    """
    if init := config.train.init:
        init_tokenizer = load_tokenizer(str(RunFolder.open(init).own_tokenizer()))
        if not init_tokenizer.same_ids(tokenizer):
            raise InputError(
                f"train.init={init} has another tokenizer than the data; prepare the data with its tokenizer.json"
            )

    task = task_of(config)
    if init and (reason := weights_misfit(config, task.labelled)):
        raise InputError(reason)

    _ = task.train, task.valid  # opens the sets
    prints = fingerprints(config, tokenizer)  # compares their checksums

    losses = task.losses
    if isinstance(losses, str):
        raise InputError(f"task={config.task}: losses is {losses!r}, not a tuple of names")
    if not set(losses) <= set(spec_of(config.model).losses):
        raise InputError(
            f"task={config.task} is about {losses[0]}, model.family={config.model.family} is not; change one"
        )
    return prints


def fingerprints(config: Config, tokenizer: Tokenizer) -> dict[str, str]:
    """Return a fingerprint of each set's bytes by its name, once they agree with its checksums.

    Much of every file is read.
    """
    if registry.TASKS.find(config.task).labelled:
        files = *config.data.train, *config.data.valid
        return {file: checksum(Path(file)) for file in files}

    prints: dict[str, str] = {}
    for name in (*config.data.train, *config.data.valid, *config.data.test):
        prefix = split_weight(name)[0]
        if names_source(name):
            own = fingerprint_of(prefix, config, tokenizer)
            prints[prefix] = sha256(own.encode()).hexdigest()
        else:
            prints[prefix] = fingerprint(prefix)
    return prints


def check_same_data(folder: RunFolder, prints: dict[str, str]) -> None:
    """Raise InputError if a set was prepared anew since the run began: its curve would not be one curve."""
    began = folder.began_with()
    for prefix, current in prints.items():
        count = current.split()[0]  # of sets without a manifest runs once kept this alone
        if began.get(prefix, current) not in (current, count):
            raise InputError(f"{prefix} has changed since {folder.path} began; put the old set back or start a new run")


def check_same_here(rank: int, config: Config, tokenizer: Tokenizer, firsts: dict[str, str]) -> None:
    """Raise InputError if the data of this process's machine are not those of rank 0, whose fingerprints are `firsts`:
    of the processes on a machine the first compares.
    """
    if rank == 0 or not rendezvous.first_here():
        return
    place = f"on {platform.node()}, the machine of rank {rank},"
    try:
        prints = fingerprints(config, tokenizer)
    except (InputError, OSError) as error:
        raise InputError(f"{place} {error}") from error
    if different := [name for name, value in prints.items() if value != firsts[name]]:
        raise InputError(f"{different[0]} {place} is another set than on that of rank 0; copy it from there")


def tokenizer_of_task(config: Config) -> Tokenizer:
    """Return the tokenizer of the data: prepared sets bring theirs, for labelled files data.tokenizer names it."""
    if not registry.TASKS.find(config.task).labelled:
        return tokenizer_of(config.data)
    if not config.data.tokenizer:
        raise InputError(f"task={config.task} needs data.tokenizer; phalanx tune RUN takes that of RUN")
    return load_tokenizer(config.data.tokenizer)


def check_same_settings(folder: RunFolder, config: Config) -> None:
    """Raise InputError unless the folder's run has this configuration, apart from what may change on its way."""
    kept, requested = flat(folder.config(trained=True)), flat(config)
    for key, value in requested.items():
        if kept[key] != value and not key.startswith(FREE):
            raise InputError(
                f"{folder.path} holds a run with {key}={kept[key]}, not {value}; give another --out "
                f"(train.init={folder.path} begins with its weights), "
                f"or continue that run with: phalanx train {folder.path}"
            )


def flat(config: Config) -> dict[str, str]:
    """Return every dotted key of a configuration with its value as text, and Phalanx's version."""
    facts = {"phalanx": version("phalanx")}
    for section, values in config.model_dump().items():
        for key, value in values.items() if isinstance(values, dict) else [("", values)]:
            facts[f"{section}.{key}".rstrip(".")] = str(value)
    return facts


def task_of(config: Config, tokenizer: Tokenizer | None = None) -> Task:
    """Return the task of a configuration, its sets not yet open; the tokenizer is theirs unless one is given."""
    tokenizer = tokenizer or tokenizer_of_task(config)
    with registry.blamed("task", config.task, "its construction"):
        task: Task = registry.TASKS.find(config.task)(config, tokenizer)
    return task

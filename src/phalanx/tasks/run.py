"""From a recipe's name to a finished run: the one place where task, data, folder and trainer meet."""

import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

from phalanx import registry
from phalanx.config import Config
from phalanx.data.manifest import checksum
from phalanx.data.source import split_weight
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.data.verify import fingerprint
from phalanx.errors import InputError
from phalanx.models.family import spec_of
from phalanx.run.folder import RunFolder, load_config, names_run
from phalanx.runtime import process_group, rendezvous
from phalanx.runtime.on_all_ranks import on_every_rank, on_rank_zero
from phalanx.runtime.watchdog import watching
from phalanx.tasks.sources import tokenizer_of
from phalanx.train import warm_start
from phalanx.train.layouts import misfit, processes_of
from phalanx.train.machine import device_of, this_machine
from phalanx.train.monitor import Monitor, Silent
from phalanx.train.resolve import resolve
from phalanx.train.task import Task
from phalanx.train.trainer import Trainer
from phalanx.values import toml

FREE = ("phalanx", "layout.", "save.", "log.", "train.device", "train.compile")  # what a run may change on its way


def train(name: str, overrides: Sequence[str] = (), out: Path | None = None, quiet: bool = False) -> int:
    """Train by a recipe, a TOML file, or the folder of a run to continue. The number of the signal that ended it, or 0.

    Every process of the run calls this alike. InputError when the folder holds a run of another configuration that has
    saved something; its layout, saving and logging may change.
    """
    store = rendezvous.meet()
    folder, config, tokenizer = read(name, overrides, out)
    with joined(config, tokenizer, store) as config, ExitStack() as stack:
        prints = on_rank_zero(lambda: _prints(folder, config, tokenizer), dist.group.WORLD)
        on_every_rank(lambda rank, _: _same_here(rank, config, prints), dist.group.WORLD)
        on_rank_zero(lambda: stack.enter_context(_held(folder, config, tokenizer, prints)), dist.group.WORLD)
        stopped_by = _fit(folder, config, quiet)
        process_group.leave()
    return stopped_by


@contextmanager
def joined(config: Config, tokenizer: Tokenizer, store: Store | None) -> Iterator[Config]:
    """The resolved configuration, when all processes that met at `store` agree on it; watched until the end."""
    config = resolve(config, this_machine(config.train, rendezvous.world(), tokenizer.vocab, files=True))
    process_group.join(torch.device(config.train.device), store)
    with watching(config.layout.timeout):
        process_group.check_agreement(_flat(config))
        yield config


def read(name: str, overrides: Sequence[str], out: Path | None) -> tuple[RunFolder, Config, Tokenizer]:
    """The folder that a command is about, the configuration as it was asked for, and the tokenizer of the data."""
    folder, config = folder_of(name, out), load_config(name, overrides)
    for tracker in config.log.trackers:
        registry.TRACKERS.find(tracker)  # before anything is made
    tokenizer = load_tokenizer(str(folder.own_tokenizer())) if names_run(name) else _tokenizer(config)
    return folder, config, tokenizer


def words_from(run: str, heads: bool = True) -> list[str]:
    """Overrides that make a recipe's run one of another run's model, beginning with its weights; without `heads`, of
    that model as it was before fine-tuning.
    """
    config = RunFolder.open(run).config()
    model = config.model if heads else config.model.tuned("", 0)
    words = [f"model.{key}={toml(value)}" for key, value in model.model_dump(exclude={"preset"}).items()]
    return ["model.preset=", f"task={config.task}", *words, f"train.init={run}"]


def processes_here(name: str, overrides: Sequence[str], out: Path | None) -> int:
    """Processes to start on this machine for a command: what its layout names, on GPUs all that it can use.

    InputError for a layout that is impossible whatever the data are.
    """
    folder_of(name, out)
    config = load_config(name, overrides)
    least = processes_of(config.layout)
    if least > 1:
        vocab = config.model.vocab or config.model.pad_vocab_to * config.layout.tp  # any that divides
        if reason := misfit(config.updated(model={"vocab": vocab}), least):
            raise InputError(reason)
    if config.layout.dp or device_of(config.train.device).type == "cpu":
        return least
    return max(1, torch.cuda.device_count() // least) * least


def folder_of(name: str, out: Path | None) -> RunFolder:
    """The run folder that a command is about."""
    if names_run(name):
        if out:
            raise InputError(f"{name} is a run folder: it continues where it is; leave out --out {out}")
        return RunFolder.open(name)
    return RunFolder(out or Path("runs") / Path(name).name.removesuffix(".toml"))


@contextmanager
def _held(folder: RunFolder, config: Config, tokenizer: Tokenizer, prints: dict[str, str]) -> Iterator[None]:
    """Hold the folder from its making on; it has this run, which is made there or continues."""
    with folder.lock():
        if _continues(folder, config):
            _agree(folder, config)
            _same_data(folder, prints)
            folder.write_config(config)
        else:
            if folder.exists:
                folder.discard()
            RunFolder.create(folder.path, config, tokenizer.json(), prints)
        yield


def _continues(folder: RunFolder, config: Config) -> bool:
    """Whether the folder's run goes on, rather than make room for another that is asked for in its place."""
    return folder.exists and (folder.saved or folder.config(trained=True) == config)


def _fit(folder: RunFolder, config: Config, quiet: bool) -> int:
    monitor = Silent() if rendezvous.rank() else Monitor(config, folder, quiet, rendezvous.world())
    trainer = Trainer(config, task_of(config, load_tokenizer(str(folder.own_tokenizer()))), folder, monitor)
    trainer.fit()
    return trainer.stopped_by


def _flat(config: Config) -> dict[str, str]:
    """Every key of a configuration, dotted, and what a process has for it."""
    facts = {"phalanx": version("phalanx")}
    for section, values in config.model_dump().items():
        for key, value in values.items() if isinstance(values, dict) else [("", values)]:
            facts[f"{section}.{key}".rstrip(".")] = str(value)
    return facts


def _prints(folder: RunFolder, config: Config, tokenizer: Tokenizer) -> dict[str, str]:
    """The fingerprints of the data. Of a run that is to begin, find before there is a folder what else is wrong."""
    return _fingerprints(config) if _continues(folder, config) else foresee(config, tokenizer)


def foresee(config: Config, tokenizer: Tokenizer) -> dict[str, str]:
    """Find what is wrong with a run before it begins. The fingerprints of its data, which take time to work out."""
    if init := config.train.init:
        other = load_tokenizer(str(RunFolder.open(init).own_tokenizer()))
        if other.json() != tokenizer.json():
            raise InputError(
                f"train.init={init} has another tokenizer than the data; prepare the data with its tokenizer.json"
            )
    task = task_of(config)
    if init and (reason := warm_start.misfit(config, task.labelled)):
        raise InputError(reason)
    _ = task.train, task.valid  # opens the sets
    prints = _fingerprints(config)  # compares their checksums

    losses = task.losses
    if not set(losses) <= set(spec_of(config.model).losses):
        raise InputError(
            f"task={config.task} is about {losses[0]}, model.family={config.model.family} is not; change one"
        )
    return prints


def _fingerprints(config: Config) -> dict[str, str]:
    """What tells the bytes of each set from others, which are compared with its checksums. Reads much of every file."""
    prints: dict[str, str] = {}
    if registry.TASKS.find(config.task).labelled:
        files = *config.data.train, *config.data.valid
        return {file: checksum(Path(file)) for file in files}
    for name in (*config.data.train, *config.data.valid, *config.data.test):
        prefix = split_weight(name)[0]
        if registry.names_source(name):
            own = registry.SOURCES.find(prefix)(config, _tokenizer(config)).fingerprint()
            prints[prefix] = sha256(own.encode()).hexdigest()
        else:
            prints[prefix] = fingerprint(prefix)
    return prints


def _same_data(folder: RunFolder, prints: dict[str, str]) -> None:
    """InputError if a set was prepared anew since the run began: its curve would not be one curve."""
    began = folder.began_with()
    for prefix, now in prints.items():
        count = now.split()[0]  # of sets without a manifest runs once kept this alone
        if began.get(prefix, now) not in (now, count):
            raise InputError(f"{prefix} has changed since {folder.path} began; put the old set back or start a new run")


def _same_here(rank: int, config: Config, firsts: dict[str, str]) -> None:
    """InputError if the data of this process's machine are not those of rank 0, whose fingerprints are `firsts`: of the
    processes on a machine the first compares.
    """
    if rank == 0 or not rendezvous.first_here():
        return
    here = f"on {platform.node()}, the machine of rank {rank},"
    try:
        prints = _fingerprints(config)
    except (InputError, OSError) as error:
        raise InputError(f"{here} {error}") from error
    if others := [name for name, found in prints.items() if found != firsts[name]]:
        raise InputError(f"{others[0]} {here} is another set than on that of rank 0; copy it from there")


def task_of(config: Config, tokenizer: Tokenizer | None = None) -> Task:
    """The task of a configuration, its sets not yet open; the tokenizer is theirs unless one is given."""
    task: Task = registry.TASKS.find(config.task)(config, tokenizer or _tokenizer(config))
    return task


def _tokenizer(config: Config) -> Tokenizer:
    """That of prepared sets is known; for labelled files it is named."""
    if not registry.TASKS.find(config.task).labelled:
        return tokenizer_of(config.data)
    if not config.data.tokenizer:
        raise InputError(f"task={config.task} needs data.tokenizer; phalanx tune RUN takes that of RUN")
    return load_tokenizer(config.data.tokenizer)


def _agree(folder: RunFolder, config: Config) -> None:
    """InputError unless the folder's run has this configuration, apart from what may change between two sittings."""
    there, here = _flat(folder.config(trained=True)), _flat(config)
    for key, value in here.items():
        if there[key] != value and not key.startswith(FREE):
            raise InputError(
                f"{folder.path} holds a run with {key}={there[key]}, not {value}; give another --out "
                f"(train.init={folder.path} begins with its weights), "
                f"or continue that run with: phalanx train {folder.path}"
            )

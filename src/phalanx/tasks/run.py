"""From a recipe's name to a finished run: the one place where task, data, folder and trainer meet."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

from phalanx import registry
from phalanx.config import Config
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.errors import InputError
from phalanx.run.branch import Branch
from phalanx.run.folder import RunFolder, load_config, names_run
from phalanx.runtime import process_group, rendezvous
from phalanx.runtime.on_all_ranks import on_every_rank, on_rank_zero
from phalanx.runtime.watchdog import watching
from phalanx.tasks.decay import Decay, branch_of, check_same_model, decay_folder
from phalanx.tasks.preflight import (
    check_new_run,
    check_same_data,
    check_same_here,
    check_same_settings,
    fingerprints,
    flat,
    task_of,
    tokenizer_of_task,
)
from phalanx.train.layouts import processes_of
from phalanx.train.machine import device_of, this_machine
from phalanx.train.misfit import layout_misfit
from phalanx.train.monitor import Monitor, Silent
from phalanx.train.resolve import resolve
from phalanx.train.trainer import Trainer


def train(
    name: str, overrides: Sequence[str] = (), out: Path | None = None, quiet: bool = False, decay: Decay | None = None
) -> int:
    """Train by a recipe, a TOML file, or the folder of a run to continue, or to `decay` in a folder of its own.

    Return the number of the signal that ended it, or 0. Every process of the run calls this alike. InputError when the
    folder holds a run of another configuration that has saved something; its layout, saving and logging may change.
    """
    store = rendezvous.meet()
    branch, words = branch_of(name, decay) if decay else (None, [])
    folder, config, tokenizer = read(name, [*words, *overrides], out, branch)
    with joined(config, tokenizer, store) as config, ExitStack() as stack:
        # Rank 0 fingerprints its data first; one process of each other machine then compares its own with these.
        prints = on_rank_zero(lambda: _prints(folder, config, tokenizer), dist.group.WORLD)
        on_every_rank(lambda rank, _: check_same_here(rank, config, tokenizer, prints), dist.group.WORLD)
        on_rank_zero(lambda: stack.enter_context(_held(folder, config, tokenizer, prints, branch)), dist.group.WORLD)
        stopped_by = _fit(folder, config, quiet)
        process_group.leave()
    return stopped_by


@contextmanager
def joined(config: Config, tokenizer: Tokenizer, store: Store | None) -> Iterator[Config]:
    """Yield the resolved configuration, when all processes that met at `store` agree on it; watched until the end."""
    config = resolve(config, this_machine(config.train, rendezvous.world(), tokenizer.vocab, files=True))
    process_group.join(torch.device(config.train.device), store)
    with watching(config.layout.timeout):
        process_group.check_agreement(flat(config))
        yield config


def read(
    name: str, overrides: Sequence[str], out: Path | None, branch: Branch | None = None
) -> tuple[RunFolder, Config, Tokenizer]:
    """Return the folder that a command is about, the configuration as requested, and the tokenizer of the data."""
    folder, config = decay_folder(branch, out) if branch else folder_of(name, out), load_config(name, overrides)
    if branch:
        check_same_model(branch, config)
    for tracker in config.log.trackers:
        registry.TRACKERS.find(tracker)  # before anything is made
    tokenizer = load_tokenizer(str(RunFolder(name).own_tokenizer())) if names_run(name) else tokenizer_of_task(config)
    return folder, config, tokenizer


def processes_here(name: str, overrides: Sequence[str], out: Path | None) -> int:
    """Return how many processes to start here for a command: as many as its layout names, on GPUs all that it can use.

    InputError for a layout that is impossible whatever the data are.
    """
    folder_of(name, out)
    config = load_config(name, overrides)
    least = processes_of(config.layout)
    if least > 1:
        vocab = config.model.vocab or config.model.pad_vocab_to * config.layout.tp  # any that divides
        if reason := layout_misfit(config.updated(model={"vocab": vocab}), least):
            raise InputError(reason)

    if config.layout.dp or device_of(config.train.device).type == "cpu":
        return least
    return max(1, torch.cuda.device_count() // least) * least


def folder_of(name: str, out: Path | None) -> RunFolder:
    """Return the run folder that a command is about. InputError for --out beside a run folder."""
    if names_run(name):
        if out:
            raise InputError(f"{name} is a run folder: it continues where it is; leave out --out {out}")
        return RunFolder.open(name)
    return RunFolder(out or Path("runs") / Path(name).name.removesuffix(".toml"))


@contextmanager
def _held(
    folder: RunFolder, config: Config, tokenizer: Tokenizer, prints: dict[str, str], branch: Branch | None
) -> Iterator[None]:
    """Hold the folder from its making on; it has this run, which is made there, of a `branch` where it has one, or
    continues.
    """
    with folder.lock():
        if _continues(folder, config):
            check_same_settings(folder, config)
            check_same_data(folder, prints)
            folder.write_config(config)
        else:
            if folder.exists:
                folder.discard()
            if branch:
                branch.begin(folder)
            RunFolder.create(folder.path, config, tokenizer.json(), prints, begun=branch is not None)
        yield


def _continues(folder: RunFolder, config: Config) -> bool:
    """Return whether the folder's run goes on, rather than make room for another that is asked for in its place."""
    return folder.exists and (folder.saved or folder.config(trained=True) == config)


def _fit(folder: RunFolder, config: Config, quiet: bool) -> int:
    monitor = Silent() if rendezvous.rank() else Monitor(config, folder, quiet, rendezvous.world())
    trainer = Trainer(config, task_of(config, load_tokenizer(str(folder.own_tokenizer()))), folder, monitor)
    trainer.fit()
    return trainer.stopped_by


def _prints(folder: RunFolder, config: Config, tokenizer: Tokenizer) -> dict[str, str]:
    """Return the fingerprints of the data. A run that is to begin is checked whole, before there is a folder."""
    return fingerprints(config, tokenizer) if _continues(folder, config) else check_new_run(config, tokenizer)

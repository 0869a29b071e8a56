"""A run's folder: what lies where, and the lock of the one process that trains there.

The lock is the kernel's (flock), not the file's existence: it ends with the process that holds it, however that
process ends, so there are no stale locks. The file stays and holds the pid of its last holder, for the message only.
Who trains takes it before anything else is written, and so makes the folder: of two commands one makes a run there.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from phalanx import durable, recipe
from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.model_config import ModelConfig
from phalanx.strict_json import parse_json
from phalanx.values import toml


class RunFolder:
    """Paths of a run. `create` makes one, `open` takes one that is there."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.toml"
        self.tokenizer = self.path / "tokenizer.json"
        self.data = self.path / "data.json"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"

    @classmethod
    def create(
        cls, path: str | Path, config: Config, tokenizer: str = "", data: Mapping[str, str] | None = None,
        begun: bool = False,
    ) -> Self:  # fmt: skip
        """Make a new run at `path` with its resolved configuration, its tokenizer (the text of a tokenizer.json) and
        the fingerprints of its data, by their names. One that has `begun` may have checkpoints, of another run.

        InputError when a run is there already, or when the folder cannot be made.
        """
        folder = cls(path)
        if folder.exists:
            raise InputError(f"{path} holds a run already; resume that run or give another folder")
        if folder.saved and not begun:
            raise folder.orphaned()

        try:
            folder.checkpoints.mkdir(parents=True, exist_ok=True)
            began = {**data} if data else {}
            if tokenizer:
                durable.write(folder.tokenizer, tokenizer.encode())
                began[folder.tokenizer.name] = hashlib.sha256(tokenizer.encode()).hexdigest()
            if began:
                durable.write(folder.data, json.dumps(began, indent=1).encode())
            folder.write_config(config)  # last: it makes the folder a run
        except OSError as error:
            raise _cannot_be_made(path, error) from error

        return folder

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the run at `path`. InputError when there is none, or its configuration was cut off."""
        folder = cls(path)
        if not folder.exists:
            what = "holds no config.toml, so it is no run folder" if folder.path.is_dir() else "is not a folder"
            raise InputError(f"{path} {what}; give the folder of a run, as `phalanx train` makes them")
        folder._check_whole()
        return folder

    @property
    def exists(self) -> bool:
        """Whether a run is here."""
        return self.config_file.is_file()

    @property
    def saved(self) -> bool:
        """Whether anything was saved here, or began to be."""
        return any(self.checkpoints.glob("step-*"))

    def orphaned(self) -> InputError:
        """Return the error of a folder in which there are checkpoints of a run that is not there."""
        return InputError(
            f"{self.path} holds checkpoints but no config.toml to continue them by; put that file back, or give "
            f"another folder, or remove {self.checkpoints}"
        )

    def discard(self) -> None:
        """Make room for another configuration where a run ended before its first checkpoint. Its lock is held."""
        if not self.saved:
            self.metrics.unlink(missing_ok=True)
            shutil.rmtree(self.tensorboard, ignore_errors=True)
            self.config_file.unlink()

    def config(self, trained: bool = False) -> Config:
        """Return the run's resolved configuration. InputError where it cannot be read, or was cut off.

        Only where it is to be `trained` an optimizer from outside the package has to be there; else [optim] has no more
        than what all optimizers have.
        """
        self._check_whole()
        return recipe.load_dump(self.config_file, trained)

    def write_config(self, config: Config) -> None:
        """Write the resolved configuration, with the help text of every key."""
        durable.write(self.config_file, recipe.dump(config).encode())

    def began_with(self) -> dict[str, str]:
        """Return the fingerprints of the run's data and its tokenizer when it began, by their names; nothing where none
        was written. InputError where the file is damaged.
        """
        if not self.data.is_file():
            return {}
        try:
            began = parse_json(self.data.read_bytes())
        except ValueError:
            began = None
        if not isinstance(began, dict) or not all(isinstance(value, str) for value in began.values()):
            raise InputError(
                f"{self.data} is damaged, which told what data the run began with; put it back, or remove it if the "
                "data are the same"
            )
        return began

    def own_tokenizer(self) -> Path:
        """Return the path of the run's tokenizer, for who loads it. InputError where it is missing, or is not the one
        that the run began with: its tokens would mean something else than the model has learned.
        """
        try:
            digest = hashlib.sha256(self.tokenizer.read_bytes()).hexdigest()
        except FileNotFoundError:
            raise InputError(f"{self.tokenizer} is missing; put it back") from None
        except OSError as error:
            raise InputError(f"{self.tokenizer} cannot be read: {error.strerror}") from error
        if self.began_with().get(self.tokenizer.name, digest) != digest:
            raise InputError(
                f"{self.tokenizer} is not the one that the run began with; put that back (if all its tokens are the "
                f"same, remove the line {self.tokenizer.name} from {self.data})"
            )
        return self.tokenizer

    def _check_whole(self) -> None:
        """Raise InputError where the end of the configuration is lost: the defaults would stand for what is missing."""
        text = recipe.text_of(self.config_file)
        if not recipe.is_whole(text):
            what = "is cut off (its last lines are missing)" if text.strip() else "is empty"
            raise InputError(f"{self.config_file} {what}; put the whole file back")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder while training, and make it if there is none. InputError names the process that holds it
        already, says why the folder cannot be made, or that it holds what is not of a run.
        """
        if others := self._others():
            raise InputError(
                f"{self.path} holds no run but {others[0]}; give a new folder, or an empty one, to train in"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _cannot_be_made(self.path, error) from error

        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(handle, 20, 0).decode(errors="replace").strip() or "unknown"
                raise InputError(
                    f"{self.path} is in use by process {holder}; wait for it, stop it, or give another folder"
                ) from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(handle)

    def _others(self) -> list[str]:
        """Return the names in a folder without a run that are not what a run leaves that did not come to begin."""
        if self.exists or not self.path.is_dir():
            return []
        ours = self.tokenizer, self.data, self.metrics, self.tensorboard, self.checkpoints, self.path / "lock"
        names = {path.name for path in ours}
        return sorted(path.name for path in self.path.iterdir() if path.name.split(".partial")[0] not in names)


def load_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a recipe, a TOML file or a run folder, with `section.key=value` words over it."""
    return recipe.load(str(RunFolder.open(name).config_file) if names_run(name) else name, overrides)


def names_run(name: str) -> bool:
    """Return whether what a command is to run is called by its folder, rather than by a recipe's name or a file."""
    return name not in recipe.names() and Path(name).is_dir()


def _cannot_be_made(path: str | Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot make a run folder: {error.strerror}: {error.filename}")


def words_from(run: str, heads: bool = True) -> list[str]:
    """Return overrides that make a recipe's run one of another run's model, beginning with its weights; without
    `heads`, of that model as it was before fine-tuning.
    """
    config = RunFolder.open(run).config()
    model = config.model if heads else config.model.tuned("", 0)
    words = [f"model.{key}={toml(value)}" for key, value in model.model_dump(exclude={"preset"}).items()]
    return ["model.preset=", f"task={config.task}", *words, f"train.init={run}"]


def gave_way(name: str, run: str) -> str:
    """Return a line on what a recipe itself says of its model and is not so in the run whose model is taken, each key
    with its values in both; "" where all agrees, and for the folder of a run.
    """
    mapping = {} if names_run(name) else recipe.load_mapping(name)
    asked, config = mapping.get("model"), RunFolder.open(run).config()
    asked = {**asked} if isinstance(asked, Mapping) else {}
    preset = asked.pop("preset", "")

    pairs: list[tuple[str, Any, Any]] = [("task", mapping.get("task", config.task), config.task)]
    pairs += [(f"model.{key}", value, getattr(config.model, key, None)) for key, value in asked.items()]
    told = [_unlike(*pair) for pair in pairs]
    if _is_another(preset, asked, config.model):
        told.append(f"model.preset={toml(preset)}")
    listed = ", ".join(filter(None, told))
    return f"the model is that of {run}; of {name} gave way: {listed}" if listed else ""


def _unlike(key: str, value: Any, there: Any) -> str:
    """Return a key with both values; "" where they are equal, or the recipe has a 0, which follows from others."""
    follows = value == 0 and type(there) is int
    if value == there or follows:
        return ""
    return f"{key}={toml(value)}" + ("" if there is None else f" ({toml(there)} there)")


def _is_another(preset: Any, asked: Mapping[str, Any], model: ModelConfig) -> bool:
    """Return whether a recipe's preset has sizes, beside those that are asked by themselves, which a model has not."""
    from phalanx.models.family import with_preset  # not for --help, which is to answer at once

    if not isinstance(preset, str) or not preset:
        return False
    try:
        sizes = with_preset({**asked, "preset": preset})
    except InputError:
        return False  # it counts for nothing
    return any(getattr(model, key, None) != value for key, value in sizes.items() if key not in {*asked, "preset"})

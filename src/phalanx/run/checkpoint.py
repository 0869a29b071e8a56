"""Checkpoints: saved in the background, kept whole, verified when loaded.

`save` returns at once: a thread copies the state, which may change when `staged` returns, and writes the copy while
training goes on. Whatever happens at whatever moment, the newest finished checkpoint stays: a new one is written beside
(".partial") and renamed when all of it is on the disk, and only then are old ones removed. `load` sums what it reads
and takes the next older checkpoint when one is damaged.
"""

import concurrent.futures
import copy
import errno
import math
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from phalanx import durable
from phalanx.errors import InputError
from phalanx.run import storage, tree
from phalanx.run.files import NAMES, Damaged, write_file
from phalanx.run.folder import RunFolder
from phalanx.run.shards import Place, part_of, place_of
from phalanx.run.staging import Staging
from phalanx.run.weights import Weights
from phalanx.runtime.on_all_ranks import on_every_rank, on_rank_zero

GIB = 1 << 30


class Restored(NamedTuple):
    """The step and the held-out loss of the checkpoint that was loaded; `notes` has a line for each damaged one."""

    step: int
    loss: float | None
    notes: tuple[str, ...]


class Checkpointer:
    """The checkpoints of a run.

    A state is a nested dict of tensors and plain values; the keys at its top are its parts, "model" among them.
    Saving is for the processes of the run whose lock is held; loading changes nothing in the folder. With several
    processes all of them call the same methods; `group` is theirs and nobody else's, as saving happens beside training.
    Its first rank decides and names, all write and read what is theirs.
    """

    def __init__(
        self, folder: RunFolder, keep: int = 2, asynchronous: bool = True, group: dist.ProcessGroup | None = None
    ) -> None:
        assert keep >= 1
        self.group = group
        self.path = folder.checkpoints
        self.keep = keep
        self.asynchronous = asynchronous
        self._staging = Staging()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._copying: concurrent.futures.Future[dict[str, Tensor]] | None = None
        self._writing: concurrent.futures.Future[None] | None = None

    @property
    def latest(self) -> int | None:
        """Step of the newest finished checkpoint."""
        return on_rank_zero(lambda: max(self._finished(), default=None), self.group)

    def prepare(self, state: tree.Tree) -> None:
        """Find memory for the copies of a state like this one, beside the first steps."""
        if self.asynchronous:
            self._thread.submit(self._staging.prepare, tree.split(state)[0])

    def save(
        self, step: int, state: tree.Tree, loss: float | None = None, places: Mapping[str, Place] | None = None
    ) -> None:
        """Save `state`, whose tensors lie at `places`; with the held-out `loss`, remember it as the best if it is the
        lowest so far.

        Asynchronous: returns at once; the tensors may change when `staged` has returned. If the save before this one
        failed, its InputError is raised here, after this one is under way: a disk that was full for a while costs one
        checkpoint, no more.
        """
        failure: InputError | None = None
        try:
            self.wait()  # also for the buffers
        except InputError as error:
            failure = error

        tensors, values = tree.split(state)
        loss = loss if loss is not None and math.isfinite(loss) else None  # JSON has no NaN
        if self.asynchronous:
            self._copying = self._thread.submit(self._staging.copy, tensors, self._staging.ready(tensors))
            copied, values = self._copying.result, copy.deepcopy(values)
            self._writing = self._thread.submit(lambda: self._write(step, loss, copied(), values, places or {}))
        else:
            self._write(step, loss, tensors, values, places or {})
        if failure:
            raise failure

    def staged(self) -> None:
        """Wait until the state of the save under way is copied, before it is changed."""
        if self._copying is not None:
            self._copying.result()

    def wait(self) -> None:
        """Wait for the save under way. InputError if it failed; what was saved before is whole."""
        if self._writing is not None:
            concurrent.futures.wait([self._writing])  # apart from result: an interrupt here must not forget the save
            writing, self._writing = self._writing, None
            writing.result()

    def load(
        self, state: tree.Tree, step: int | None = None, best: bool = False, places: Mapping[str, Place] | None = None,
        whole: bool = True,
    ) -> Restored:  # fmt: skip
        """Load into `state`, in place, the newest checkpoint, or that of `step`, or the best where one is named.

        Only the parts that `state` has are read, and each is to be `whole`. A damaged checkpoint is passed over for the
        next older one. InputError when there is none, none is whole, or its parts hold other tensors than `state`;
        OSError where the system refuses to read.
        """
        self.wait()
        tensors, values = tree.split(state)

        def fill(path: Path, index: dict[str, Any]) -> None:
            self._fits(path, index, tensors, values, places or {}, whole)
            storage.fill(path, index, tensors, places or {}, state.keys(), self.group)

        path, index, damages = self._first_whole(fill, step, best)
        tree.put(state, index["values"])
        notes = tuple(f"{damage}; loaded {path.name} instead" for damage in damages)
        return Restored(index["step"], index["loss"], notes)

    def _first_whole(self, use: Callable[[Path, dict[str, Any]], None], step: int | None,
                     best: bool) -> tuple[Path, dict[str, Any], list[str]]:  # fmt: skip
        """Return the first candidate that `use` does not find Damaged, its index, and what was wrong before it."""
        damages: list[str] = []
        for path in on_rank_zero(lambda: [*self._candidates(self._finished(), step, best)], self.group):
            try:
                index = on_rank_zero(partial(storage.read_index, path), self.group)
                use(path, index)
            except (Damaged, OSError) as damage:
                if isinstance(damage, OSError) and damage.errno != errno.EIO:
                    raise  # too many open files, no permission: passed over, a whole checkpoint would soon be pruned
                damages.append(f"{path} is damaged ({damage})")
                continue
            return path, index, damages
        raise InputError(f"no whole checkpoint is left: {'; '.join(damages)}; start a new run")

    def load_weights(self, model: dict[str, Tensor], step: int | None = None, best: bool = False) -> Restored:
        """Load only the weights, into the tensors of a model's state dict; the optimizer's files are not read."""
        return self.load({"model": model}, step, best)

    def shapes(self, part: str, best: bool = False) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of a part's tensors in a whole checkpoint; none where it has no such part."""
        _, index, _ = self._first_whole(lambda *_: None, None, best)
        mine = {path: entry for path, entry in index["tensors"].items() if part_of(path) == part}
        return {path.removeprefix(f"{part}/"): tuple(entry["shape"]) for path, entry in mine.items()}

    def until(self, step: int | None) -> tuple[int, tuple[Path, ...], bool]:
        """Return `step`, by default that of the newest checkpoint; its checkpoint, then the best if that is another one
        and no later; and whether the last of these is the best. InputError where there is no such checkpoint.
        """
        finished = self._finished()
        path = next(iter(self._candidates(finished, step, best=False)))
        number = next(n for n in finished if finished[n] == path)
        best = self._best({n: each for n, each in finished.items() if n <= number})
        return number, (path,) if best in (None, path) else (path, best), best is not None

    def weights(self, best: bool = True) -> Weights:
        """Return the tensors of a checkpoint, each read when it is asked for."""
        path, index, _ = self._first_whole(partial(storage.verify, parts=["model"]), None, best)
        return Weights(path, index)

    def import_weights(self, shapes: Mapping[str, Tensor], read: Callable[[str], Tensor]) -> None:
        """Write a checkpoint of step 0 of weights alone, one at a time; `shapes` may be on the meta device."""
        path = self.path / "step-0000000"
        partial = path.with_name(path.name + ".partial")
        self._begin(partial)

        file = write_file(partial / "model.0.safetensors", shapes, read)
        tensors = {
            f"model/{name}": {
                "dtype": NAMES[like.dtype],
                "shape": [*like.shape],
                "chunks": [{"file": file.name, "offsets": [0] * like.ndim, "sizes": [*like.shape]}],
            }
            for name, like in shapes.items()
        }
        files = {file.name: storage.sizes(file)}
        storage.write_index(partial, {"step": 0, "loss": None, "values": {}, "tensors": tensors, "files": files})
        self._publish(partial, path, None)

    def _finished(self) -> dict[int, Path]:
        """Return whole checkpoints by step, ".old" ones too: a kill may come before a successor is in place."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is no folder; remove it, or put the folder of checkpoints back")
        names = sorted((path.name for path in self.path.glob("step-*")), reverse=True)  # ".old" first, then overwritten
        matches = (re.fullmatch(r"step-(\d+)(?:\.old)?", name) for name in names)
        return {int(match[1]): self.path / match[0] for match in matches if match}

    def _candidates(self, finished: dict[int, Path], step: int | None, best: bool) -> Iterable[Path]:
        if not finished:
            raise InputError(f"{self.path} holds no checkpoint yet; train first, or set save.every lower")
        if step is not None and step not in finished:
            steps = ", ".join(map(str, sorted(finished)))
            raise InputError(f"{self.path} has no checkpoint of step {step}; it has {steps}")
        newest_first = sorted(finished, reverse=True)
        if best and (winner := self._best(finished)):
            return [winner, *(finished[s] for s in newest_first if finished[s] != winner)]
        return [finished[s] for s in newest_first if step is None or s <= step]

    def _best(self, finished: dict[int, Path]) -> Path | None:
        """Return the one of `finished` that the file `best` names."""
        file = self.path / "best"
        name = file.read_text(errors="replace").strip() if file.is_file() else ""
        return next((path for path in finished.values() if path.name == name), None)

    def _write(self, step: int, loss: float | None, tensors: dict[str, Tensor], values: tree.Tree,
               places: Mapping[str, Place]) -> None:  # fmt: skip
        path = self.path / f"step-{step:07d}"
        unfinished = path.with_name(path.name + ".partial")
        try:
            on_rank_zero(lambda: self._begin(unfinished), self.group)
            storage.write(unfinished, {"step": step, "loss": loss, "values": values}, tensors, places, self.group)
            on_rank_zero(lambda: self._publish(unfinished, path, loss), self.group)
        except OSError as error:
            on_rank_zero(lambda: shutil.rmtree(unfinished, ignore_errors=True), self.group)
            size = sum(tensor.nbytes for tensor in tensors.values()) / GIB
            free = shutil.disk_usage(self.path).free / GIB
            raise InputError(
                f"{path} was not saved: {error.strerror}: it takes {size:.3g} GiB, {free:.3g} GiB are free; "
                "make room there or lower save.keep; earlier checkpoints are whole"
            ) from error

    def _fits(self, path: Path, index: dict[str, Any], tensors: Mapping[str, Tensor], values: tree.Tree,
              places: Mapping[str, Place], whole: bool) -> None:  # fmt: skip
        """Raise InputError unless the checkpoint has all that is here and, if `whole`, no more in the same parts."""
        parts = {part_of(name) for name in [*tensors, *values]}
        stored = {name: f"{entry['dtype']} {entry['shape']}" for name, entry in index["tensors"].items()}
        stored |= dict.fromkeys(index["values"], "a value")
        stored = {name: what for name, what in stored.items() if part_of(name) in parts}
        expected = {name: f"{NAMES[t.dtype]} {[*place_of(places, name, t)[0]]}" for name, t in tensors.items()}
        expected |= dict.fromkeys(values, "a value")
        on_every_rank(lambda *_: _compare(path, expected, stored), self.group)
        if whole:
            _compare(path, dict.fromkeys(self._lacking(stored, expected), "absent"), stored)

    def _lacking(self, names: Collection[str], ours: Collection[str]) -> list[str]:
        """Return the names of which no rank has a tensor: the stages of a pipeline have different ones."""
        held = torch.tensor([name in ours for name in names], dtype=torch.uint8)
        if self.group is not None:
            # The maximum over ranks: a name is lacking only where no stage has it.
            dist.all_reduce(held, dist.ReduceOp.MAX, group=self.group)
        return [name for name, anywhere in zip(names, held.tolist(), strict=True) if not anywhere]

    def _begin(self, partial: Path) -> None:
        """Remove what a killed process left unfinished, and make room for a new checkpoint."""
        keep = set(self._finished().values())
        for path in self.path.glob("step-*.*"):
            if path not in keep:
                shutil.rmtree(path)
        partial.mkdir(parents=True)

    def _publish(self, partial: Path, path: Path, loss: float | None) -> None:
        """Give a finished checkpoint its name, which an abandoned one of the same step may hold; let older ones go."""
        durable.sync(partial)  # before the rename, or a loss of power could leave a name without its bytes

        # set aside, not removed, until the new one has its name: a kill in between costs neither
        old = path.with_name(path.name + ".old")
        if path.exists():
            durable.rename(path, old)
        durable.rename(partial, path)
        if old.exists():
            shutil.rmtree(old)

        # the best is named before others go, so that it is never among them
        self._rank(path, loss)
        self._prune(int(path.name.removeprefix("step-")))

    def _rank(self, path: Path, loss: float | None) -> None:
        """Name `path` the best unless an earlier one has a lower loss."""
        if loss is None:
            return
        best = self._best(self._finished())
        try:
            lowest = storage.read_index(best)["loss"] if best and best != path else math.inf
        except Damaged:
            lowest = math.inf
        if loss < lowest:
            durable.write(self.path / "best", f"{path.name}\n".encode())

    def _prune(self, step: int) -> None:
        """Keep the newest and the best. Later steps than the one just saved are a future that a resume abandoned."""
        finished = self._finished()
        newest = sorted((s for s in finished if s <= step), reverse=True)[: self.keep]
        best = self._best(finished)
        for number, path in finished.items():
            if number not in newest and path != best:
                doomed = path.with_name(path.name + ".partial")  # a kill halfway leaves nothing that looks whole
                path.replace(doomed)
                shutil.rmtree(doomed)


def _compare(path: Path, expected: Mapping[str, str], stored: Mapping[str, str]) -> None:
    for name, what in expected.items():
        if what != (kept := stored.get(name, "absent")):
            raise InputError(
                f"{path}: {name} is {kept} there and {what} here; load it with the configuration that made it"
            )

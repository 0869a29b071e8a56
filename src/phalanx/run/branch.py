"""A run that begins in the middle of another: with a checkpoint of that run, and the records that lead to it.

The new folder is whole by itself. Checkpoints are never changed once they have their names, so files are shared between
the folders (hard links) where the disk allows it: nothing is copied, and the other run may let go of its own.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from phalanx import durable
from phalanx.errors import InputError
from phalanx.run import records
from phalanx.run.folder import RunFolder


@dataclass(frozen=True)
class Branch:
    """Where a run begins: after `step` steps of the run at `source`, with some of its checkpoints."""

    source: RunFolder
    step: int
    checkpoints: tuple[Path, ...]  # of that step, and the best until then
    best: bool  # whether the last of them is the best

    def begin(self, folder: RunFolder) -> None:
        """Give a folder that is no run yet, and whose lock is held, checkpoints and records of the source.

        What a killed process left of the same is completed. InputError where the folder holds other checkpoints, or
        those of the source are gone meanwhile.
        """
        wanted = {path.name.removesuffix(".old"): path for path in self.checkpoints}
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        for path in folder.checkpoints.glob("step-*"):
            if path.name.partition(".")[0] not in wanted:
                raise folder.orphaned()

        try:
            for name, path in wanted.items():
                if not (folder.checkpoints / name).exists():
                    _share(path, folder.checkpoints / name)
        except FileNotFoundError as error:
            raise InputError(
                f"{error.filename} is gone: {self.source.path} goes on and has newer ones; try again"
            ) from error

        if self.best:
            durable.write(folder.checkpoints / "best", f"{[*wanted][-1]}\n".encode())
        if self.source.metrics.exists():
            shutil.copyfile(self.source.metrics, folder.metrics)
            records.cut(folder.metrics, self.step)


def _share(checkpoint: Path, target: Path) -> None:
    """Make `target` a folder with the same files as a checkpoint."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint, partial, copy_function=_link)
    durable.sync(partial)
    durable.rename(partial, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(source, target)

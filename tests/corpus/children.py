"""A curation in a process of its own that is killed, at a point that is always the same."""

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.train.processes import command


def killed_in_the_third_task(held: Connection, out: Path, *words: str) -> None:
    """SIGKILL strikes at a document of the first stage when two of its tasks are done. `held` is open as long as any
    process that it started.
    """
    from phalanx.corpus import steps

    done, judge = out / "work" / "logs" / "clean" / "completions", steps.Length.filter

    def filter(self: steps.Length, document: Any) -> bool:
        if done.is_dir() and len(list(done.iterdir())) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return judge(self, document)

    steps.Length.filter = filter  # type: ignore[method-assign]
    command(Path.cwd(), "curate", *words)

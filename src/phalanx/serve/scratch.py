"""Workers' folders for temporary files. A server removes those of its workers; those of a server that was killed are
removed by the next one. Who made a folder holds a lock on it, which the kernel lets go when that process ends.
"""

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PREFIX = "phalanx-worker-"
YOUNG = 60.0  # seconds in which a folder may not be locked yet by who made it


class Scratch:
    """A new folder, locked until `remove`."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix=PREFIX)
        self.lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove the folder with all that is in it. It may be called twice."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def sweep() -> None:
    """Remove the folders of servers that have ended without doing so."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # it has gone by now, is another user's, or its lock is held
            if time.time() - folder.stat().st_mtime < YOUNG:
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)

"""Loading streams: a rank never holds more than its part and one tensor."""

import threading
import time
from pathlib import Path

import torch

from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.spec.partition import Box

TENSORS, ROWS, COLUMNS = 48, 2048, 512  # of 4 MiB each
ONE = ROWS * COLUMNS * 4


def anonymous() -> int:
    """Bytes of memory of this process that are no file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon")


class Peak:
    """The most that `anonymous` reached, looked at a thousand times a second."""

    def __enter__(self) -> "Peak":
        self.begin = self.most = anonymous()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def _look(self) -> None:
        while not self.over.is_set():
            self.most = max(self.most, anonymous())
            time.sleep(0.001)

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    @property
    def growth(self) -> int:
        """Bytes above the beginning."""
        return self.most - self.begin


def test_a_part_is_read_without_the_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    whole = {f"w{number}": torch.full((ROWS, COLUMNS), float(number)) for number in range(TENSORS)}
    saver = Checkpointer(folder, keep=1, asynchronous=False)
    saver.save(1, {"model": whole, "progress": {}})
    saver.wait()
    del whole
    rows = slice(ROWS // 8, ROWS // 4)  # the second of eight parts
    part = {name: torch.zeros(ROWS // 8, COLUMNS) + 1 for name in (f"w{number}" for number in range(TENSORS))}
    box = Box((rows.stop - rows.start, COLUMNS), (0, 0), (rows.start, 0))
    places = {f"model/{name}": ((ROWS, COLUMNS), (box,)) for name in part}
    with Peak() as peak:
        Checkpointer(folder, keep=1, asynchronous=False).load({"model": part, "progress": {}}, places=places)
    assert all((tensor == float(name[1:])).all() for name, tensor in part.items())
    assert peak.growth < 2 * ONE + (8 << 20), f"{peak.growth >> 20} MiB for parts of {ONE >> 23} MiB"

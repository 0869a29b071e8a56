"""Progress of a preparation: a bar with MB/s and the time left on a terminal, else a line now and then."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

SECONDS = 10.0  # between plain lines


class Meter:
    """Shows how much of `total` input bytes are read, and how many megabytes of text go through per second."""

    def __init__(self, console: Console, what: str, total: int) -> None:
        self._what = what
        self._total = max(total, 1)
        self._begun = self._reported = time.monotonic()
        self._console = console
        self._text = 0
        columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[speed]}"))
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=self._total, speed="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.stop()

    @property
    def speed(self) -> str:
        """Text so far in MB/s."""
        return f"{self._text / 1e6 / max(time.monotonic() - self._begun, 1e-3):.1f} MB/s"

    def show(self, read: int, text: int) -> None:
        """Count `text` more bytes of text, and show that `read` input bytes are done in all."""
        self._text += text
        self._bar.update(self._task, completed=read, speed=self.speed)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._reported > SECONDS:
            self._reported = now
            left = (now - self._begun) * (self._total - read) / max(read, 1)
            part = 100 * read / self._total
            self._console.print(f"{self._what}: {part:.0f} %, {self.speed}, {left:,.0f} s left", highlight=False)

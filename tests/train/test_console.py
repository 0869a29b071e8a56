"""The console: plain lines in a file, one panel on a terminal, and the terminal as it was afterwards."""

import errno
import io
import math
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console as Screen

from phalanx.config import Config
from phalanx.train.console import Console

VALUES = {"loss": 3.0, "lr": 3e-4, "grad_norm": 0.8, "tokens_per_s": 41_234.5, "mfu": 0.383, "memory_gib": 2.134}
HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"

LIVE = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs are started without
from tests.train.test_console import made
console = made(100, 10)
try:
    console.start({})
    console.train(1, {"loss": 3.0})
    console.note("checkpoint saved")
    time.sleep(60)
except KeyboardInterrupt:
    console.close()
    print("interrupted")
"""


PIPED = """
import sys
from tests.train.test_console import made
console = made(1000, 1)
console.start({})
for step in range(1, 1001):
    console.train(step, {"loss": 3.0, "lr": 1e-3})
console.note("the end")
console.close()
print("trained to the end", file=sys.stderr)
"""


class _Closing(io.StringIO):
    closing = False

    def write(self, text: str) -> int:
        if self.closing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().write(text)


def made(steps: int, every: int, quiet: bool = False, screen: Screen | None = None) -> Console:
    """The console of a run of so many steps in a folder "a run"."""
    config = Config.model_validate({"train": {"steps": steps}, "log": {"print_every": every}})
    return Console(config, Path("runs/a run"), quiet=quiet, screen=screen)


@contextmanager
def started(console: Console) -> Iterator[Console]:
    """As the monitor drives it."""
    console.start({})
    try:
        yield console
    finally:
        console.close()


def plain(quiet: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return made(30, 10, quiet, Screen(file=file, width=80)), file


def test_plain_lines_every_nth_step_and_at_the_end() -> None:
    console, file = plain()
    with started(console):
        for step in range(1, 31):
            console.train(step, {**VALUES, "loss": 3.0 + step / 10, "seconds_left": 90 - 3 * step})
            if step == 15:
                console.valid(step, {"loss": 3.5, "perplexity": math.exp(3.5), "lm_accuracy": 0.25})
    rest = "lr 3.00e-04  gradient 0.8  tokens/s 41.2k  MFU 38%  memory 2.13 GiB"
    assert file.getvalue().splitlines() == [
        f"step 10/30  loss 3.5500  now 4.0000  {rest}  1:00 left",
        "step 15  held-out 3.5000  perplexity 33.12  lm accuracy 25.0%",
        f"step 20/30  loss 4.0500  now 5.0000  {rest}  0:30 left",
        f"step 30/30  loss 5.0500  now 6.0000  {rest}  0:00 left",
    ]


def test_a_bad_step_is_shown_and_not_smoothed() -> None:
    console, file = plain()
    console.train(9, VALUES)
    console.train(10, {**VALUES, "loss": math.nan, "skipped": 1})
    assert "loss 3.0000  now nan" in file.getvalue()
    assert "skipped 1" in file.getvalue()


def test_quiet_says_notes_only() -> None:
    console, file = plain(quiet=True)
    with started(console):
        console.train(10, VALUES)
        console.valid(10, VALUES)
        console.note("saved [step-10] in runs/a")
    assert file.getvalue() == "saved [step-10] in runs/a\n"


@pytest.mark.parametrize("width", [30, 80, 200])
def test_the_panel_fits_any_width_and_tells_all(width: int) -> None:
    file = io.StringIO()
    screen = Screen(file=file, width=width, force_terminal=True, color_system=None)
    console = made(1000, 10, screen=screen)
    with started(console):
        console.train(400, {**VALUES, "skipped": 2, "seconds_left": 751})
        console.valid(300, {"loss": 3.5, "perplexity": 33.12})
    last = file.getvalue().rpartition("╭")[2]
    assert "a run" in last
    told = (
        "400/1,000",
        "12:31 left",
        "loss 3.0000",
        "41.2k",
        "38%",
        "2.13 GiB",
        "skipped 2",
        "held-out 3.5000",
        "33.12",
    )
    assert [text for text in told if text not in last] == []
    assert max(len(line.strip()) for line in last.splitlines()) <= min(width, 96)


def test_interrupt_restores_the_terminal() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen(
        [sys.executable, "-c", LIVE], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        while b"checkpoint saved" not in shown or b"1/100" not in shown:
            shown += os.read(ours, 4096)
        assert HIDE in shown
        process.send_signal(signal.SIGINT)
        while b"interrupted" not in shown:
            shown += os.read(ours, 4096)
        assert process.wait() == 0
    os.close(ours)
    assert shown.rindex(SHOW) > shown.rindex(HIDE)
    assert shown.index(b"interrupted") > shown.rindex(SHOW)


def test_an_exception_passes_through_and_stops_the_panel() -> None:
    file = io.StringIO()
    screen = Screen(file=file, width=80, force_terminal=True)
    with pytest.raises(ZeroDivisionError), started(made(10, 1, screen=screen)) as console:
        console.train(1, {"loss": 1 / 0})
    assert file.getvalue().rindex(SHOW.decode()) > file.getvalue().rindex(HIDE.decode())


def test_a_reader_that_goes_away_ends_no_run() -> None:
    """As in `phalanx train … | head -1`: the steps go on, silently."""
    with subprocess.Popen(
        [sys.executable, "-uc", PIPED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("step 1/1,000")
        process.stdout.close()
        assert process.stderr.read() == "trained to the end\n"
    assert process.returncode == 0


def test_a_terminal_that_is_closed_ends_no_run() -> None:
    """Writing to it is an error of the system; a hang-up is a signal, which the trainer hears."""
    file = _Closing()
    with started(made(10, 1, screen=Screen(file=file, force_terminal=True))) as console:
        file.closing = True
        console.train(1, VALUES)
        console.note("still here")

"""What a run shows: one live panel on a terminal, plain lines elsewhere.

The panel is drawn by its own thread a few times a second, however fast the steps are. Closing the console puts the
terminal back as it was. A reader that goes away, such as `head`, ends what is shown, never the
run.
"""

import math
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from phalanx.config import Config
from phalanx.units import count, duration

if TYPE_CHECKING:
    from rich.console import Console as Screen
    from rich.live import Live
    from rich.panel import Panel

SMOOTH = 20  # steps whose mean loss is shown
_GONE = (SystemExit, OSError)  # rich's answer to a pipe without a reader, after which it is silent; a closed terminal
WIDTH, CELL = 96, 22  # columns of the panel at most, of one value at least


class Console:
    """The tracker that shows a run on the screen: from `start` to `close` as a panel where there is a terminal, else as
    a line every `log.print_every` steps. `quiet` shows notes alone, which may come before and after.
    """

    def __init__(
        self, config: Config, folder: Path, step: int = 0, quiet: bool = False, screen: "Screen | None" = None
    ) -> None:
        from rich.console import Console as Screen

        self._total, self._every, self._title = config.train.steps, config.log.print_every, folder.name
        self._quiet = quiet
        self._screen = screen or Screen(file=sys.stdout)
        self._live: Live | None = None
        self._losses: deque[float] = deque(maxlen=SMOOTH)
        self._step = step
        self._train: dict[str, float] = {}
        self._valid: dict[str, float] = {}
        self._valid_step = 0

    def start(self, facts: Mapping[str, object]) -> None:
        """Draw the panel from now on, if there is a terminal to draw it on."""
        if self._screen.is_terminal and not self._quiet:
            from rich.live import Live

            self._live = Live(get_renderable=self._panel, console=self._screen, refresh_per_second=4)
            self._live.start()

    def close(self) -> None:
        """Stop drawing, and put the terminal back as it was."""
        if self._live:
            with suppress(*_GONE):
                self._live.stop()
            self._live = None

    def train(self, step: int, values: Mapping[str, float]) -> None:
        """Show a step: its values as in a training record."""
        if math.isfinite(values["loss"]):
            self._losses.append(values["loss"])
        self._step, self._train = step, dict(values)
        if not self._live and (step % self._every == 0 or step == self._total):
            self._print(f"step {step:,}/{self._total:,}", self._train_cells(), self._time_left())

    def valid(self, step: int, values: Mapping[str, float]) -> None:
        """Show an evaluation: `values` as in a validation record."""
        self._valid, self._valid_step = dict(values), step
        if not self._live:
            self._print(f"step {step:,}", self._valid_cells())

    def note(self, text: str) -> None:
        """Say something that stays: above the panel, or as a line."""
        with suppress(*_GONE):
            self._screen.print(text, markup=False, highlight=False, soft_wrap=True)

    def _print(self, head: str, cells: list[tuple[str, str]], *tail: str) -> None:
        if not self._quiet:
            self.note("  ".join([head, *(f"{name} {value}" for name, value in cells), *tail]))

    def _time_left(self) -> str:
        return f"{duration(self._train.get('seconds_left', math.inf))} left"

    def _train_cells(self) -> list[tuple[str, str]]:
        """Name and value of what the last step told; what it did not tell is left out."""
        values, smooth = self._train, sum(self._losses) / max(len(self._losses), 1)
        if not values:
            return [("loss", "–")]
        shown = [("loss", f"{smooth:.4f}" if self._losses else "–"), ("now", f"{values['loss']:.4f}")]
        for key, name, form in _FORMS:
            if key in values and (key != "skipped" or values[key]):
                shown.append((name, form(values[key])))
        return shown

    def _valid_cells(self) -> list[tuple[str, str]]:
        values = self._valid
        shown = [("held-out", f"{values['loss']:.4f}")]
        if "perplexity" in values:
            shown.append(("perplexity", f"{values['perplexity']:,.2f}"))
        shown += [(key.replace("_", " "), f"{values[key]:.1%}") for key in values if key.endswith("accuracy")]
        return shown + [(key.replace("_", " "), f"{values[key]:.4f}") for key in METRICS if key in values]

    def _panel(self) -> "Panel":
        from rich import box
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = min(self._screen.width, WIDTH)
        head = Table.grid(expand=True, padding=(0, 1))
        head.add_column(ratio=1)
        head.add_column(justify="right", no_wrap=True)
        done = f"{self._step:,}/{self._total:,}"
        head.add_row(
            ProgressBar(self._total, self._step, complete_style="cyan", finished_style="green"),
            Text.assemble((done, "bold"), f"  {self._time_left()}"),
        )
        cells = [Text.assemble((f"{name} ", "dim"), value) for name, value in self._train_cells()]
        if self._valid:
            cells += [Text.assemble((f"{name} ", "dim"), (value, "magenta")) for name, value in self._valid_cells()]
            cells.append(Text.assemble(("at step ", "dim"), f"{self._valid_step:,}"))
        columns = max(1, (width - 4) // (CELL + 1))
        body = Table.grid(expand=True, padding=(0, 1))
        for _ in range(columns):
            body.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for start in range(0, len(cells), columns):
            body.add_row(*cells[start : start + columns])
        frame = Table.grid(expand=True)
        frame.add_row(head)
        frame.add_row(body)
        return Panel(frame, title=self._title or None, title_align="left", width=width, box=box.ROUNDED)


METRICS = ("f1", "exact_match", "exact", "matthews", "spearman", "pearson")
_FORMS = (
    ("z", "z", "{:.3g}".format),
    ("lr", "lr", "{:.2e}".format),
    ("grad_norm", "gradient", "{:.3g}".format),
    ("tokens_per_s", "tokens/s", count),
    ("mfu", "MFU", "{:.0%}".format),
    ("memory_gib", "memory", "{:.2f} GiB".format),
    ("skipped", "skipped", "{:.0f}".format),
)

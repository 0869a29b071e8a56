"""Everything that is told about a run goes through here: to the console, metrics.jsonl and other trackers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from phalanx import registry
from phalanx.config import Config
from phalanx.models.family import spec_of
from phalanx.precision.gemm import NUMBERS
from phalanx.run.folder import RunFolder
from phalanx.run.records import FILE, read
from phalanx.run.verdict import judge
from phalanx.spec.costs import flops_per_token
from phalanx.train.console import Console
from phalanx.train.contention import Contention
from phalanx.train.metrics import Throughput, memory_gib
from phalanx.train.peak import peak_flops
from phalanx.train.trackers import JsonLines, Tracker


class Silent:
    """The monitor of every process but the first: it tells nothing."""

    @contextmanager
    def running(self, step: int, tokens: int) -> Iterator[None]:
        """Enter the training loop."""
        yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Leave out time that is not training."""
        yield

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Tell of an optimizer step that ended."""

    def valid(self, step: int, values: Mapping[str, float]) -> None:
        """Tell of an evaluation that ended."""

    def note(self, text: str) -> None:
        """Print a sentence."""

    def judged(self) -> str:
        """Return what the losses so far say of the run: nothing."""
        return ""


class Monitor:
    """Takes a step's own values, adds rates, memory and MFU, and passes them on. Notes may come at any time."""

    def __init__(self, config: Config, folder: RunFolder, quiet: bool = False, processes: int = 1) -> None:
        self.config, self.folder, self.processes = config, folder, processes
        self.device = torch.device(config.train.device)
        self.console = Console(config, folder.path, quiet=quiet)
        self.flops = flops_per_token(spec_of(config.model), config.data.sequence)
        self.seen = 0
        self.trackers: list[tuple[str, Tracker]] = []  # each under its name in log.trackers; ours have none

    @contextmanager
    def running(self, step: int, tokens: int) -> Iterator[None]:
        """Tell trackers of the training loop, which begins after `step` steps and `tokens` tokens, and close them."""
        mismatch = self._mismatch(step)
        with ExitStack() as stack:
            record = JsonLines(self.config, self.folder.path, step)
            self.trackers = []
            for tracker in (record, self.console):
                self._add("", tracker, stack)
            for name in self.config.log.trackers:
                self._begin(name, registry.TRACKERS.find(name), step, stack)

            self.peak = self.processes * peak_flops(self.device, NUMBERS[self.config.precision.dtype])
            self.seen = tokens
            self.rate = Throughput(record.last.get("seconds", 0.0))
            alone = self.device.type == "cpu" and self.processes == 1  # ranks crowd each other by their layout
            self.crowd = Contention(torch.get_num_threads()) if alone else None
            parameters = spec_of(self.config.model).elements
            facts = {
                "parameters": parameters, "device": self.device.type, "dtype": self.config.precision.dtype,
                "threads": torch.get_num_threads(), "compile": self.config.train.compile, "peak_flops": self.peak,
            }  # fmt: skip

            self.note(
                f"{parameters / 1e6:.1f} M parameters, {self.config.precision.dtype} on {self.device.type} "
                f"({self.peak / 1e9:,.0f} GFLOP/s), compile {self.config.train.compile}"
            )
            if mismatch:
                self.note(mismatch)
            self._tell_all("start", facts)
            yield

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Tell of an optimizer step that ended; values["tokens"] counts all tokens so far."""
        self.rate.step(int(values["tokens"]) - self.seen)
        self.seen = int(values["tokens"])
        speed = self.rate.tokens_per_s
        rates = {
            "tokens_per_s": speed, "mfu": self.flops * speed / self.peak, "memory_gib": memory_gib(self.device),
            "seconds": self.rate.seconds, "seconds_left": self.rate.eta(self.config.train.steps - step),
        }  # fmt: skip
        self._tell_all("train", step, {**values, **rates})

        if self.crowd and (advice := self.crowd.step(rates["mfu"])):
            self.note(advice)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Leave time that is not training out of the rates."""
        with self.rate.paused():
            yield

    def valid(self, step: int, values: Mapping[str, float]) -> None:
        """Tell of an evaluation that ended."""
        self._tell_all("valid", step, values)

    def judged(self) -> str:
        """Return what the losses so far say of the run."""
        return judge(read(self.folder.path / FILE))

    def note(self, text: str) -> None:
        """Print a sentence that stays on the screen."""
        self.console.note(text)

    def _begin(self, name: str, kind: Callable[[Config, Path, int], Tracker], step: int, stack: ExitStack) -> None:
        """Add one more tracker. One that fails from the beginning is told nothing, unless it is required."""
        try:
            tracker = kind(self.config, self.folder.path, step)
        except (Exception, SystemExit) as error:
            if getattr(kind, "required", False):
                with registry.blamed("log.trackers", name, "its construction"):
                    raise
            self.note(f"{name} failed and is told nothing: {registry.named(error)}")
            return
        self._add(name, tracker, stack)

    def _add(self, name: str, tracker: Tracker, stack: ExitStack) -> None:
        """Add a tracker, which is told of the run until the stack ends and closes it."""
        self.trackers.append((name, tracker))
        stack.callback(self._tell, name, tracker, "close")

    def _tell_all(self, method: str, *news: Any) -> None:
        for name, tracker in list(self.trackers):
            self._tell(name, tracker, method, *news)

    def _tell(self, name: str, tracker: Tracker, method: str, *news: Any) -> None:
        """Tell one tracker; if it fails it is told no more, and the run goes on, unless the tracker is required."""
        if (name, tracker) not in self.trackers:
            return
        try:
            getattr(tracker, method)(*news)
        except (Exception, SystemExit) as error:
            if getattr(tracker, "required", False):
                with registry.blamed("log.trackers", name, f"{method}()"):
                    raise
            self.trackers.remove((name, tracker))
            self.note(f"{name or type(tracker).__name__} failed and is told nothing more: {registry.named(error)}")

    def _mismatch(self, step: int) -> str:
        """Return what is wrong with records that do not lead to the checkpoint of `step` (0: there is none), or ""."""
        file = self.folder.metrics
        steps = [record["step"] for record in read(file) if record["kind"] == "train"] if file.exists() else []
        last = max(steps, default=0)

        if last and not step:
            return f"{self.folder.path} tells of {last} steps but has no checkpoint of them: training begins again"
        if step - last >= self.config.log.every:
            return f"{file} ends at step {last}, the checkpoint is of step {step}: the curve lacks the steps between"
        return ""

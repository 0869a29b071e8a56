"""The training loop.

A step is a pure function of the weights, the moments and its number: data, masks and learning rate are computed from
the number, so a run that was stopped and resumed is the run that was not.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.models.family import spec_of
from phalanx.nn.batch import Batch
from phalanx.parallel.layout import Layout
from phalanx.parallel.mesh import make_mesh
from phalanx.precision.scale import LossScale
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.runtime.keepalive import fail_together
from phalanx.train import state
from phalanx.train.allocator import keep_freed
from phalanx.train.evaluate import evaluate
from phalanx.train.guard import Guard
from phalanx.train.loader import Loader
from phalanx.train.monitor import Monitor, Silent
from phalanx.train.optim import clip
from phalanx.train.prepare import packing_pays, prepare
from phalanx.train.progress import Progress
from phalanx.train.schedule import learning_rate
from phalanx.train.task import Task, goal
from phalanx.train.warm_start import warm_start


class Unsaved:
    """Stands where a checkpointer stands, in a run that keeps nothing."""

    latest = None

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group

    def prepare(self, state: object) -> None:
        """Nothing will be staged."""

    def staged(self) -> None:
        """Nothing is being staged."""

    def save(self, step: int, state: object, loss: float | None = None, places: object = None) -> None:
        """Keep nothing of a step."""

    def load(self, state: object, places: object = None) -> NoReturn:
        """There is nothing to load, which `latest` says."""
        raise AssertionError("nothing was saved")

    def wait(self) -> None:
        """Nothing is being written."""


class Trainer:
    """Trains `task` as a configuration says, from its folder's newest checkpoint; without a folder nothing is saved."""

    def __init__(self, config: Config, task: Task, folder: RunFolder | None, monitor: Monitor | Silent) -> None:
        self.config, self.task, self.folder, self.monitor = config, task, folder, monitor
        self.device = torch.device(config.train.device)
        keep_freed()
        self.mesh = make_mesh(config.layout, self.device, spec_of(config.model))
        self.loader = Loader(task, config, self.mesh.dp)
        packs = packing_pays(config, self.loader)
        fill = partial(prepare, config=config, device=self.device, packs=packs, lengths_vary=task.labelled)
        self.layout = Layout(config, self.mesh, spec_of(config.model), fill)
        self.model, self.parameters = self.layout.module, self.layout.parameters
        self.optimizers = config.optim.build(self.parameters)
        state.check_state(config.optim, self.optimizers, self.parameters)
        self.guard = Guard(config.train.max_bad_steps)
        self.scale = LossScale(config.precision)
        group = dist.new_group(backend="gloo", group_desc="saving") if self.mesh.world.size > 1 else None
        self.checkpointer: Checkpointer | Unsaved = (
            Checkpointer(folder, config.save.keep, config.save.asynchronous, group) if folder else Unsaved(group)
        )
        self.progress = Progress()
        self.saved = 0  # step of the newest checkpoint
        self.signal = self.stopped_by = 0  # signals: the one that told this process to stop, the one that ended the run

    def fit(self) -> None:
        """Train to the last step, an early stop, or a signal; in each case what was learned is saved."""
        train, every, progress = self.config.train, self.config.save.every, self.progress
        self.start()
        self.checkpointer.prepare(self._state())
        try:
            with self._signals(), fail_together(), self.monitor.running(progress.step, progress.tokens):
                while progress.step < train.steps and not self.stopped_by and not progress.finished:
                    self.step(progress.step)
                    progress.step += 1
                    improved = self._evaluate()
                    if improved or (every and progress.step % every == 0 and not self.guard.bad):
                        self._save()
                self._finish()
        finally:
            self.loader.close()
            self.checkpointer.wait()

    def step(self, step: int) -> None:
        """Forward and backward over the micro-batches, then the optimizer if the gradient is fit to use."""
        train = self.config.train
        batch = self.layout.local_batch(self.loader.batch(step))
        counts = self.layout.counts(self.task.losses, self.task.counts(batch))
        batches = self._micro_batches(batch.to(self.device))
        sums = self.layout.backward(batches, lambda parts: self._objective(parts, counts))
        told = torch.full((), float(self.signal > 0), device=self.device)  # added up, so that all stop at one step
        totals = self.layout.totals(sums, list(counts), self.parameters.square(), told)
        norm = clip(self.parameters, totals[-2], self.config.optim.clip, self.scale.value)
        *values, stop, norm = torch.cat([totals[:-2], totals[-1:], norm[None]]).tolist()  # a wait for the device
        self.stopped_by = (self.signal or signal.SIGTERM) if stop else 0
        losses = {name: total / max(count, 1) for total, (name, count) in zip(values, counts.items(), strict=True)}
        loss, rate = sum(losses.values()), learning_rate(step, self.config.optim, train.steps)
        if self._fit_to_use(loss, norm, batches):
            self.checkpointer.staged()
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
        self.parameters.zero_grad()
        self.progress.tokens += batch.tokens.numel() * self.mesh.data.size
        self.monitor.step(step + 1, {
            "loss": loss, "lr": rate, "grad_norm": norm, "tokens": self.progress.tokens, "skipped": self.guard.skipped,
            "scale": self.scale.value, **(losses if len(losses) > 1 else {}),
        })  # fmt: skip

    def _objective(self, parts: dict[str, Tensor], counts: dict[str, int]) -> Tensor:
        """What a micro-batch adds to the step's objective, times the loss scale."""
        terms = [parts[name] / max(count, 1) for name, count in counts.items() if name in parts]
        return torch.stack(terms).sum() * self.scale.value

    def _micro_batches(self, batch: Batch) -> list[Batch]:
        size = self.config.layout.micro_batch
        return [batch.rows(start, start + size) for start in range(0, len(batch.tokens), size)]

    def _fit_to_use(self, loss: float, norm: float, batches: list[Batch]) -> bool:
        """Whether the step may reach the weights; after too many that may not, the run ends with a diagnosis."""
        good = self.guard.check(loss, norm, overflow=self.scale.overflowed(loss, norm))
        self.scale.update(good)
        if self.guard.exhausted:
            self._save()  # the good steps since the last checkpoint
            raise InputError(self.guard.diagnose(self.model, lambda: [self.model(rows) for rows in batches]))
        return good

    def _evaluate(self) -> bool:
        """The held-out loss, where this step has one; whether it is the best so far."""
        train, step, source = self.config.train, self.progress.step, self.task.valid
        if source is None or not train.eval_every or (step % train.eval_every and step < train.steps):
            return False
        with self.monitor.evaluating():
            result = evaluate(self.model, self.task, source, self.config, train.eval_sequences, mesh=self.mesh)
        improved = self.progress.record(goal(self.task, result), train.patience)
        self.monitor.valid(step, result)
        if self.progress.turned and (note := self.progress.verdict(self.monitor.judged(), self.task.best_by)):
            self.monitor.note(note)
        return improved

    def _save(self) -> None:
        loss = self.progress.loss if self.progress.evaluated == self.progress.step else None
        captured = self._state()
        self.checkpointer.save(self.progress.step, captured, loss, state.places(captured, self.parameters))
        self.saved = self.progress.step

    def _state(self) -> dict[str, Any]:
        return state.capture(self.parameters, self.optimizers, self.progress, self.scale, self.guard)

    def start(self) -> None:
        """Continue from the newest checkpoint, or start from train.init, or from random weights."""
        if self.folder and self.checkpointer.latest is not None:
            template = self._state()
            restored = self.checkpointer.load(template, places=state.places(template, self.parameters))
            state.restore(template, self.progress, self.scale, self.guard)
            for note in restored.notes:
                self.monitor.note(note)
            self.saved = self.progress.step
            run, step = self.folder.path, self.progress.step
            done = self.progress.finished or step >= self.config.train.steps
            ended = f"{run} is finished at step {step}; train.init={run} starts another run from it"
            self.monitor.note(ended if done else f"continuing {run} after step {step}")
        elif self.config.train.init:
            group, body = self.checkpointer.group, self.task.labelled
            self.monitor.note(warm_start(self.config, self.parameters, self.optimizers, group, body))

    def _finish(self) -> None:
        if self.progress.step > self.saved:
            self._save()
        self.checkpointer.wait()
        if self.stopped_by and self.folder:
            self.monitor.note(
                f"stopped by {signal.Signals(self.stopped_by).name}; saved step {self.progress.step}. "
                f"Continue with: phalanx train {self.folder.path}"
            )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM, SIGHUP and Ctrl-C end the run after the step under way; a second Ctrl-C ends it at once."""

        def stop(number: int, _frame: object) -> None:
            self.signal = number
            if self.mesh.world.size == 1:
                self.stopped_by = number
            signal.signal(signal.SIGINT, signal.default_int_handler)

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

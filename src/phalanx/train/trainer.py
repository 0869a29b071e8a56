"""The training loop.

A step is a pure function of the weights, the moments and its number: data, masks and learning rate are computed from
the number, so a run that was stopped and resumed is the run that was not.
"""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.models.family import spec_of
from phalanx.nn.batch import Batch
from phalanx.optimizer import build
from phalanx.parallel.layout import Layout
from phalanx.parallel.mesh import make_mesh
from phalanx.parallel.pipeline import Sums
from phalanx.precision.scale import LossScale
from phalanx.registry import blamed
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
from phalanx.train.task import Task, counts_of, goal
from phalanx.train.warm_start import warm_start


def forward_backward(layout: Layout, micro_batches: Sequence[Batch], counts: Mapping[str, int], scale: float,
                     stop: Callable[[], bool] = lambda: False) -> tuple[dict[str, float], float, bool]:  # fmt: skip
    """Leave the clipped gradient of the global batch in the parameters of `layout`. Return the mean of each loss, the
    gradient's norm before clipping, and whether any rank is to `stop`. `counts` says over how many positions of the
    global batch each loss is summed; `scale` is the loss scale.
    """

    def objective(sums: Sums) -> Tensor:
        # divided by global counts before backward: gradients of micro-batches and ranks then only add up
        total = torch.stack([sums[name] / max(count, 1) for name, count in counts.items() if name in sums]).sum()
        return total if scale == 1.0 else total * scale

    sums = layout.backward(micro_batches, objective)

    # one all-reduce for losses, norm and stop: every rank decides alike
    # `stop` is asked as late as can be: a signal that came during backward ends the run after this step
    wish = torch.full((), float(stop()), device=layout.device)
    totals = layout.totals(sums, list(counts), layout.parameters.square(), wish)
    norm = clip(layout.parameters, totals[-2], layout.config.optim.clip, scale)

    # the step's one wait for the device: all that the host decides by comes in one copy
    *values, wishes, size = torch.cat([totals[:-2], totals[-1:], norm[None]]).tolist()
    means = {name: value / max(count, 1) for value, (name, count) in zip(values, counts.items(), strict=True)}
    return means, size, wishes > 0


class Trainer:
    """Trains `task` as a configuration says, from its folder's newest checkpoint; without a folder nothing is saved."""

    def __init__(self, config: Config, task: Task, folder: RunFolder | None, monitor: Monitor | Silent) -> None:
        self.config, self.task, self.folder, self.monitor = config, task, folder, monitor
        self.device = torch.device(config.train.device)
        keep_freed()

        self.mesh = make_mesh(config.layout, self.device, spec_of(config.model))
        self.loader = Loader(task, config, self.mesh.dp)
        packs = packing_pays(config, self.loader)
        prepare_stage = partial(prepare, config=config, device=self.device, packs=packs, lengths_vary=task.labelled)
        self.layout = Layout(config, self.mesh, spec_of(config.model), prepare_stage)
        self.model, self.parameters = self.layout.module, self.layout.parameters

        self.optimizers = build(config.optim, self.parameters)
        state.check_state(config.optim, self.optimizers, self.parameters)
        self.guard = Guard(config.train.max_bad_steps)
        self.scale = LossScale(config.precision)

        # of its own, on the CPU: checkpoints are written by a thread while the step's collectives are under way
        self.save_group = dist.new_group(backend="gloo", group_desc="saving") if self.mesh.world.size > 1 else None
        keep, beside = config.save.keep, config.save.asynchronous
        self.checkpointer = Checkpointer(folder, keep, beside, self.save_group) if folder else None
        self.progress = Progress()
        self.saved = 0  # step of the newest checkpoint
        self.signal = self.stopped_by = 0  # signals: the one that told this process to stop, the one that ended the run

    def fit(self) -> None:
        """Train to the last step, an early stop, or a signal; in each case what was learned is saved."""
        train, every, progress = self.config.train, self.config.save.every, self.progress
        self.start()
        if self.checkpointer:
            self.checkpointer.prepare(self._state())

        try:
            with self._signals(), fail_together(), self.monitor.running(progress.step, progress.tokens):
                while progress.step < train.steps and not self.stopped_by and not progress.finished:
                    self.step(progress.step)
                    progress.step += 1
                    improved = self._evaluate()
                    if improved or (every and progress.step % every == 0 and not self.guard.bad):
                        self._save()
                self._save_last()
        finally:
            self.loader.close()
            if self.checkpointer:
                self.checkpointer.wait()

    def step(self, step: int) -> None:
        """Take one optimizer step of the run: forward, backward and, if the gradient is fit to use, update."""
        batch = self.layout.local_batch(self.loader.batch(step))
        # before the batch leaves the CPU: nobody waits for the device
        counts = self.layout.global_counts(self.task.losses, counts_of(self.task, batch, self.config.task))
        if self.config.train.z_loss:
            counts["z"] = counts[self.task.losses[0]]  # those of the vocabulary
        micro_batches = self.layout.micro_batches(batch.to(self.device))

        scale = self.scale.value
        losses, norm, stop = forward_backward(self.layout, micro_batches, counts, scale, lambda: self.signal > 0)
        z = {"z": losses.pop("z")} if "z" in losses else {}  # told apart: a loss is what held-out text is judged by
        self.stopped_by = (self.signal or signal.SIGTERM) if stop else 0  # the signal may have reached another rank
        loss, rate = sum(losses.values()), learning_rate(step, self.config.optim, self.config.train.steps)

        if self._fit_to_use(loss, norm, micro_batches):
            if self.checkpointer:
                self.checkpointer.staged()  # the copy for the last checkpoint must end before weights move
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                with blamed("optim.name", self.config.optim.name, "step()"):
                    optimizer.step()
            if step == self.saved:  # what the first step after one adds, a checkpoint would lose
                state.check_state(self.config.optim, self.optimizers, self.parameters)
        self.parameters.zero_grad()  # here, not at the next step: evaluation and saving have the memory

        self.progress.tokens += batch.tokens.numel() * self.mesh.data.size
        self.monitor.step(step + 1, {
            "loss": loss, "lr": rate, "grad_norm": norm, "tokens": self.progress.tokens, "skipped": self.guard.skipped,
            "scale": self.scale.value, **z, **(losses if len(losses) > 1 else {}),
        })  # fmt: skip

    def _fit_to_use(self, loss: float, norm: float, micro_batches: list[Batch]) -> bool:
        """Whether the step may reach the weights; after too many that may not, the run ends with a diagnosis."""
        good = self.guard.check(loss, norm, overflow=self.scale.overflowed(loss, norm))
        self.scale.update(good)
        if self.guard.exhausted:
            if not state.spoilt(self.parameters):
                self._save()  # the good steps since the last checkpoint
            raise InputError(self.guard.diagnose(self.model, lambda: [self.model(rows) for rows in micro_batches]))
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
        if self.checkpointer is None:
            return

        state.check_finite(self.config.optim, self.parameters, self.progress.step, self.saved)
        loss = self.progress.loss if self.progress.evaluated == self.progress.step else None
        captured = self._state()
        self.checkpointer.save(self.progress.step, captured, loss, state.places(captured, self.parameters))
        self.saved = self.progress.step

    def _state(self) -> dict[str, Any]:
        return state.capture(self.parameters, self.optimizers, self.progress, self.scale, self.guard)

    def start(self) -> None:
        """Continue from the newest checkpoint, or start from train.init, or from random weights."""
        if self.folder and self.checkpointer and self.checkpointer.latest is not None:
            template = self._state()
            restored = self.checkpointer.load(template, places=state.places(template, self.parameters))
            state.restore(template, self.progress, self.scale, self.guard)
            self.progress.finished &= bool(self.config.train.patience)  # a decay goes on where its stable run gave up
            self.saved = step = self.progress.step

            run, done = self.folder.path, self.progress.finished or step >= self.config.train.steps
            ended = f"{run} is finished at step {step}; train.init={run} starts another run from it"
            for note in (*restored.notes, ended if done else f"continuing {run} after step {step}"):
                self.monitor.note(note)
        elif self.config.train.init:
            body_only = self.task.labelled
            self.monitor.note(warm_start(self.config, self.parameters, self.optimizers, self.save_group, body_only))

    def _save_last(self) -> None:
        """Save the steps since the last checkpoint, and say how to continue a run that a signal ended."""
        if self.progress.step > self.saved:
            self._save()
        if self.checkpointer:
            self.checkpointer.wait()  # before the note, which says that the step is saved

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

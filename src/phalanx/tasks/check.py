"""The promise put to the test where it is to be kept: the first steps of a run on a layout, and on one process.

All processes of the layout train first and part. Then the first of them trains alone, on the same global batches in the
same micro-batches, while the others are gone: nobody waits in a collective for as long as that takes. Where the curves
differ by more than rounding makes of any run, it trains twice more in other micro-batches, which tell how much rounding
makes of this one.
"""

import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from rich.progress import Progress as Bar

from phalanx.config import Config, LayoutConfig
from phalanx.errors import InputError
from phalanx.models.family import spec_of
from phalanx.run.comparison import Comparison, Point
from phalanx.runtime import process_group, rendezvous
from phalanx.runtime.on_all_ranks import on_rank_zero
from phalanx.tasks.preflight import check_new_run, task_of
from phalanx.tasks.run import joined, read
from phalanx.train.layouts import rows_together
from phalanx.train.machine import this_machine
from phalanx.train.monitor import Silent
from phalanx.train.resolve import resolve
from phalanx.train.trainer import Trainer

ALONE = "one process"


def check(name: str, overrides: Sequence[str], steps: int) -> Comparison | None:
    """Compare the first `steps` of a recipe on the layout and on one process; return None on every rank but the first.

    Every process of the layout calls this alike. Nothing is saved. InputError for what cannot run, and for a model that
    one process cannot hold.
    """
    store = rendezvous.meet()
    _, requested, tokenizer = read(name, overrides, None)

    with Bar(transient=True, disable=rendezvous.rank() > 0 or not sys.stdout.isatty()) as bar:
        with joined(requested, tokenizer, store) as config:
            on_rank_zero(lambda: _possible(config), dist.group.WORLD)
            on_rank_zero(lambda: check_new_run(config, tokenizer), dist.group.WORLD)
            steps, title = min(steps, config.train.steps), _title(config.layout)
            first, second = (bar.add_task(name, total=steps) for name in (title, ALONE))
            split = _curve(config, steps, lambda: bar.advance(first))
            process_group.leave()

        if rendezvous.rank():
            return None
        # The cores of the processes that have left are free now.
        torch.set_num_threads(torch.get_num_threads() * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        whole = _curve(_alone(config, config.layout.micro_batch), steps, lambda: bar.advance(second))
        compared = Comparison((ALONE, title), (whole, split), config.precision.dtype)
        if compared.agree:
            return compared

        sizes = _other_micro_batches(config)
        again = bar.add_task(f"{ALONE} in other micro-batches", total=steps * len(sizes))
        others = {size: _curve(_alone(config, size), steps, lambda: bar.advance(again)) for size in sizes}
    return replace(compared, others=others)


class _Points(Silent):
    """A monitor that keeps the loss and the norm of the gradient of each step."""

    def __init__(self, advance: Callable[[], None]) -> None:
        self.points: list[Point] = []
        self.advance = advance

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the loss and the norm of the gradient of an optimizer step that ended."""
        self.points.append(Point(values["loss"], values["grad_norm"]))
        self.advance()


def _curve(config: Config, steps: int, advance: Callable[[], None]) -> list[Point]:
    points = _Points(advance)
    trainer = Trainer(config, task_of(config), None, points)
    trainer.start()

    try:
        for step in range(steps):
            trainer.step(step)
    finally:
        trainer.loader.close()

    del trainer
    gc.collect()  # a trainer is a ring of references; the next one needs its memory
    torch.cuda.empty_cache()
    return points.points


def _alone(config: Config, micro_batch: int) -> Config:
    """Return the run on one process, in micro-batches of so many sequences."""
    layout = LayoutConfig(micro_batch=micro_batch, recompute=config.layout.recompute)
    return resolve(config.model_copy(update={"layout": layout}), this_machine(config.train))


def _other_micro_batches(config: Config) -> list[int]:
    """Return two sizes, or fewer where the batch has no more: smaller first, as these surely fit the memory."""
    size, step = config.layout.micro_batch, rows_together(config)
    near = dict.fromkeys((size // (2 * step) * step, size - step, size + step, size + 2 * step))
    return [n for n in near if 0 < n <= config.train.batch][:2]


def _possible(config: Config) -> None:
    """Raise InputError where one process surely lacks the memory: weight, gradient and two moments take 16 bytes."""
    if rendezvous.world() == 1:
        raise InputError("one process has nothing to compare; name a layout, as layout.tp=2, or --procs 2")

    spec, available = spec_of(config.model), _memory(torch.device(config.train.device))
    blocks = [sum(parameter.elements for parameter in block.parameters()) for block in spec.blocks]
    needed = [16 * (spec.elements - sum(blocks[count:])) for count in range(1, len(blocks) + 1)]
    if needed[-1] > available:
        fits = sum(size < available / 2 for size in needed)
        advice = f"model.layers={fits} would do" if fits else "take a smaller model.preset"
        raise InputError(
            f"weights, gradients and moments of this model are {needed[-1] / 2**30:,.0f} GiB, and one process has "
            f"{available / 2**30:,.0f}; check the layout on a model of the same shape with fewer blocks: {advice}"
        )


def _memory(device: torch.device) -> int:
    """Return the bytes of a device's memory; for a processor those of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _title(layout: LayoutConfig) -> str:
    sizes = [f"{axis}={size}" for axis in ("tp", "cp", "pp", "dp") if (size := getattr(layout, axis)) > 1]
    return " ".join(sizes + [layout.shard] * (layout.shard != "none"))

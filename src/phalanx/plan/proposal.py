"""A question to the planner, and its answer: layouts, or the nearest thing that would work."""

import math
import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from phalanx.config import Config, LayoutConfig
from phalanx.errors import InputError
from phalanx.models.family import spec_of
from phalanx.plan.cluster import Cluster
from phalanx.plan.layout_names import short
from phalanx.plan.search import ROOM, SearchResult, search
from phalanx.run.folder import load_config
from phalanx.train.resolve import Target, resolve

GIB = 2**30
BETTER = 1.15  # times as many tokens a second are worth another batch
NEAR = 0.05  # how far from the batch asked for another may be, of its size
_SINGLE = {"tp": 1, "cp": 1, "pp": 1, "dp": 1, "micro_batch": 0, "schedule": "1f1b", "chunks": 1, "shard": "none",
           "shard_ways": 0}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A question: a model on a number of a cluster's GPUs, for so many tokens at so many dollars an hour."""

    name: str
    overrides: tuple[str, ...]
    cluster_name: str
    cluster: Cluster
    gpus: int
    tokens: float = 0.0  # 0: the recipe's own
    price: float = 0.0

    @cached_property
    def requested(self) -> Config:
        """Return the configuration as requested, with its own layout."""
        return load_config(self.name, self.overrides)

    @cached_property
    def config(self) -> Config:
        """Return the configuration of the run on one GPU."""
        return resolve(self.requested.updated(layout=_SINGLE), Target(1, precision=self.cluster.precision))

    def steps(self, config: Config) -> int:
        """Return how many steps a run takes until all tokens are seen."""
        step = config.train.batch * config.data.sequence
        return math.ceil(self.tokens / step) if self.tokens else config.train.steps

    def pins(self) -> dict[str, Any]:
        """Return the keys of the layout that the overrides give, and that therefore are not searched."""
        keys = [word.partition("=")[0] for word in self.overrides]
        given = {key.removeprefix("layout."): None for key in keys if key.startswith("layout.")}
        return {key: value for key in given if (value := getattr(self.requested.layout, key)) != 0}

    def command(self, layout: LayoutConfig) -> str:
        """Return the command that trains on this layout."""
        words = [word for word in self.overrides if not word.startswith("layout.")]
        if self.tokens:
            words.append(f"train.steps={self.steps(self.config)}")
        if not self.requested.data.train:
            words.append("data.train=PREFIX")

        pins, local = self.pins(), self.gpus <= self.cluster.node  # else the nodes say how many replicas there are
        for key, value in layout.model_dump().items():
            if (key != "dp" or local) and (value != getattr(self.requested.layout, key) or key in pins):
                words.append(f"layout.{key}={str(value).lower() if isinstance(value, bool) else value}")

        line = shlex.join([self.name, *words])
        if local:
            return f"phalanx train {line}"
        return (
            f"phalanx launch slurm {line} --nodes {self.gpus // self.cluster.node} --gpus-per-node {self.cluster.node}"
        )


def answer(question: Question, most: int) -> SearchResult:
    """Return the fastest layouts; InputError, with the nearest thing that works, where there is none."""
    node = question.cluster.node
    if question.gpus > node and question.gpus % node:
        raise InputError(
            f"--gpus {question.gpus}: {question.cluster_name} has {node} in a node; use {question.gpus // node * node} "
            f"or {(question.gpus // node + 1) * node}"
        )
    config, fixed = question.config, question.pins()
    result = search(config, question.cluster, question.gpus, fixed, most)
    if not result.layouts:
        raise InputError(_undividable(question, config, fixed))
    if not result.best:
        raise InputError(_too_large(question, config, fixed, result))
    return result


def better_batch(question: Question, result: SearchResult) -> tuple[int, float] | None:
    """Return the batch within NEAR of the one asked for that the GPUs divide best, and how many times as many tokens a
    second it makes, where that is much more: which layouts there are hangs on what divides the batch.
    """
    config = question.config
    batch, slack = config.train.batch, int(config.train.batch * NEAR)
    if any(config.train.rampup):
        return None

    # Batches of one size are compared: a much larger one is faster whatever divides it.
    near = range(batch - slack, batch + slack + 1)
    best = max(near, key=lambda size: (math.gcd(size, question.gpus), -abs(size - batch)))
    if best == batch:
        return None

    improved = search(config.updated(train={"batch": best}), question.cluster, question.gpus, question.pins(), 1)
    if not improved.best:
        return None
    times = best / improved.best[0].prediction.seconds * result.best[0].prediction.seconds / batch
    return (best, times) if times > BETTER else None


def _undividable(question: Question, config: Config, fixed: dict[str, Any]) -> str:
    batch, near = config.train.batch, []
    for step in (n for n in range(1, question.gpus + 1) if question.gpus % n == 0):
        for size in {max(1, batch // step) * step, (batch // step + 1) * step}:
            if search(config.updated(train={"batch": size}), question.cluster, question.gpus, fixed, 0).layouts:
                near.append(size)
        if near:
            best = min(near, key=lambda size: abs(size - batch))
            return f"train.batch={batch} divides on no layout of {question.gpus} GPUs; the nearest that does is {best}"

    pinned = f" with {short_pins(fixed)}" if fixed else ""
    blocks = spec_of(config.model).blocks
    heads = max(block.attention.heads for block in blocks)
    return f"no layout of {question.gpus} GPUs{pinned} divides this model (heads {heads}, layers " \
           f"{len(blocks)}, sequence {config.data.sequence}); use another --gpus"  # fmt: skip


def short_pins(fixed: dict[str, Any]) -> str:
    """Return the pinned keys as words of a command."""
    return " ".join(f"layout.{key}={value}" for key, value in fixed.items())


def _too_large(question: Question, config: Config, fixed: dict[str, Any], result: SearchResult) -> str:
    assert result.smallest
    needed, layout = result.smallest
    room = ROOM * question.cluster.gpu.memory / GIB
    reason = (
        f"{question.name} fits on no layout of {question.gpus} GPUs: the smallest, {short(layout)}, needs "
        f"{needed / GIB:.1f} GiB of the {room:.1f} that a step may fill of {question.cluster.gpu.name}"
    )

    gpus = question.gpus * 2
    free = {key: value for key, value in fixed.items() if key != "dp"}
    while gpus <= 16384:
        if gpus <= question.cluster.node or gpus % question.cluster.node == 0:
            more = search(config, question.cluster, gpus, free, 1)
            if more.best:
                return f"{reason}; {gpus} GPUs hold it, as {short(more.best[0].config.layout)}"
        gpus *= 2
    return f"{reason}; use GPUs with more memory"

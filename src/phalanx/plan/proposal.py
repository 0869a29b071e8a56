"""What the planner tells people: the table of layouts, why one lost, and where nothing fits what would."""

import shlex
from dataclasses import dataclass
from typing import Any

from phalanx import recipe
from phalanx.config import Config, LayoutConfig
from phalanx.errors import InputError
from phalanx.plan.cluster import Cluster
from phalanx.plan.dry import rehearse
from phalanx.plan.names import pins, short
from phalanx.plan.search import ROOM, Found, Planned, search
from phalanx.plan.work import Work
from phalanx.train.resolve import expand
from phalanx.units import count

GIB = 2**30
DAY = 86400
SUBJECTS = {  # of the parts of a step, where one layout spends more than another
    "tp": "tensor parallelism talks longer",
    "cp": "context parallelism talks longer",
    "dp": "replicas talk longer",
    "bubble": "the pipeline idles longer",
    "waiting": "the GPUs wait longer, for launches and for each other",
    "matrix": "the products are longer: smaller ones, or some done twice",
    "gradients": "more micro-batches add their gradients",
    "optimizer": "each GPU updates more parameters",
}
_SINGLE = {"tp": 1, "cp": 1, "pp": 1, "dp": 1, "micro_batch": 1, "schedule": "1f1b", "chunks": 1, "shard": "none",
           "shard_ways": 0}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """What was asked: a model on a number of a cluster's GPUs, for so many tokens at so many dollars an hour."""

    name: str
    overrides: tuple[str, ...]
    cluster_name: str
    cluster: Cluster
    gpus: int
    tokens: float = 0.0
    price: float = 0.0

    def config(self) -> Config:
        """The run, on one GPU."""
        single = [f"layout.{key}={value}" for key, value in _SINGLE.items()]
        return rehearse(self.name, [*self.overrides, *single], 1)

    def pins(self) -> dict[str, Any]:
        """What the overrides say of the layout, and so is not searched."""
        keys = [word.partition("=")[0] for word in self.overrides]
        asked = self._asked()
        given = {key.removeprefix("layout."): None for key in keys if key.startswith("layout.")}
        return {key: value for key in given if (value := getattr(asked, key)) != 0}

    def _asked(self) -> LayoutConfig:
        return expand(recipe.load_mapping(self.name, self.overrides)).layout

    def command(self, layout: LayoutConfig) -> str:
        """What runs it."""
        asked, words = self._asked(), [word for word in self.overrides if not word.startswith("layout.")]
        if not expand(recipe.load_mapping(self.name, self.overrides)).data.train:
            words.append("data.train=PREFIX")
        for key, value in layout.model_dump().items():
            if key != "dp" and (value != getattr(asked, key) or key in self.pins()):
                words.append(f"layout.{key}={str(value).lower() if isinstance(value, bool) else value}")
        line = shlex.join([self.name, *words])
        if self.gpus <= self.cluster.node:
            return f"phalanx train {line}"
        return (
            f"phalanx launch slurm {line} --nodes {self.gpus // self.cluster.node} --gpus-per-node {self.cluster.node}"
        )


def answer(question: Question, most: int) -> Found:
    """The fastest layouts; InputError, with the nearest thing that works, where there is none."""
    node = question.cluster.node
    if question.gpus > node and question.gpus % node:
        raise InputError(
            f"--gpus {question.gpus}: {question.cluster_name} has {node} in a node; use {question.gpus // node * node} "
            f"or {(question.gpus // node + 1) * node}"
        )
    config, fixed = question.config(), question.pins()
    found = search(config, question.cluster, question.gpus, fixed, most)
    if not found.layouts:
        raise InputError(_undividable(question, config, fixed))
    if not found.best:
        raise InputError(_too_large(question, config, fixed, found))
    return found


def _undividable(question: Question, config: Config, fixed: dict[str, Any]) -> str:
    batch, near = config.train.batch, []
    for step in (n for n in range(1, question.gpus + 1) if question.gpus % n == 0):
        for size in {max(1, batch // step) * step, (batch // step + 1) * step}:
            train = config.train.model_copy(update={"batch": size})
            if search(config.model_copy(update={"train": train}), question.cluster, question.gpus, fixed, 0).layouts:
                near.append(size)
        if near:
            best = min(near, key=lambda size: abs(size - batch))
            return f"train.batch={batch} divides on no layout of {question.gpus} GPUs; the nearest that does is {best}"
    said = f" with {short_pins(fixed)}" if fixed else ""
    return f"no layout of {question.gpus} GPUs{said} divides this model (heads {config.model.heads}, layers " \
           f"{config.model.layers}, sequence {config.data.sequence}); use another --gpus"  # fmt: skip


def short_pins(fixed: dict[str, Any]) -> str:
    """As words of a command."""
    return " ".join(f"layout.{key}={value}" for key, value in fixed.items())


def _too_large(question: Question, config: Config, fixed: dict[str, Any], found: Found) -> str:
    assert found.smallest
    needed, layout = found.smallest
    room = ROOM * question.cluster.gpu.memory / GIB
    said = (
        f"{question.name} fits on no layout of {question.gpus} GPUs: the smallest, {short(layout)}, needs "
        f"{needed / GIB:.1f} GiB of the {room:.1f} that a step may fill of {question.cluster.gpu.name}"
    )
    gpus = question.gpus * 2
    free = {key: value for key, value in fixed.items() if key != "dp"}
    while gpus <= 16384:
        if gpus <= question.cluster.node or gpus % question.cluster.node == 0:
            more = search(config, question.cluster, gpus, free, 1)
            if more.best:
                return f"{said}; {gpus} GPUs hold it, as {short(more.best[0].config.layout)}"
        gpus *= 2
    return f"{said}; use GPUs with more memory"


def record(question: Question, planned: Planned) -> dict[str, Any]:
    """A layout for machines: bytes, seconds, FLOP/s, dollars."""
    said = planned.prediction
    tokens_per_s = planned.config.train.batch * planned.config.data.sequence / said.seconds
    days = question.tokens / tokens_per_s / DAY
    return {
        "layout": planned.config.layout.model_dump(exclude={"timeout"}),
        "name": short(planned.config.layout),
        "memory": planned.memory._asdict(),
        "seconds": said.seconds,
        "parts": said.parts,
        "flops_per_gpu": said.tflops * 1e12,
        "mfu": said.mfu,
        "tokens_per_s": tokens_per_s,
        "bound": said.bound,
        "days": days,
        "dollars": days * 24 * question.gpus * question.price,
        "command": question.command(planned.config.layout),
    }


def document(question: Question, found: Found) -> dict[str, Any]:
    """The whole answer for machines."""
    return {
        "model": question.name,
        "cluster": question.cluster_name,
        "gpus": question.gpus,
        "tokens": question.tokens,
        "layouts": found.layouts,
        "worked_out": found.worked_out,
        "too_large": found.too_large,
        "best": [record(question, planned) for planned in found.best],
    }


def table(question: Question, found: Found) -> list[str]:
    """In lines of 120 columns at most, commands apart."""
    config = found.best[0].config
    work = Work.of(config)
    priced = question.price > 0
    lines = [
        f"{question.name}: {count(work.parameters)} parameters, {config.precision.dtype}, {config.train.batch:,} × "
        f"{config.data.sequence:,} tokens a step, {count(question.tokens)} tokens in all",
        f"{question.gpus} × {question.cluster.gpu.name} ({question.cluster_name}): {found.layouts:,} layouts divide; "
        f"{found.worked_out:,} worked out, {found.too_large:,} of them too large; no other is faster",
        "",
        f"{'':2}  {'':34} {'GiB of a GPU':^29}  {'s/step':>7} {'TFLOP/s':>7} {'MFU':>5} {'tokens/s':>8}  "
        f"{'bound by':<9} {'days':>6}" + (f" {'cost':>6}" if priced else ""),
        f"{'':2}  {'layout':<34} {'all':>5}{'par':>5}{'grad':>5}{'opt':>5}{'act':>5}{'tmp':>4}  {'':>7} {'a GPU':>7}",
    ]
    for number, planned in enumerate(found.best, 1):
        row, memory = record(question, planned), planned.memory
        sizes = "".join(f"{_gib(size):>{4 if kind == 4 else 5}}" for kind, size in enumerate(memory))
        lines.append(
            f"{number:>2}  {row['name']:<34} {_gib(sum(memory)):>5}{sizes}  {row['seconds']:>7.4g} "
            f"{planned.prediction.tflops:>7.1f} {row['mfu']:>5.1%} {count(row['tokens_per_s']):>8}  {row['bound']:<9} "
            f"{_days(row['days']):>6}" + (f" {'$' + count(row['dollars']):>6}" if priced else "")
        )
    return [*lines, "", *(f"{n:>2}  {question.command(p.config.layout)}" for n, p in enumerate(found.best, 1))]


def _gib(size: float) -> str:
    gib = size / GIB
    return f"{gib:.1f}" if gib < 99.95 else f"{gib:.0f}"


def _days(days: float) -> str:
    return f"{days:.1f}" if days < 1000 else count(days)


def why(question: Question, text: str) -> list[str]:
    """What the best layout with these properties loses against the best of all, part by part."""
    config, fixed = question.config(), question.pins()
    best = answer(question, 1).best[0]
    other = search(config, question.cluster, question.gpus, {**fixed, **pins(text)}, 1)
    if not other.layouts:
        return [f"{text}: divides on no layout; {_refusal(question, config, {**fixed, **pins(text)})}"]
    if not other.best:
        assert other.smallest
        needed, layout = other.smallest
        room = ROOM * question.cluster.gpu.memory / GIB
        return [f"{text}: too large; {short(layout)}, the smallest, needs {needed / GIB:.1f} GiB of {room:.1f}"]
    lost = other.best[0]
    names = short(best.config.layout), short(lost.config.layout)
    if names[0] == names[1]:
        return [f"{text}: did not lose; {names[0]} is the fastest of all"]
    one, two = best.prediction, lost.prediction
    parts = {key: two.parts.get(key, 0.0) - one.parts.get(key, 0.0) for key in {**one.parts, **two.parts}}
    order = sorted(parts, key=lambda key: -parts[key])
    width = max(12, *map(len, names))
    lines = [f"{'seconds a step':<14}  {names[0]:>{width}}  {names[1]:>{width}}  difference"]
    for key in order:
        values = one.parts.get(key, 0.0), two.parts.get(key, 0.0)
        lines.append(f"{key:<14}  {values[0]:>{width}.4f}  {values[1]:>{width}.4f}  {parts[key]:>+10.4f}")
    lines.append(
        f"{'all':<14}  {one.seconds:>{width}.4f}  {two.seconds:>{width}.4f}  {two.seconds - one.seconds:>+10.4f}"
    )
    sizes = sum(best.memory) / GIB, sum(lost.memory) / GIB
    lines.append(f"{'GiB of a GPU':<14}  {sizes[0]:>{width}.1f}  {sizes[1]:>{width}.1f}  {sizes[1] - sizes[0]:>+10.1f}")
    slower = two.seconds / one.seconds - 1
    reason = SUBJECTS.get(order[0], f"{order[0]} takes longer")
    return [*lines, "", f"{names[1]} is {slower:.1%} slower than {names[0]}, mostly because {reason}."]


def _refusal(question: Question, config: Config, fixed: dict[str, Any]) -> str:
    """What the trainer would say to it."""
    from phalanx.train.lay_out import lay_out

    try:
        lay_out(config.model_copy(update={"layout": LayoutConfig(**fixed)}), question.gpus)
    except InputError as error:
        return str(error)
    return "sizes and batch do not go together"

"""The planner's answer as text and JSON: the table of layouts, and why one lost against another."""

from typing import Any

from phalanx.config import Config, LayoutConfig
from phalanx.plan.layout_names import pins, short
from phalanx.plan.proposal import GIB, Question, answer, better_batch
from phalanx.plan.search import ROOM, Found, Planned, search
from phalanx.plan.workload import Workload, uncounted
from phalanx.train.layouts import misfit
from phalanx.units import aligned, count

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


def record(question: Question, planned: Planned) -> dict[str, Any]:
    """A layout for machines: bytes, seconds, FLOP/s, dollars."""
    said = planned.prediction
    tokens_per_s = planned.config.train.batch * planned.config.data.sequence / said.seconds
    days = question.steps(planned.config) * said.seconds / DAY
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
        "tokens": _tokens(question, found),
        "layouts": found.layouts,
        "worked_out": found.worked_out,
        "too_large": found.too_large,
        "notes": notes(question, found),
        "best": [record(question, planned) for planned in found.best],
    }


def _tokens(question: Question, found: Found) -> int:
    config = found.best[0].config
    return question.steps(config) * config.train.batch * config.data.sequence


def table(question: Question, found: Found) -> list[str]:
    """In lines of 120 columns at most, commands apart."""
    config, priced = found.best[0].config, question.price > 0
    batch = f"{config.train.batch:,} × {config.data.sequence:,} tokens"
    kinds = "GiB", "par", "grad", "opt", "act", "tmp"
    rows = [["", "layout", *kinds, "s/step", "TFLOP/s", "MFU", "tokens/s", "bound by", "days", "cost"]]
    for number, planned in enumerate(found.best, 1):
        row = record(question, planned)
        rows.append([
            str(number), row["name"], _gib(sum(planned.memory)), *map(_gib, planned.memory), f"{row['seconds']:.4g}",
            _short(planned.prediction.tflops), f"{row['mfu']:.1%}", count(row["tokens_per_s"]), row["bound"],
            f"{row['days']:.3g}", f"${count(row['dollars'])}",
        ])  # fmt: skip
    parameters = count(Workload.of(config).parameters)
    return [
        f"{question.name}: {parameters} parameters, {config.precision.dtype}, {batch} a step, "
        f"{count(_tokens(question, found))} tokens in all",
        f"{question.gpus:,} × {question.cluster.gpu.name}, {question.cluster_name}",
        f"{found.layouts:,} layouts divide; {found.worked_out:,} worked out, {found.too_large:,} of them too large; "
        "no other is faster",
        "",
        *aligned([row if priced else row[:-1] for row in rows], left=(1, 12)),
        "",
        *(f"{n:>2} {question.command(planned.config.layout)}" for n, planned in enumerate(found.best, 1)),
        *[""] * bool(said := notes(question, found)),
        *said,
    ]


def notes(question: Question, found: Found) -> list[str]:
    """Sentences on changes of the request that would make the step much faster, and on what is not counted."""
    config, peak, said = found.best[0].config, question.cluster.gpu.peak, []
    if better := better_batch(question, found):
        batch, times = better
        said.append(f"train.batch={config.train.batch} divides badly: {batch} makes {times:.1f} times the tokens/s")
    said += uncounted(config)
    dtype = config.precision.dtype
    if dtype == "fp32" and peak.get("fp16", 0) > 2 * peak["fp32"] and "bf16" not in peak:
        said.append(
            f"{question.cluster.gpu.name} has no bf16, so precision.dtype=auto is fp32; --precision fp16 multiplies "
            f"{peak['fp16'] / peak['fp32']:.0f} times as fast"
        )
    return said


def _short(number: float) -> str:
    return f"{number:.1f}" if number >= 10 else f"{number:.3g}"


def _gib(size: float) -> str:
    gib = size / GIB
    return f"{gib:.1f}" if gib < 99.95 else f"{gib:.0f}"


def why(question: Question, text: str) -> list[str]:
    """Where the best layout with these properties loses time against the best of all, part by part, in seconds."""
    config, fixed = question.config, question.pins() | pins(text)
    best = answer(question, 1).best[0]
    other = search(config, question.cluster, question.gpus, fixed, 1)
    if not other.layouts:
        return [f"{text}: divides on no layout; {_refusal(question, config, fixed)}"]
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
    more = {part: two.parts.get(part, 0.0) - one.parts.get(part, 0.0) for part in {**one.parts, **two.parts}}
    order = sorted(more, key=lambda part: -more[part])
    seconds = [(part, one.parts.get(part, 0.0), two.parts.get(part, 0.0)) for part in order]
    rows = [["seconds a step", *names, "difference"]]
    rows += [
        [part, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}"] for part, a, b in [*seconds, ("all", one.seconds, two.seconds)]
    ]
    a, b = sum(best.memory) / GIB, sum(lost.memory) / GIB
    rows.append(["GiB of a GPU", f"{a:.1f}", f"{b:.1f}", f"{b - a:+.1f}"])
    reason = SUBJECTS.get(order[0], f"{order[0]} takes longer")
    slower = two.seconds / one.seconds - 1
    said = f"{names[1]} is {slower:.1%} slower than {names[0]}, mostly because {reason}."
    return [*aligned(rows, left=(0,), space="  "), "", said]


def _refusal(question: Question, config: Config, fixed: dict[str, Any]) -> str:
    """The trainer's refusal of a layout, or nothing."""
    reason = misfit(config.model_copy(update={"layout": LayoutConfig(**fixed)}), question.gpus)
    return reason or "sizes and batch do not go together"

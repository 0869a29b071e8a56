"""The planner's answer as text and JSON: the table of layouts, and why one lost against another."""

from typing import Any

from phalanx.config import Config, LayoutConfig
from phalanx.plan.layout_names import pins, short
from phalanx.plan.proposal import GIB, Question, answer, better_batch
from phalanx.plan.search import ROOM, Planned, SearchResult, search
from phalanx.plan.workload import Workload, uncounted
from phalanx.train.misfit import layout_misfit
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
    """Return a layout as a dict for JSON: bytes, seconds, FLOP/s, dollars."""
    prediction = planned.prediction
    tokens_per_s = planned.config.train.batch * planned.config.data.sequence / prediction.seconds
    days = question.steps(planned.config) * prediction.seconds / DAY

    return {
        "layout": planned.config.layout.model_dump(exclude={"timeout"}),
        "name": short(planned.config.layout),
        "memory": planned.memory._asdict(),
        "seconds": prediction.seconds,
        "parts": prediction.parts,
        "flops_per_gpu": prediction.tflops * 1e12,
        "mfu": prediction.mfu,
        "tokens_per_s": tokens_per_s,
        "bound": prediction.bound,
        "days": days,
        "dollars": days * 24 * question.gpus * question.price,
        "command": question.command(planned.config.layout),
    }


def document(question: Question, result: SearchResult) -> dict[str, Any]:
    """Return the whole answer as a dict for JSON."""
    return {
        "model": question.name,
        "cluster": question.cluster_name,
        "gpus": question.gpus,
        "tokens": _tokens(question, result),
        "layouts": result.layouts,
        "worked_out": result.worked_out,
        "too_large": result.too_large,
        "notes": notes(question, result),
        "best": [record(question, planned) for planned in result.best],
    }


def _tokens(question: Question, result: SearchResult) -> int:
    config = result.best[0].config
    return question.steps(config) * config.train.batch * config.data.sequence


def table(question: Question, result: SearchResult) -> list[str]:
    """Return the answer as lines of 120 columns at most, commands apart."""
    config, priced = result.best[0].config, question.price > 0
    batch = f"{config.train.batch:,} × {config.data.sequence:,} tokens"

    kinds = "GiB", "par", "grad", "opt", "act", "tmp"
    rows = [["", "layout", *kinds, "s/step", "TFLOP/s", "MFU", "tokens/s", "bound by", "days", "cost"]]
    for number, planned in enumerate(result.best, 1):
        row = record(question, planned)
        rows.append([
            str(number), row["name"], _gib(sum(planned.memory)), *map(_gib, planned.memory), f"{row['seconds']:.4g}",
            _short(planned.prediction.tflops), f"{row['mfu']:.1%}", count(row["tokens_per_s"]), row["bound"],
            f"{row['days']:.3g}", f"${count(row['dollars'])}",
        ])  # fmt: skip

    parameters = count(Workload.of(config).parameters)
    return [
        f"{question.name}: {parameters} parameters, {config.precision.dtype}, {batch} a step, "
        f"{count(_tokens(question, result))} tokens in all",
        f"{question.gpus:,} × {question.cluster.gpu.name}, {question.cluster_name}",
        f"{result.layouts:,} layouts divide; {result.worked_out:,} worked out, {result.too_large:,} of them too large; "
        "no other is faster",
        "",
        *aligned([row if priced else row[:-1] for row in rows], left=(1, 12)),
        "",
        *(f"{n:>2} {question.command(planned.config.layout)}" for n, planned in enumerate(result.best, 1)),
        *[""] * bool(advice := notes(question, result)),
        *advice,
    ]


def notes(question: Question, result: SearchResult) -> list[str]:
    """Return sentences on changes of the request that would make the step much faster, and on what is not counted."""
    config, peak, advice = result.best[0].config, question.cluster.gpu.peak, []
    if better := better_batch(question, result):
        batch, times = better
        advice.append(f"train.batch={config.train.batch} divides badly: {batch} makes {times:.1f} times the tokens/s")
    advice += uncounted(config)
    dtype = config.precision.dtype
    if dtype == "fp32" and peak.get("fp16", 0) > 2 * peak["fp32"] and "bf16" not in peak:
        advice.append(
            f"{question.cluster.gpu.name} has no bf16, so precision.dtype=auto is fp32; --precision fp16 multiplies "
            f"{peak['fp16'] / peak['fp32']:.0f} times as fast"
        )
    return advice


def _short(number: float) -> str:
    return f"{number:.1f}" if number >= 10 else f"{number:.3g}"


def _gib(size: float) -> str:
    gib = size / GIB
    return f"{gib:.1f}" if gib < 99.95 else f"{gib:.0f}"


def why(question: Question, text: str) -> list[str]:
    """Return a table of where the best layout with these properties loses time against the best of all, in seconds."""
    config, fixed = question.config, question.pins() | pins(text)
    best = answer(question, 1).best[0]
    pinned = search(config, question.cluster, question.gpus, fixed, 1)
    if not pinned.layouts:
        return [f"{text}: divides on no layout; {_refusal(question, config, fixed)}"]
    if not pinned.best:
        assert pinned.smallest
        needed, layout = pinned.smallest
        room = ROOM * question.cluster.gpu.memory / GIB
        return [f"{text}: too large; {short(layout)}, the smallest, needs {needed / GIB:.1f} GiB of {room:.1f}"]

    lost = pinned.best[0]
    names = short(best.config.layout), short(lost.config.layout)
    if names[0] == names[1]:
        return [f"{text}: did not lose; {names[0]} is the fastest of all"]

    fastest, slower = best.prediction, lost.prediction
    more = {
        part: slower.parts.get(part, 0.0) - fastest.parts.get(part, 0.0) for part in {**fastest.parts, **slower.parts}
    }
    order = sorted(more, key=lambda part: -more[part])
    seconds = [(part, fastest.parts.get(part, 0.0), slower.parts.get(part, 0.0)) for part in order]
    rows = [["seconds a step", *names, "difference"]]
    rows += [
        [part, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}"]
        for part, a, b in [*seconds, ("all", fastest.seconds, slower.seconds)]
    ]
    a, b = sum(best.memory) / GIB, sum(lost.memory) / GIB
    rows.append(["GiB of a GPU", f"{a:.1f}", f"{b:.1f}", f"{b - a:+.1f}"])
    reason = SUBJECTS.get(order[0], f"{order[0]} takes longer")
    excess = slower.seconds / fastest.seconds - 1
    verdict = f"{names[1]} is {excess:.1%} slower than {names[0]}, mostly because {reason}."
    return [*aligned(rows, left=(0,), space="  "), "", verdict]


def _refusal(question: Question, config: Config, fixed: dict[str, Any]) -> str:
    """Return why the trainer refuses a layout, as far as it says."""
    reason = layout_misfit(config.model_copy(update={"layout": LayoutConfig(**fixed)}), question.gpus)
    return reason or "sizes and batch do not go together"

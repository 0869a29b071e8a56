"""The published table, with this model's prediction for each of its rows.

A figure that is not a time is made from the predicted time by the formula of its source: TFLOP/s of Megatron's papers
up to 2021 count 96 B s l h² with recompute, later ones the model's own 72; efficiency is FLOP/s of a GPU against those
of the source's run on one GPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import mean, median

from phalanx.errors import InputError
from phalanx.plan.network import Group
from phalanx.plan.predict import Prediction, Step, predict
from phalanx.plan.published import EPOCH, PHASES, UNITS, Row, cluster, role, rows, source, unused, work
from phalanx.plan.workload import Workload
from phalanx.spec.costs import scores

TIMES = ("iteration_time", "throughput", "time_to_train", "time_per_epoch", "layer_", "achieved_model_flops")


@dataclass(frozen=True)
class Line:
    """A row of the table: `error` is of the prediction, as a share of what was published."""

    id: str
    source: str
    metric: str
    unit: str
    published: float
    predicted: float | None
    role: str  # fitted, held back, or not used
    why: str  # not used

    @property
    def error(self) -> float:
        """Return the relative error of the prediction; 0 where there is none."""
        return self.predicted / self.published - 1 if self.predicted is not None else 0.0

    @property
    def timed(self) -> bool:
        """Return whether this is a step's time or throughput, not a figure made from one that has a row of its own."""
        return self.metric.startswith(TIMES) and "increase" not in self.metric


@cache
def table() -> tuple[Line, ...]:
    """Return a line for each row."""
    lines = []
    for row in rows():
        why = unused(row)
        predicted = None if why else expected(row)
        lines.append(
            Line(row["id"], source(row), row["metric"], row["unit"], float(row["value"]), predicted, role(row), why)
        )
    return tuple(lines)


@dataclass(frozen=True)
class Errors:
    """Absolute relative errors of a set of lines, as fractions of what was published."""

    count: int
    median: float
    mean: float
    worst: float


def errors(lines: Sequence[Line]) -> Errors:
    """Return count, median, mean and largest of the absolute relative errors; each line must have a prediction."""
    sizes = [abs(line.error) for line in lines]
    return Errors(len(sizes), median(sizes), mean(sizes), max(sizes))


def expected(row: Row) -> float:
    """Return the model's prediction, in the row's unit."""
    metric = row["metric"]
    if metric == "allreduce_time":
        return Group(cluster(row), int(row["num_gpus"]), 1).all_reduce(float(row["bytes"])) * UNITS[row["unit"]]
    if metric == "time_to_train":
        return sum(phases(row)) * UNITS[row["unit"]]
    if metric.startswith("layer_"):
        return layer(row) * UNITS[row["unit"]]
    return next(formula for name, formula in FORMULAS.items() if metric.startswith(name))(
        row, predict(work(row), cluster(row))
    )


def phases(row: Row) -> list[float]:
    """Return the seconds of BERT-Large's two phases, of 65,536 × 7,038 and 32,768 × 1,563 sequences."""
    gpus, seconds = int(row["num_gpus"]), []
    for sequence, micro, batch, steps in PHASES:
        micro = micro // 2 if row["precision"] == "fp32" else micro
        micro = min(micro, round(batch / gpus))
        count = max(1, round(batch / (gpus * micro)))
        shape = work({**row, "seq": str(sequence), "micro_batch": str(micro), "dp": str(gpus), "global_batch": ""})
        shape = replace(shape, batch=gpus * micro * count)
        seconds.append(batch * steps * predict(shape, cluster(row)).seconds / shape.batch)
    return seconds


def layer(row: Row) -> float:
    """Return the seconds of a block's forward, backward, or both, as the row has them."""
    (passes,) = Step(work(row), cluster(row)).blocks
    names = {"layer_forward_time": ("forward",), "layer_backward_time": ("backward",)}
    return sum(sum(passes[name].parts.values()) for name in names.get(row["metric"], ("forward", "backward")))


def hardware(shape: Workload) -> float:
    """Return the FLOPs of a step as the source counts them, with what is computed again."""
    return shape.flops("block" if shape.recompute == "block" else "none")


def rate(shape: Workload, prediction: Prediction) -> float:
    """Return the FLOP/s of a GPU, as the source counts them."""
    return hardware(shape) / prediction.seconds / shape.gpus


def alone(row: Row, metric: str = "") -> Row:
    """Return the source's run on one GPU of the same generation; the announcement's is in the paper that followed."""
    name = {"nv2019": "meg19"}.get(source(row), source(row))
    runs = [r for r in rows() if source(r) == name and r["num_gpus"] == "1" and r["gpu"][:4] == row["gpu"][:4]]
    return next(r for r in runs if r["metric"].startswith(metric))


def _efficiency(row: Row, prediction: Prediction) -> float:
    single = alone(row)
    return 100 * rate(work(row), prediction) / rate(work(single), predict(work(single), cluster(single)))


def _speedup(row: Row, prediction: Prediction) -> float:
    single = alone(row)
    return predict(work(single), cluster(single)).seconds / prediction.seconds


def _faster(row: Row, prediction: Prediction) -> float:
    """Return the throughput gained against full recompute without sequence parallelism, per cent."""
    slow = predict(replace(work(row), recompute="block", sequence_parallel=False), cluster(row))
    return 100 * (slow.seconds / prediction.seconds - 1)


def _hfu(row: Row, prediction: Prediction) -> float:
    """Return per cent of a GPU's peak by arXiv 2205.05198, equation 8: 72 B L s h² (1 + s/3h + v/12hL)."""
    shape = work(row)
    again = 3 * shape.batch * shape.sequence * scores(shape.spec, shape.sequence)
    return 100 * (shape.flops() + again) / prediction.seconds / shape.gpus / _peak(row, shape)


def _peak(row: Row, shape: Workload) -> float:
    return cluster(row).gpu.peak[shape.precision]


FORMULAS: dict[str, Callable[[Row, Prediction], float]] = {
    "iteration_time": lambda row, p: p.seconds * UNITS[row["unit"]],
    "throughput_increase": _faster,
    "throughput": lambda row, p: work(row).batch / p.seconds,
    "achieved_model_flops": lambda row, p: p.tflops,
    "achieved_flops": lambda row, p: rate(work(row), p) / 1e12,
    "percent_of_peak": lambda row, p: 100 * rate(work(row), p) / _peak(row, work(row)),
    "aggregate_flops": lambda row, p: rate(work(row), p) * work(row).gpus / 1e15,
    "MFU": lambda row, p: 100 * p.flops / p.seconds / work(row).gpus / _peak(row, work(row)),
    "HFU": _hfu,
    "weak_scaling": _efficiency,
    "scaling_efficiency": _efficiency,
    "strong_scaling": _speedup,
    "time_per_epoch": lambda row, p: EPOCH * p.seconds * UNITS[row["unit"]],
    "training_time_300k": lambda row, p: 300_000 * p.seconds * UNITS[row["unit"]],
}


SOURCES = {  # what the short names stand for
    "nv2019": "NVIDIA's announcement of 13 August 2019",
    "meg19": "Megatron-LM, arXiv 1909.08053",
    "meg19d": "made from figures of arXiv 1909.08053",
    "megv1": "Megatron-LM's page of its first version",
    "meg20": "Megatron-LM's README of September 2020",
    "sc21-t1": "arXiv 2104.04473, table 1",
    "seqsel-t4": "arXiv 2205.05198, table 4",
    "seqsel-t5": "arXiv 2205.05198, table 5",
    "dle-2019": "DeepLearningExamples, BERT's README of 2019",
    "dle-2019h": "DeepLearningExamples, BERT's README of 2019, DGX-2H",
    "dle-2020": "DeepLearningExamples, BERT's README of 2020",
    "dle-2022": "DeepLearningExamples, BERT's README of 2022",
    "mcore-h100": "Megatron-Core's README, H100",
    "vtrain-s": "vTrain, one node, measured",
    "vtrain-m": "vTrain, several nodes, measured",
    "nccl-ar": "NCCL's all-reduce, measured",
}


def text(source: str = "") -> list[str]:
    """Return all rows, or one source's, in lines of 120 columns, and a summary. InputError for an unknown source."""
    lines = [line for line in table() if source in ("", line.source)]
    if not lines:
        known = sorted({line.source for line in table()})
        raise InputError(f"no published rows of {source!r}; use one of {', '.join(known)}")

    by_id = {row["id"]: row for row in rows()}
    output: list[str] = []
    for name in dict.fromkeys(line.source for line in lines):
        output += ["", f"{name}: {SOURCES[name]}" if name in SOURCES else name]
        output.append(f"  {'model':<22}{'GPUs':>5} {'layout':<18}{'figure':<25}  published  predicted   error  role")
        for line in (line for line in lines if line.source == name):
            row = by_id[line.id]
            predicted, error = "", ""
            if line.predicted is not None:
                predicted, error = f"{line.predicted:,.5g}", f"{line.error:+.1%}"
            output.append(
                f"  {row['model'][:21]:<22}{row['num_gpus']:>5} {_layout(row):<18}{_figure(line):<25}"
                f"{line.published:>11,.5g}{predicted:>11}{error:>8}  {line.role}"
            )
        for why in dict.fromkeys(line.why for line in lines if line.source == name and line.why):
            output.append(f"  not used: {why}")
    return [*output[1:], "", *summary(lines)]


def summary(lines: Sequence[Line]) -> list[str]:
    """Return the errors by source and role, of times and throughputs; figures made from them are not counted twice."""
    timed = [line for line in lines if line.timed and not line.why]
    output = [f"{'errors of times and throughputs':<34}{'role':<11}{'rows':>5}{'median':>9}{'mean':>8}{'worst':>8}"]
    groups = dict.fromkeys((line.source, line.role) for line in timed)
    for name, part in [*groups, ("", "fitted"), ("", "held back"), ("", "")]:
        selected = [line for line in timed if name in ("", line.source) and part in ("", line.role)]
        if selected:
            e = errors(selected)
            output.append(
                f"{name or 'all':<34}{part or 'both':<11}{e.count:>5}{e.median:>9.1%}{e.mean:>8.1%}{e.worst:>8.1%}"
            )
    return output


def _layout(row: Row) -> str:
    parts = [f"{axis}{row[axis]}" for axis in ("tp", "pp", "dp") if row[axis] not in ("", "1")]
    return " ".join(parts + [f"mb{row['micro_batch']}"] * bool(row["micro_batch"]))


def _figure(line: Line) -> str:
    name = line.metric.replace("_", " ").replace("achieved ", "").replace("weak scaling ", "").replace("model ", "m. ")
    return f"{name[: 24 - len(line.unit)]} {line.unit}"[:24]

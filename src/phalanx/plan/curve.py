"""The announcement's graph and its table as points: what is predicted, what was published, what was measured here."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from phalanx.errors import InputError
from phalanx.plan import comparison
from phalanx.plan.predict import predict
from phalanx.plan.published import UNITS, Row, cluster, rows, source, unused, work

BASELINE = 39e12  # FLOP/s of the paper's single GPU, which its efficiencies are shares of
TENSOR, BOTH = "weak_scaling_efficiency_model_parallel", "weak_scaling_efficiency_model_data_parallel"
BERT = (16, 32, 64, 128, 256, 512, 1024, 1472)


@dataclass(frozen=True)
class Point:
    """Some GPUs: FLOP/s of all of them and their share of as many times one; what is not known is None."""

    gpus: int
    name: str
    flops: float
    efficiency: float
    published: float | None = None  # efficiency


@dataclass(frozen=True)
class Time:
    """Seconds of BERT-Large's phases on some GPUs, and of both as published."""

    gpus: int
    phases: tuple[float, float]


@dataclass(frozen=True)
class Curves:
    """Weak scaling of GPT-2 by tensor parallelism alone, and with 64 replicas; BERT-Large's time to train."""

    tensor: list[Point]
    both: list[Point]
    times: list[Time]
    published_times: list[tuple[int, float]]  # GPUs, seconds
    measured: list[Point] = field(default_factory=list)  # on other machines, against their own one process


def curves(measured: Path | None = None) -> Curves:
    """Return all curves; `measured` is a file that `phalanx scale --json` wrote, InputError for another."""
    bert = [row for row in rows() if row["metric"] == "time_to_train" and not unused(row)]
    bert = [row for row in bert if row["precision"].startswith("fp16")]
    template = next(row for row in bert if row["num_gpus"] == "1024")
    times = []
    for gpus in BERT:
        first, second = comparison.phases({**template, "num_gpus": str(gpus)})
        times.append(Time(gpus, (first, second)))
    published = [(int(row["num_gpus"]), float(row["value"]) / UNITS[row["unit"]]) for row in bert]
    return Curves(_weak(TENSOR), _weak(BOTH), times, published, _measured(measured) if measured else [])


def _weak(metric: str) -> list[Point]:
    """Return a point for each number of GPUs: of several runs the paper's first, that of its table 1."""
    first_rows: dict[int, Row] = {}
    for row in rows():
        if row["metric"] == metric and source(row) == "meg19":
            first_rows.setdefault(int(row["num_gpus"]), row)
    points = []
    for gpus, row in sorted(first_rows.items()):
        shape = work(row)
        flops = gpus * comparison.rate(shape, predict(shape, cluster(row)))
        points.append(Point(gpus, row["model"], flops, comparison.expected(row) / 100, float(row["value"]) / 100))
    return points


def _measured(path: Path) -> list[Point]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        return [
            Point(
                int(record["processes"]),
                f"{record['parallel']}, {record['kind']}",
                record["processes"] * float(record["model_flops_per_process"]),
                float(record["efficiency"]),
            )
            for record in records
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not what `phalanx scale --json` writes ({type(error).__name__}: {error})") from None


def text(points: Curves) -> list[str]:
    """Return the points as lines of two tables."""
    lines = [f"{'GPT-2':<14}{'GPUs':>6}{'PFLOP/s':>10}{'efficiency':>12}{'published':>11}"]
    for point in [*points.tensor, *points.both, *points.measured]:
        published = f"{point.published:>11.0%}" if point.published is not None else ""
        lines.append(f"{point.name:<14}{point.gpus:>6}{point.flops / 1e15:>10.4g}{point.efficiency:>12.1%}{published}")

    lines += ["", f"{'BERT-Large':<14}{'GPUs':>6}{'phase 1':>10}{'phase 2':>12}{'both':>11}   minutes; published"]
    for time in points.times:
        first, second = (seconds / 60 for seconds in time.phases)
        known = ", ".join(f"{s / 60:.4g}" for gpus, s in points.published_times if gpus == time.gpus)
        lines.append(f"{'':14}{time.gpus:>6}{first:>10.1f}{second:>12.1f}{first + second:>11.1f}   {known}")
    return lines

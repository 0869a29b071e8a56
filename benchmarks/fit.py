"""Fit the planner's few constants on named rows, write them into the cluster files, and print the errors.

    python -m benchmarks.fit [--write]

Which rows are fitted on is in phalanx/plan/published.py; all others are held back. A coordinate search of the root mean
square of log(predicted / published), in which no row counts for more than 0.3, so that a few odd ones do not rule.
"""

import re
import sys
from collections.abc import Callable, Iterable
from math import log
from pathlib import Path

from phalanx.plan import comparison, published
from phalanx.plan.cluster import Cluster, load
from phalanx.plan.network import Group
from phalanx.plan.predict import predict

CLUSTERS = Path(__file__).parents[1] / "src" / "phalanx" / "clusters"
CEILING = 0.3
Constants = dict[str, float]
Case = tuple[Callable[[Cluster], float], Cluster, float]  # seconds predicted on a cluster, the cluster, those published


def main() -> None:
    write = "--write" in sys.argv
    rows = [row for row in published.rows() if published.role(row) == "fitted"]
    ampere = fit([r for r in rows if r["id"].startswith("vtrain")], "fitted", ("matrix", "ramp", "stream", "host"))
    keep(
        "fitted",
        {k: v for k, v in ampere.items() if k != "host"},
        ("selene", "dgx-a100", "h100-eos", "h200", "t4"),
        write,
    )
    keep("fitted", ampere, ("vtrain",), write)
    volta = fit(of(rows, "dgx2"), "fitted", ("matrix", "ramp", "stream"))
    keep("fitted", volta, ("dgx2", "dgx2h-superpod", "dgx2h-2019", "dgx-1", "dgx-1-16gb"), write)
    for names in ("dgx2h-superpod", "dgx2h-2019"), ("dgx-1", "dgx-1-16gb"), ("h100-eos", "h200"):
        keep("fitted", fit(of(rows, names[0]), "fitted", ("power",)), names, write)
    keep("fitted", fit(of(rows, "dgx2h-2019"), "fitted", ("stream", "pause")), ("dgx2h-2019",), write)
    nccl = [r for r in rows if r["id"].startswith("nccl")]
    links = fit([r for r in nccl if r["gpu"] == "A100"], "inside", ("bandwidth", "latency", "hop"))
    keep("inside", links, ("vtrain", "selene", "dgx-a100"), write)
    links = fit([r for r in nccl if r["gpu"] == "V100"], "inside", ("latency", "hop"))
    keep("inside", links, ("dgx-1", "dgx-1-16gb", "dgx2", "dgx2h-superpod", "dgx2h-2019"), write)
    report()


def of(rows: Iterable[published.Row], name: str) -> list[published.Row]:
    return [row for row in rows if row["id"] in published.FITTED[name]]


def case(row: published.Row) -> Case:
    value, where = float(row["value"]), published.cluster(row)
    if row["metric"] == "allreduce_time":
        return lambda c: Group(c, int(row["num_gpus"]), 1).all_reduce(float(row["bytes"])), where, value * 1e-6
    work = published.work(row)
    if row["metric"] == "throughput":
        seconds = work.batch / value
    elif row["metric"] == "strong_scaling_speedup":
        seconds = case(comparison.alone(row, "achieved"))[2] / value
    elif row["metric"].startswith("achieved"):
        counted = work.flops() if "model" in row["metric"] else comparison.hardware(work)
        seconds = counted / work.gpus / value / 1e12
    else:
        seconds = value / published.UNITS[row["unit"]]
    return lambda c: predict(work, c).seconds, where, seconds


def fit(rows: list[published.Row], part: str, names: tuple[str, ...]) -> Constants:
    """The constants of a table of the cluster file that suit the rows best."""
    cases = [case(row) for row in rows]

    def miss(constants: Constants) -> float:
        size = 0.0
        for seconds, where, value in cases:
            changed = getattr(where, part).model_copy(update=constants)
            size += min(CEILING, abs(log(seconds(where.model_copy(update={part: changed})) / value))) ** 2
        return float((size / len(cases)) ** 0.5)

    best = {name: float(getattr(getattr(cases[0][1], part), name)) or 1.0 for name in names}
    least, step = miss(best), 0.3
    while step > 0.01:
        tries = [best | {name: best[name] * by} for name in names for by in (1 + step, 1 / (1 + step))]
        tries = [t for t in tries if max(t.get("matrix", 0), t.get("stream", 0)) <= 1]
        found, where = min(((miss(t), t) for t in tries), key=lambda pair: pair[0])
        if found < least - 1e-6:
            least, best = found, where
        else:
            step /= 2
    print(f"{part} on {len(rows)} rows: {', '.join(f'{k} {v:.3g}' for k, v in best.items())}; rms {least:.1%}")
    return best


def keep(part: str, constants: Constants, names: tuple[str, ...], write: bool) -> None:
    """Put constants into files, rounded to three digits; a ramp of less than a column is none."""
    for name in names:
        path = CLUSTERS / f"{name}.toml"
        head, mark, tail = path.read_text().partition(f"[{part}]")
        for key, value in constants.items():
            rounded = "0" if key == "ramp" and value < 1 else f"{value:.3g}"
            tail = re.sub(rf"(?m)^{key} = [^\s#]+", f"{key} = {rounded}", tail, count=1)
        if write:
            path.write_text(head + mark + tail)
    load.cache_clear()


def report() -> None:
    lines = comparison.table()
    print(f"{'source':12} {'role':10} {'rows':>4} {'median':>7} {'mean':>7} {'worst':>7}")
    everything = sorted({(line.source, line.role) for line in lines if line.role != "not used" and line.timed})
    for source, role in [*everything, ("", "fitted"), ("", "held back"), ("", "")]:
        some = [
            x for x in lines if x.timed and x.role != "not used" and source in ("", x.source) and role in ("", x.role)
        ]
        e = comparison.errors(some)
        print(f"{source or 'all':12} {role or 'both':10} {e.count:4} {e.median:7.1%} {e.mean:7.1%} {e.worst:7.1%}")


if __name__ == "__main__":
    main()

"""Predicted against measured: steps of the real trainer beside what the plan says of a cluster calibrated meanwhile.

    python -m benchmarks.predicted                      a table in Markdown on stdout, about ten minutes
    python -m benchmarks.predicted --rounds 1 --only tp2

A round calibrates the machine a little and trains every layout for a few steps, so that both meet the same machine,
whose speed drifts. Nothing is fitted to the steps on several processes: the prediction knows products, kernels of one
process's step, collectives and neighbours.
"""

import argparse
import os
import statistics
import sys
from typing import NamedTuple

from phalanx import recipe
from phalanx.config import Config
from phalanx.measure.calibrate import Calibration
from phalanx.measure.synthetic import synthetic_step
from phalanx.measure.worker_group import WorkerGroup
from phalanx.plan.predict import predict
from phalanx.plan.workload import Workload
from phalanx.train.machine import this_machine
from phalanx.train.resolve import resolve

GPT = ("model.family=gpt2", "task=clm", "model.layers=4", "model.vocab=8192", "data.sequence=256", "train.batch=8")
BERT = (*GPT, "model.family=bert", "task=mlm", "model.segments=2", "model.gelu=erf", "model.norm_first=false")
FAMILIES = {"GPT": GPT, "BERT": BERT}
WIDTHS = {256: 4, 512: 8}  # hidden: heads
LAYOUTS = {
    "one process": (1, ()),
    "recompute": (1, ("layout.recompute=block",)),
    "tp2": (2, ("layout.tp=2",)),
    "dp2": (2, ("layout.dp=2",)),
    "pp2": (2, ("layout.pp=2",)),
    "cp2": (2, ("layout.cp=2",)),
    "zero2": (2, ("layout.dp=2", "layout.shard=zero2")),
    "tp4": (4, ("layout.tp=4",)),
    "dp4": (4, ("layout.dp=4",)),
    "tp2 dp2": (4, ("layout.tp=2", "layout.dp=2")),
}
STEPS = 3  # timed in a round, after one to warm up


class Case(NamedTuple):
    """A model on a layout."""

    family: str
    hidden: int
    layout: str

    @property
    def processes(self) -> int:
        """So many train it."""
        return LAYOUTS[self.layout][0]

    def config(self) -> Config:
        """Definite."""
        sizes = f"model.hidden={self.hidden}", f"model.heads={WIDTHS[self.hidden]}"
        words = *FAMILIES[self.family], *sizes, *LAYOUTS[self.layout][1], "precision.dtype=fp32", "train.device=cpu"
        config = recipe.from_words([*words, "train.compile=off"])
        return resolve(config, this_machine(config.train, self.processes))


# Both families and both widths, every layout at least twice.
CASES = [
    Case(family, hidden, layout)
    for number, layout in enumerate(LAYOUTS)
    for family, hidden in ((("GPT", 256), ("BERT", 512)) if number % 2 else (("GPT", 512), ("BERT", 256)))
]


def measure(case: Case) -> list[float]:
    """Seconds of a few steps."""
    with WorkerGroup(case.processes, synthetic_step, case.config()) as group:
        return [group.turn().seconds for _ in range(STEPS + 1)][1:]


def main() -> None:
    """Measure, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="layouts, with commas between")
    words = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    wanted = words.only.split(",") if words.only else list(LAYOUTS)
    cases = [case for case in CASES if case.layout in wanted and case.processes <= cores]
    times: dict[Case, list[float]] = {case: [] for case in cases}
    with Calibration("cpu", sorted({case.processes for case in cases}), cores).running() as calibration:
        for _ in range(words.rounds):
            for case in cases:
                calibration.round()
                times[case] += measure(case)
                print(f"{case.family} {case.hidden} {case.layout}", *(f"{t:.3f}" for t in times[case]), file=sys.stderr)
        cluster = calibration.cluster()
    errors = []
    print("| model | hidden | layout | processes | measured s | predicted s | error |", "|---" * 7 + "|", sep="\n")
    for case in cases:
        told, seconds = predict(Workload.of(case.config()), cluster), statistics.median(times[case])
        errors.append(told.seconds / seconds - 1)
        named = f"| {case.family} | {case.hidden} | {case.layout} | {case.processes} "
        print(f"{named}| {seconds:.3f} | {told.seconds:.3f} | {errors[-1]:+.0%} |")
        print(case.layout, {kind: f"{value:.3f}" for kind, value in told.parts.items()}, file=sys.stderr)
    print(
        f"\nmean error {statistics.mean(map(abs, errors)):.1%}, of {len(errors)}; largest {max(map(abs, errors)):.1%}"
    )


if __name__ == "__main__":
    main()

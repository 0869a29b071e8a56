"""Weak scaling on this machine: processes of one thread each, one core each, beside the plainest peers.

    python -m benchmarks.scaling                               a table, and docs/images/scaling.png
    python -m benchmarks.scaling --rounds 9 --json scaling.json

Tensor parallel over 1, 2 and 4 processes with a model that grows in proportion, as in the Megatron paper (arXiv
1909.08053, table 1); data parallel over 1, 2 and 4 with a batch that does. Efficiency is model FLOP/s a process against
one process alone. Within a row the contestants take turns, step by step; figures are medians.
"""

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.trained import Shape, ddp, parallelize, phalanx
from phalanx.measure.worker_group import WorkerGroup

GROWING = {1: Shape(6, 384, 6, 4), 2: Shape(7, 512, 8, 4), 4: Shape(6, 768, 12, 4)}  # of 14, 26 and 49 million
PEERS = {"tp": ("parallelize_module", parallelize), "dp": ("DDP", ddp)}


class Result(NamedTuple):
    """One contestant in one row."""

    kind: str
    processes: int
    name: str
    seconds: float
    tokens_per_s: float
    flops_per_process: float
    peak_gib: float


def row(kind: str, processes: int, rounds: int) -> list[Result]:
    """Phalanx and its peer in turn."""
    shape = GROWING[processes] if kind == "tp" else GROWING[1]._replace(batch=GROWING[1].batch * processes)
    name, peer = PEERS[kind]
    layout = f"layout.{kind}={processes}"
    groups = {"phalanx": WorkerGroup(processes, phalanx, shape, layout), name: WorkerGroup(processes, peer, shape)}
    times: dict[str, list[float]] = {name: [] for name in groups}
    for number in range(rounds + 2):
        for name, group in groups.items():
            turn = group.turn()
            if number >= 2:
                times[name].append(turn.seconds)
    peaks = {name: group.close() for name, group in groups.items()}
    return [_result(kind, processes, name, shape, statistics.median(times[name]), peaks[name]) for name in groups]


def _result(kind: str, processes: int, name: str, shape: Shape, seconds: float, peak: float) -> Result:
    from phalanx.config import ModelConfig
    from phalanx.models.family import configured, spec_of
    from phalanx.spec.costs import flops_per_token

    sizes = {key: value for key, value in shape._asdict().items() if key in ModelConfig.model_fields}
    tokens = shape.batch * shape.sequence / seconds
    flops = flops_per_token(spec_of(configured(**sizes)), shape.sequence) * tokens / processes
    return Result(kind, processes, name, seconds, tokens, flops, peak)


def efficiency(result: Result, results: list[Result]) -> float:
    """FLOP/s a process against the same contestant's one process."""
    alone = next(r for r in results if (r.kind, r.name, r.processes) == (result.kind, result.name, 1))
    return result.flops_per_process / alone.flops_per_process


def table(results: list[Result]) -> str:
    """In Markdown."""
    lines = ["| | processes | | tokens/s | step s | GFLOP/s a process | efficiency | GiB a process |", "|---" * 8 + "|"]
    for r in results:
        lines.append(
            f"| {r.kind} | {r.processes} | {r.name} | {r.tokens_per_s:,.0f} | {r.seconds:.3f} "
            f"| {r.flops_per_process / 1e9:.1f} | {efficiency(r, results):.0%} | {r.peak_gib:.2f} |"
        )
    return "\n".join(lines)


def draw(results: list[Result], path: Path) -> None:
    """Bars of FLOP/s a process, efficiency written on them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    titles = {"tp": "tensor parallel, the model grows", "dp": "data parallel, the batch grows"}
    for panel, (kind, title) in zip(panels, titles.items(), strict=True):
        for place, name in enumerate(("phalanx", PEERS[kind][0])):
            mine = [r for r in results if (r.kind, r.name) == (kind, name)]
            at = [number + 0.4 * place - 0.2 for number in range(len(mine))]
            color = "#1f77b4" if name == "phalanx" else "#bbbbbb"
            bars = panel.bar(at, [r.flops_per_process / 1e9 for r in mine], 0.38, label=name, color=color)
            panel.bar_label(bars, [f"{efficiency(r, results):.0%}" for r in mine], fontsize=8)
        panel.set_xticks(range(3), [f"{n} process{'es' * (n > 1)}" for n in GROWING])
        panel.set_title(title)
        panel.legend(frameon=False, loc="upper right", ncols=2)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("model GFLOP/s a process")
    panels[0].set_ylim(0, 1.2e-9 * max(r.flops_per_process for r in results))
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each contestant in each row")
    parser.add_argument("--kinds", default="tp,dp")
    parser.add_argument("--picture", type=Path, default=Path("docs/images/scaling.png"))
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    results: list[Result] = []
    for kind in words.kinds.split(","):
        for processes in (n for n in GROWING if n <= len(os.sched_getaffinity(0))):
            results += row(kind, processes, words.rounds)
            print(f"{kind} {processes}: " + ", ".join(f"{r.name} {r.seconds:.3f} s" for r in results[-2:]), flush=True)
    print("\n" + table(results))
    if words.json:
        content: Any = [r._asdict() for r in results]
        words.json.write_text(json.dumps(content, indent=1))
    if set(words.kinds.split(",")) == set(PEERS):
        draw(results, words.picture)


if __name__ == "__main__":
    main()

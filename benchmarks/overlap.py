"""How much of the gradients' travel lies under backward's work, and a picture of it.

    python -m benchmarks.overlap                 four processes, docs/images/overlap.png

Trains a GPT on dp4, a process on each core, and notes on the first one when backward begins and ends, when each bucket
of gradients is sent off, and when its sum is there (from the completion of the collective's future, in gloo's own
thread). A bucket's travel before the end of backward is hidden; what remains is waited for.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.trained import Shape, phalanx
from phalanx.measure.worker_group import Step, WorkerGroup

SHAPE = Shape(12, 512, 8, 8)  # 42 million parameters: ten buckets


class Notes(NamedTuple):
    """Seconds since the step began."""

    backward: tuple[float, float]
    buckets: list[tuple[float, float]]
    step: float


def noting(shape: Shape, *words: str) -> Step:
    """The trainer's step, which returns its notes."""
    import torch
    import torch.distributed as dist

    from phalanx.parallel import data_parallel

    step = phalanx(shape, *words)
    sent: list[float] = []
    done: dict[int, float] = {}
    edges: list[float] = []
    send, backward = data_parallel.Buckets._send, torch.Tensor.backward

    def noted_send(buckets: Any) -> None:
        begin, number = time.perf_counter(), len(sent)
        send(buckets)
        sent.append(begin)
        work: dist.Work = buckets.sent[-1][1]

        def arrived(_: Any) -> None:
            done[number] = time.perf_counter()

        work.get_future().add_done_callback(arrived)

    def noted_backward(*arguments: Any, **named: Any) -> None:
        edges.append(time.perf_counter())
        backward(*arguments, **named)  # type: ignore[no-untyped-call]
        edges.append(time.perf_counter())

    data_parallel.Buckets._send = noted_send  # type: ignore[assignment,method-assign]
    torch.Tensor.backward = noted_backward  # type: ignore[method-assign]

    def noted(number: int) -> Notes:
        sent.clear()
        done.clear()
        edges.clear()
        begin = time.perf_counter()
        step(number)
        end = time.perf_counter()
        travels = [(start - begin, done[number] - begin) for number, start in enumerate(sent)]
        return Notes((edges[0] - begin, edges[-1] - begin), travels, end - begin)

    return noted


def hidden(notes: Notes) -> float:
    """The part of the time with gradients under way that lies before the end of backward."""
    busy, under, reached = 0.0, 0.0, 0.0
    for start, stop in sorted(notes.buckets):
        start = max(start, reached)
        if stop > start:
            busy += stop - start
            under += max(0.0, min(stop, notes.backward[1]) - start)
            reached = stop
    return under / busy


def draw(notes: Notes, path: Path) -> None:
    """A line for the work, a line for each bucket."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panel = plt.subplots(figsize=(10, 0.28 * len(notes.buckets) + 2))
    start, stop = notes.backward
    spans = {"forward": (0.0, start), "backward": (start, stop), "optimizer": (stop, notes.step)}
    colors = {"forward": "#9ecae1", "backward": "#3182bd", "optimizer": "#c6dbef"}
    for name, (left, right) in spans.items():
        panel.barh(0, right - left, left=left, color=colors[name])
        panel.text((left + right) / 2, 0, name, ha="center", va="center", fontsize=8)
    for number, (left, right) in enumerate(notes.buckets, start=1):
        panel.barh(number, right - left, left=left, color="#fd8d3c")
    panel.axvline(stop, color="#555555", linewidth=0.8, linestyle="--")
    panel.set_yticks([0, *range(1, len(notes.buckets) + 1)], ["compute"] + [f"bucket {n}" for n in
                     range(1, len(notes.buckets) + 1)], fontsize=8)  # fmt: skip
    panel.invert_yaxis()
    panel.set_xlabel("seconds")
    panel.set_title(f"dp4: {hidden(notes):.0%} of the time with gradients under way lies under backward", fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, draw the middle step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--picture", type=Path, default=Path("docs/images/overlap.png"))
    words = parser.parse_args()
    group = WorkerGroup(4, noting, SHAPE, "layout.dp=4")
    steps: list[Notes] = [group.turn().values[0] for _ in range(words.rounds + 2)][2:]
    group.close()
    steps.sort(key=hidden)
    middle = steps[len(steps) // 2]
    print(f"{len(middle.buckets)} buckets; under backward: {hidden(middle):.1%} of the time with gradients under way "
          f"(median of {len(steps)} steps, from {hidden(steps[0]):.1%} to {hidden(steps[-1]):.1%})")  # fmt: skip
    draw(middle, words.picture)


if __name__ == "__main__":
    main()

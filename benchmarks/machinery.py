"""What the machinery of layouts costs where there is one process.

    python -m benchmarks.machinery
    python -m benchmarks.machinery --rounds 40

Three contestants train the same GPT by turns, a step each: the model itself in a hand-written loop (forward, backward,
clipping, AdamW, nothing else), Phalanx's trainer, and the trainer in a process group of one. Printed are the medians of
the ratios of neighbouring turns, with their quartiles.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.trained import Shape, phalanx
from phalanx.measure.worker_group import WorkerGroup

SHAPE = Shape(6, 384, 6, 4)


def plain(shape: Shape) -> Callable[[int], float]:
    """The same modules and optimizer without layout, loader, monitor."""
    import torch
    from torch import nn

    from benchmarks.trained import Tokens
    from phalanx.config import ModelConfig
    from phalanx.models.build import build
    from phalanx.models.family import configured
    from phalanx.train.collate import make_batch

    sizes = {key: value for key, value in shape._asdict().items() if key in ModelConfig.model_fields}
    model = build(configured(**sizes, positions=shape.sequence, dropout=0.1), 1, torch.device("cpu"))
    split = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": split[0], "weight_decay": 0.01}, {"params": split[1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 1e-4, fused=True)
    samples = Tokens(shape).train

    def step(number: int) -> float:
        rows = [samples[number * shape.batch + row] for row in range(shape.batch)]
        batch = make_batch(rows, shape.sequence, 0, number)
        loss = model(batch)["lm"] / (shape.batch * shape.sequence)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        value: float = loss.item()
        return value

    return step


def grouped(shape: Shape) -> Callable[[int], float]:
    """The trainer in a process group of one."""
    import tempfile

    import torch.distributed as dist
    from torch.distributed import FileStore  # type: ignore[attr-defined]

    dist.init_process_group("gloo", store=FileStore(tempfile.mktemp(), 1), rank=0, world_size=1)
    return phalanx(shape)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="timed steps of each contestant")
    rounds = parser.parse_args().rounds
    builds: dict[str, Any] = {"plain loop": plain, "trainer": phalanx, "trainer, group of one": grouped}
    groups = {name: WorkerGroup(1, build, SHAPE) for name, build in builds.items()}
    times: dict[str, list[float]] = {name: [] for name in groups}
    for number in range(rounds + 2):
        for name, group in groups.items():
            turn = group.turn()
            if number >= 2:
                times[name].append(turn.seconds)
    for name, seconds in times.items():
        ratios = [ours / bare for ours, bare in zip(seconds, times["plain loop"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        speed = SHAPE.batch * SHAPE.sequence / statistics.median(seconds)
        print(f"{name:<22} {speed:7,.0f} tokens/s   {middle - 1:+6.1%} time (quartiles {low - 1:+.1%} {high - 1:+.1%})")
        groups[name].close()


if __name__ == "__main__":
    main()

"""What stateless dropout costs beside torch's own, in a compiled block.

    python -m benchmarks.dropout                      on the GPU if there is one
    python -m benchmarks.dropout --hidden 1024 --rows 8 --sequence 512

One transformer block, forward and backward, three times: without dropout, with Phalanx's (a hash of seed and
coordinates, nothing stored) and with `F.dropout` (a generator's numbers, the mask stored). They take turns; printed are
the medians and what each dropout adds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phalanx.models.build import build
from phalanx.models.gpt2 import GPT2Config
from phalanx.nn.attention import Context
from phalanx.nn.block import Block
from phalanx.precision import gemm


class Generated(nn.Module):
    """torch's dropout in the place of ours."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, x: Tensor, index: Tensor, key: Tensor) -> Tensor:
        """As `phalanx.nn.dropout.Dropout`, whatever the coordinates."""
        return F.dropout(x, self.drop, self.training)


def block(arguments: argparse.Namespace, drop: float, generated: bool, device: torch.device) -> Block:
    """One compiled block."""
    config = GPT2Config(layers=1, hidden=arguments.hidden, heads=arguments.hidden // 64, vocab=256, dropout=drop)
    model = build(config, 0, device)
    made = next(module for module in model.modules() if isinstance(module, Block))
    if generated:
        made.dropout1, made.dropout2 = Generated(drop), Generated(drop)  # type: ignore[assignment]
    gemm.fill(made, arguments.dtype, device)
    made.compile(dynamic=False)
    return made


def pass_of(made: Block, x: Tensor, context: Context) -> Callable[[], Any]:
    """Forward and backward."""

    def run() -> None:
        made(x, context).sum().backward()
        made.zero_grad()

    return run


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Of one call, when the device is done."""
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024 if device.type == "cuda" else 384)
    parser.add_argument("--rows", type=int, default=16 if device.type == "cuda" else 8)
    parser.add_argument("--sequence", type=int, default=1024 if device.type == "cuda" else 256)
    parser.add_argument("--dtype", default=gemm.resolve("auto", device))
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    shape = arguments.rows, arguments.sequence
    index = torch.arange(shape[0] * shape[1], device=device).view(shape)
    context = Context(index, torch.full(shape[:1], 7, dtype=torch.int32, device=device), None, causal=True)
    x = torch.randn(*shape, arguments.hidden, device=device, requires_grad=True)
    contestants = {"none": (0.0, False), "stateless": (0.1, False), "F.dropout": (0.1, True)}
    runs = {name: pass_of(block(arguments, *how, device), x, context) for name, how in contestants.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(arguments.rounds + 3):
        for name, run in runs.items():
            taken = seconds(run, device)
            if number >= 3:
                times[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name() if device.type == 'cuda' else device}, "
          f"{arguments.dtype}, {shape[0]} × {shape[1]} × {arguments.hidden}")  # fmt: skip
    for name, taken in medians.items():
        print(f"{name:<10} {taken * 1e3:8.3f} ms   {taken / medians['none'] - 1:+7.1%}")


if __name__ == "__main__":
    main()

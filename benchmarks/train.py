"""Training speed beside plain loops over Hugging Face's model and a short script's: the same sizes, batch, sequence and
precision, in alternation.

    python -m benchmarks.train --shape small --dtype fp32
    python -m benchmarks.train --shape gpt2-1.2b --dtype bf16 --contestants phalanx-compiled,script-compiled,hf-compiled

Each contestant is a process of its own that waits for its turn: A B C, A B C, … so that a machine whose speed drifts
slows all of them alike. Printed are the medians of the timed steps, MFU against the largest matrix product measured
between the turns, and the peak resident memory of each process. A step is forward, backward and a fused AdamW of all,
in a plain loop: no loader, no clipping, nothing written. Dropout is 0; bf16 for the others means autocast. On a GPU,
where all of them would not fit at once, they run one after another, and the others' blocks are compiled one by one as
ours are; our loss is compiled too, as runs of ours do. `--json FILE` keeps the figures.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.trainees import SHAPES, Shape, hugging_face, phalanx, script, synthetic

CONTESTANTS = ("phalanx", "phalanx-compiled", "hf", "hf-compiled")


def contestant(name: str, shape: Shape, dtype: str, threads: int) -> None:
    """A process that takes its turns: reads a number of steps, runs them, answers with their seconds as JSON."""
    import torch

    torch.set_num_threads(threads)
    make = {"phalanx": phalanx, "hf": hugging_face, "script": script}[name.removesuffix("-compiled")]
    with torch.device("cuda" if on_gpu() else "cpu"):  # left before the first step: in this mode graphs break
        data = synthetic(shape)
        model, loss = make(shape, dtype, name.endswith("-compiled"), data)
    gpu = data["tokens"].is_cuda
    wait: Callable[[], None] = torch.cuda.synchronize if gpu else lambda: None
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def step() -> Any:
        value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value

    for turn, line in enumerate(sys.stdin):
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            value = step()
            wait()
            seconds.append(time.perf_counter() - start)
        if turn == 0 and name.endswith("-compiled"):
            report_graph_breaks(name)
        peak = torch.cuda.max_memory_allocated() / 2**30 if gpu else resource.getrusage(0).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "loss": value.item(), "peak_gib": peak}), flush=True)
    if gpu and (file := os.environ.get("PROFILE")):
        profiled(step, Path(f"{file}-{name}.txt"))


def report_graph_breaks(name: str) -> None:
    """What of a compiled contestant is not compiled: torch itself goes on without a word."""
    from torch._dynamo.utils import counters

    if not counters["stats"]["unique_graphs"]:
        raise SystemExit(f"{name} is not compiled at all")
    for reason in counters["unimplemented"]:
        print(f"{name} has a graph break: {reason.splitlines()[0]}", file=sys.stderr, flush=True)


def profiled(step: Callable[[], Any], file: Path) -> None:
    """Write down where a step's time goes, by kernel."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as record:
        for _ in range(2):
            step()
        torch.cuda.synchronize()
    file.write_text(
        record.key_averages().table(sort_by="self_cuda_time_total", row_limit=60, max_name_column_width=110)
    )


def matrix_product(dtype: str, threads: int) -> float:
    """FLOP/s of a large product in the precision that the processor can do."""
    import torch

    from phalanx.precision.gemm import native_bf16
    from phalanx.train.peak import measured

    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    number = torch.bfloat16 if dtype != "fp32" and native_bf16(device) else torch.float32
    return measured(device, number, 8192 if device.type == "cuda" else 2048)


def race(names: list[str], shape_name: str, dtype: str, rounds: int, threads: int, steps: int = 2) -> dict[str, Any]:
    """Run the contestants in turn; median seconds a step, tokens a second, MFU and memory of each."""
    shape = SHAPES[shape_name]
    turns: dict[str, list[float]] = {name: [] for name in names}
    last: dict[str, dict[str, Any]] = {}
    command = [
        sys.executable,
        "-m",
        "benchmarks.train",
        "--shape",
        shape_name,
        "--dtype",
        dtype,
        "--threads",
        str(threads),
        "--turn",
    ]
    peak = 0.0
    for together in [[name] for name in names] if on_gpu() else [names]:
        crew = {
            name: subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for name in together
        }
        for number in range(rounds + 1):
            for name, process in crew.items():
                assert process.stdin and process.stdout
                process.stdin.write(f"{steps}\n")
                process.stdin.flush()
                if not (said := process.stdout.readline()):
                    raise SystemExit(f"{name} failed")
                last[name] = json.loads(said)
                if number:  # the first round warms up and compiles
                    turns[name] += last[name]["seconds"]
                    spent = statistics.mean(last[name]["seconds"])
                    print(f"round {number} {name:<18} {spent:.3f} s a step", flush=True)
            peak = max(peak, matrix_product(dtype, threads))
        for process in crew.values():
            process.communicate()
    return summary(shape, turns, last, peak)


def on_gpu() -> bool:
    """Whether one is here."""
    import torch

    return torch.cuda.is_available()


def summary(shape: Shape, turns: dict[str, list[float]], last: dict[str, Any], peak: float) -> dict[str, Any]:
    """Medians and what follows from them."""
    from phalanx.config import ModelConfig
    from phalanx.models.family import configured, spec_of
    from phalanx.spec.costs import flops_per_token

    sizes = {name: value for name, value in shape._asdict().items() if name in ModelConfig.model_fields}
    tokens = sum(shape.lengths)
    flops = flops_per_token(spec_of(configured(**sizes)), tokens // shape.batch)
    results = {}
    for name, seconds in turns.items():
        speed = tokens / statistics.median(seconds)
        results[name] = {
            "step_s": statistics.median(seconds), "best_s": min(seconds), "tokens_per_s": speed,
            "mfu": flops * speed / peak, "peak_gib": last[name]["peak_gib"], "loss": last[name]["loss"],
        }  # fmt: skip
    return {"peak_gflops": peak / 1e9, "results": results}


def main() -> None:
    """Parse the words, race, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp8"), default="fp32")
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each contestant")
    parser.add_argument("--steps", type=int, default=2, help="of a turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--contestants", default=",".join(CONTESTANTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--turn", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.turn:
        contestant(words.turn, SHAPES[words.shape], words.dtype, words.threads)
        return
    outcome = race(words.contestants.split(","), words.shape, words.dtype, words.rounds, words.threads, words.steps)
    print(
        f"\n{words.shape}, {words.dtype}, {words.threads} threads; largest product {outcome['peak_gflops']:.0f} GFLOP/s"
    )
    print(f"{'':<18} {'tokens/s':>9} {'step s':>8} {'best s':>8} {'MFU':>6} {'peak GiB':>9} {'loss':>8}")
    for name, row in outcome["results"].items():
        print(
            f"{name:<18} {row['tokens_per_s']:>9,.0f} {row['step_s']:>8.3f} {row['best_s']:>8.3f} {row['mfu']:>6.1%} "
            f"{row['peak_gib']:>9.2f} {row['loss']:>8.3f}"
        )
    if words.json:
        words.json.write_text(json.dumps(vars(words) | outcome, indent=1, default=str))


if __name__ == "__main__":
    main()

"""Training speed beside plain loops over Hugging Face's model and a short script's: the same sizes, batch, sequence and
precision, in alternation.

    python -m benchmarks.train --shape small --dtype fp32
    python -m benchmarks.train --shape gpt2-1.2b --dtype bf16 --contestants phalanx-compiled,script-compiled,hf-compiled

Each contestant is a process of its own that waits for its turn: A B C, A B C, … so that a machine whose speed drifts
slows all of them alike. Printed are the medians of the timed steps, MFU against the largest matrix product measured by
each, and the peak resident memory of each process. Dropout is 0 in all; the optimizer is AdamW, fused where torch has
it; bf16 for the others means autocast. On a GPU, where all of them would not fit at once, they run one after another,
and Hugging Face's blocks are compiled one by one as ours are. `--json FILE` keeps the figures.
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
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """Sizes of a model and its batch."""

    family: str
    layers: int
    hidden: int
    heads: int
    vocab: int
    sequence: int
    batch: int


SHAPES = {
    "tiny": Shape("gpt2", 2, 128, 2, 1024, 128, 8),
    "small": Shape("gpt2", 6, 384, 6, 8192, 256, 16),
    "gpt2": Shape("gpt2", 12, 768, 12, 50304, 1024, 2),
    "gpt2-355m": Shape("gpt2", 24, 1024, 16, 50304, 1024, 16),
    "gpt2-1.2b": Shape("gpt2", 40, 1536, 16, 50304, 1024, 16),
    "bert-base-128": Shape("bert", 12, 768, 12, 30592, 128, 16),
    "bert-large-128": Shape("bert", 24, 1024, 16, 30592, 128, 8),
    "bert-large-512": Shape("bert", 24, 1024, 16, 30592, 512, 2),
    "bert-large-128-gpu": Shape("bert", 24, 1024, 16, 30592, 128, 128),
    "bert-large-512-gpu": Shape("bert", 24, 1024, 16, 30592, 512, 32),
}
CONTESTANTS = ("phalanx", "phalanx-compiled", "hf", "hf-compiled")

Loss = Callable[[], Any]


def phalanx(shape: Shape, dtype: str, compiled: bool, data: dict[str, Any]) -> tuple[Any, Loss]:
    """Our model and a closure that computes its mean loss."""
    import torch

    from phalanx.config import ModelConfig
    from phalanx.models.build import build, family
    from phalanx.nn.batch import Batch
    from phalanx.precision import gemm
    from phalanx.train.compiled import compile_parts

    form = {"gpt2": "124m", "bert": "base"}[shape.family]
    sizes = shape._asdict() | {"positions": shape.sequence, "dropout": 0.0}
    preset = family(shape.family).PRESETS[form]
    config = ModelConfig(**{**preset, **{k: v for k, v in sizes.items() if k in ModelConfig.model_fields}})
    device = data["tokens"].device
    model = build(config, 1, device)
    gemm.fill(model, dtype, device)
    if compiled:
        compile_parts(model, lengths_vary=False)
    rows, length = data["tokens"].shape
    index = torch.arange(rows * length, device=device).view(rows, length)
    key = torch.ones(rows, dtype=torch.int32, device=device)
    batch = Batch(data["tokens"], index, key, data["labels"], data.get("segment"), None, data.get("related"))
    counts = {"lm": (data["labels"] >= 0).sum(), "mlm": (data["labels"] >= 0).sum(), "nsp": rows}

    def loss() -> Any:
        return sum(value / counts[name] for name, value in model(batch).items() if name in counts)

    return model, loss


def hugging_face(shape: Shape, dtype: str, compiled: bool, data: dict[str, Any]) -> tuple[Any, Loss]:
    """The same model from transformers, its loss as its own forward gives it."""
    import torch
    import transformers

    if shape.family == "gpt2":
        options: Any = transformers.GPT2Config(
            vocab_size=shape.vocab, n_positions=shape.sequence, n_embd=shape.hidden, n_layer=shape.layers,
            n_head=shape.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        model: Any = transformers.GPT2LMHeadModel(options)
    else:
        options = transformers.BertConfig(
            vocab_size=shape.vocab, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, intermediate_size=4 * shape.hidden, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        model = transformers.BertForPreTraining(options)
    device = data["tokens"].device
    model, call = model.to(device), model
    if compiled and device.type == "cuda":
        for block in model.transformer.h if shape.family == "gpt2" else model.bert.encoder.layer:
            block.compile(dynamic=False)
    elif compiled:
        call = torch.compile(model)
    inputs = {"input_ids": data["tokens"], "labels": torch.where(data["labels"] >= 0, data["labels"], -100)}
    if shape.family == "gpt2":
        inputs["labels"] = data["tokens"]  # this model shifts its labels itself
    else:
        inputs |= {"token_type_ids": data["segment"], "next_sentence_label": data["related"]}

    def loss() -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
            return call(**inputs).loss

    return model, loss


def script(shape: Shape, dtype: str, compiled: bool, data: dict[str, Any]) -> tuple[Any, Loss]:
    """A short script's GPT-2."""
    import torch

    from benchmarks.plain_gpt import PlainGPT

    device = data["tokens"].device
    model = PlainGPT(shape.layers, shape.hidden, shape.heads, shape.vocab, shape.sequence).to(device)
    if compiled:
        for layer in model.layers:
            layer.compile(dynamic=False)

    def loss() -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
            return model(data["tokens"], data["labels"])

    return model, loss


def synthetic(shape: Shape) -> dict[str, Any]:
    """Random tokens; for BERT 15 % of them are to be predicted."""
    import torch

    torch.manual_seed(0)
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    tokens = torch.randint(shape.vocab, (shape.batch, shape.sequence))
    if shape.family == "gpt2":
        return {"tokens": tokens, "labels": tokens.roll(-1, 1)}
    chosen = torch.rand(tokens.shape) < 0.15
    half = (torch.arange(shape.sequence) >= shape.sequence // 2).long().expand_as(tokens).contiguous()
    related = torch.randint(2, (shape.batch,))
    return {"tokens": tokens, "labels": torch.where(chosen, tokens, -1), "segment": half, "related": related}


def contestant(name: str, shape: Shape, dtype: str, threads: int) -> None:
    """A process that takes its turns: reads a number of steps, runs them, answers with their seconds as JSON."""
    import torch

    torch.set_num_threads(threads)
    make = {"phalanx": phalanx, "hf": hugging_face, "script": script}[name.removesuffix("-compiled")]
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

    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            value = step()
            wait()
            seconds.append(time.perf_counter() - start)
        peak = torch.cuda.max_memory_allocated() / 2**30 if gpu else resource.getrusage(0).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "loss": value.item(), "peak_gib": peak}), flush=True)
    if gpu and (file := os.environ.get("PROFILE")):
        profiled(step, Path(f"{file}-{name}.txt"))


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


def matrix_product(dtype: str) -> float:
    """FLOP/s of the best of several large products in the precision that the processor can do."""
    import torch

    from phalanx.precision.gemm import native_bf16

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    number = torch.bfloat16 if dtype != "fp32" and native_bf16(device) else torch.float32
    side, best = 8192 if gpu else 2048, float("inf")
    a = torch.randn(side, side, device=device).to(number)
    for _ in range(20 if gpu else 8):
        start = time.perf_counter()
        a @ a
        if gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


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
            peak = max(peak, matrix_product(dtype))
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
    from phalanx.models.build import flops_per_token

    sizes = {name: value for name, value in shape._asdict().items() if name in ModelConfig.model_fields}
    flops = flops_per_token(ModelConfig(**sizes), shape.sequence)
    results = {}
    for name, seconds in turns.items():
        speed = shape.batch * shape.sequence / statistics.median(seconds)
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
    parser.add_argument("--threads", type=int, default=os.cpu_count())
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

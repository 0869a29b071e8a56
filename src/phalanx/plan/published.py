"""What others have measured and published, beside what this model predicts for it.

`assets/published.csv` holds a figure a row with its source. Here each *source* (never a single row) says how its system
worked: which cluster, which kernels, how gradients were summed, what the paper leaves unsaid. Figures that are not
times are made from the predicted time by the source's own formula.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from phalanx.plan.cluster import Cluster, load
from phalanx.plan.links import Group
from phalanx.plan.predict import Prediction, Step, predict
from phalanx.plan.work import Work

Row = dict[str, str]

PHASES = ((65536, 7038, 128, 64, 32), (32768, 1563, 512, 8, 4))  # BERT-Large: batch, steps, sequence, micro fp16, fp32
EPOCH = 68507  # steps (arXiv 1909.08053, table 2)


@dataclass(frozen=True)
class System:
    """How a source's program worked, as far as it differs from the row."""

    clusters: dict[str, str]  # by the beginning of the GPU's name
    settings: dict[str, Any] = field(default_factory=dict)  # of Work
    why: str = ""  # what the source leaves unsaid, and what is taken for it


V100 = {"V100-SXM3-32GB (DGX-2H": "dgx2h-superpod", "V100-SXM3-32GB (DGX-2)": "dgx2", "V100-SXM2-16GB": "dgx-1-16gb"}
V100 |= {"V100-SXM2-32GB": "dgx-1", "V100": "dgx-1"}
A100 = {"A100-SXM4-40GB": "dgx-a100", "A100-SXM4-80GB": "selene", "A100": "dgx-a100"}
OLD = {"attention": "plain", "pointwise": "split", "overlap": False, "gradient_bytes": 2}
MEGATRON = {"attention": "softmax", "overlap": False, "gradient_bytes": 4}

SYSTEMS = {
    "vtrain": System({"A100": "vtrain"}, MEGATRON | {"gradient_bytes": 2, "recompute": "block", "vocab": 51200}),
    "sc21": System(A100, MEGATRON | {"gradient_bytes": 2}),
    "seqsel": System(A100, MEGATRON | {"adds": False}),
    "meg20": System(V100 | A100, MEGATRON | {"overlap": True, "gradient_bytes": 2}),
    "megv1": System(V100, OLD),
    "meg19": System(V100, OLD | {"pointwise": "eager", "overlap": True, "gradient_bytes": 4, "micro_batch": 8}),
    "nv2019": System(V100, OLD | {"pointwise": "eager", "overlap": True, "gradient_bytes": 4, "micro_batch": 8}),
    "dle": System(V100 | A100, OLD | {"optimizer": "lamb", "labelled": 1.0}),
    "mcore": System({"H100": "h100-eos"}, {"micro_batch": 4, "shard": "zero2", "sequence_parallel": True, "tp_overlap": True}),
}


@cache
def rows() -> tuple[Row, ...]:
    """All of them."""
    with files("phalanx").joinpath("assets/published.csv").open(newline="") as file:
        return tuple(csv.DictReader(file))


def system(row: Row) -> System:
    return next(s for prefix, s in SYSTEMS.items() if row["id"].startswith(prefix))


def cluster(row: Row) -> Cluster:
    known = system(row).clusters
    return load(next(name for gpu, name in known.items() if row["gpu"].startswith(gpu)))


def work(row: Row) -> Work:
    """The step that a row measured."""
    settings = dict(system(row).settings)
    chunks_of = settings.pop("chunks_of", 1)

    def number(key: str, otherwise: int) -> int:
        return int(row[key]) if row[key].isdigit() else otherwise

    pp, dp = number("pp", 1), number("dp", 1)
    layers = int(row["layers"])
    chunks = number("chunks", chunks_of) if pp > 1 else 1
    if row["chunks"] == "interleaved":
        chunks = next(c for c in (chunks_of, 3, 1) if layers % (pp * c) == 0)
    micro = number("micro_batch", settings.pop("micro_batch", 1))
    settings.pop("micro_batch", None)
    again = {"full": "block", "selective": "attention", "none": "none", "": settings.pop("recompute", "none")}
    settings.pop("recompute", None)
    precision = {"fp16-amp": "fp16", "": "fp16"}.get(row["precision"], row["precision"])
    if precision in ("fp32", "tf32"):
        settings["gradient_bytes"] = 4
    vocab = number("vocab", settings.pop("vocab", 51200))
    settings.pop("vocab", None)
    parallel = settings.pop("sequence_parallel", False) and number("tp", 1) > 1
    return Work(
        family="bert" if "BERT" in row["model"] else "gpt2",
        layers=layers,
        hidden=int(row["hidden"]),
        heads=int(row["heads"]),
        ffn=int(row["ffn"]),
        vocab=-(-vocab // 128) * 128,
        sequence=int(row["seq"]),
        batch=number("global_batch", batch(row, micro, dp)),
        micro_batch=micro,
        tp=number("tp", 1),
        sequence_parallel=parallel or row["seq_parallel"] == "yes",
        pp=pp,
        schedule="interleaved" if chunks > 1 else "1f1b",
        chunks=chunks,
        dp=dp,
        recompute=again[row["recompute"]],
        precision=precision,
        stream_bytes=4 if precision in ("fp32", "tf32") else 2,
        **settings,
    )


def batch(row: Row, micro: int, dp: int) -> int:
    """Of a step: from the steps of accumulation, or BERT's recipe, or a micro-batch on each replica."""
    if row["accumulation"]:
        return int(row["accumulation"]) * micro * dp
    return micro * dp

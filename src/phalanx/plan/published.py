"""Figures that others have measured and published, beside this model's predictions for them.

`assets/published.csv` holds a figure a row with its source. Here each *source* (never a single row) says how its system
worked: which cluster, which kernels, how gradients were summed, what the paper leaves unsaid. Figures that are not
times are made from the predicted time by the source's own formula.
"""

import csv
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from phalanx.models.family import configured, spec_of
from phalanx.plan.cluster import Cluster, load
from phalanx.plan.workload import Workload
from phalanx.train.optimizers import Lamb

Row = dict[str, str]

UNITS = {"us": 1e6, "ms": 1e3, "s": 1.0, "min": 1 / 60, "h": 1 / 3600, "days": 1 / 86400}  # of a second
EPOCH = 68507  # steps of GPT-2's epoch (arXiv 1909.08053, table 2)
PHASES = ((128, 64, 65536, 7038), (512, 8, 32768, 1563))  # of BERT-Large: sequence, micro-batch, batch, steps


@dataclass(frozen=True)
class System:
    """How a source's program worked, as far as its rows do not say."""

    clusters: dict[str, str]  # by the beginning of the GPU's name
    settings: dict[str, Any] = field(default_factory=dict)  # of Workload, where the row is silent
    why: str = ""  # where that is known from, or that it is assumed
    recipe: bool = False  # steps are of the recipe's batches, of as many micro-batches as that takes


VOLTA = {"V100-SXM3-32GB (DGX-2H": "dgx2h-superpod", "V100-SXM3-32GB (DGX-2)": "dgx2", "V100-SXM2-16GB": "dgx-1-16gb"}
FIRST = {"V100-SXM3-32GB (DGX-2H": "dgx2h-2019"}
VOLTA |= {"V100-SXM2-32GB": "dgx-1", "V100": "dgx-1"}
AMPERE = {"A100-SXM4-40GB": "dgx-a100", "A100-SXM4-80GB": "selene", "A100": "vtrain"}
OLD = {"attention": "plain", "pointwise": "split", "overlap": False, "gradient_bytes": 2}
MEGATRON = {"attention": "softmax", "overlap": False, "gradient_bytes": 2, "scattered": True}  # arXiv 2104.04473, 4.1
AUGUST = OLD | {"gradient_bytes": 4, "micro_batch": 8}
DLE = OLD | {"optimizer": Lamb()}

SYSTEMS = {  # by the beginning of the row's number; the first that fits
    "vtrain": System(
        {"A100": "vtrain"},
        MEGATRON | {"vocab": 51200},
        "recompute, 1F1B, no buckets: its own configuration files; fp16, vocabulary and gradients in fp16 assumed",
    ),
    "nccl": System({"A100": "vtrain", "V100": "dgx-1"}),
    "sc21": System(AMPERE, MEGATRON, "micro-batch and interleaving from Megatron-LM's examples/sc21/run_table_1.sh"),
    "seqsel": System(AMPERE, MEGATRON | {"adds": False}, "gradients are added by the products that make them"),
    "meg20": System(VOLTA | AMPERE, MEGATRON | {"overlap": True}, "torch's DistributedDataParallel, assumed"),
    "megv1": System(VOLTA, OLD, "kernels of 2019, before Megatron fused them"),
    "meg19": System(FIRST, AUGUST | {"overlap": True}, "summed in fp32 under backward: 60 % became 74 % by it"),
    "nv2019-0006": System(FIRST, AUGUST, "its own sum of gradients after backward, in fp32"),
    "nv2019-0005": System(FIRST, AUGUST | {"overlap": True}, "as meg19"),
    "nv2019": System(VOLTA, DLE, "DeepLearningExamples' program"),
    "dle-2019h": System(
        VOLTA, DLE, "the recipe's sequences by this throughput are its times to train within 6 %", recipe=True
    ),
    "dle-2022": System(VOLTA | AMPERE, DLE | {"labelled": 20 / 128}, "sequence_output_is_dense in its modeling.py"),
    "dle": System(VOLTA | AMPERE, DLE, "scores and losses of all positions, gradients in fp16: its scripts of 2019"),
    "mcore": System(
        {"H100": "h100-eos"},
        {"micro_batch": 4, "shard": "zero2", "sequence_parallel": True, "tp_overlap": True, "adds": False},
        "distributed optimizer and overlaps by its README; a replica's four sequences at once, assumed",
    ),
}

UNUSED = {  # by source and what is the matter with it
    "activation_memory": "memory, not time",
    "inference_latency": "inference, not training",
    "lamb": "TPUs, whose kernels are not described here",
    "10": "fine-tuning on SQuAD with sequences of 384, by the README's table",
    "binned": "phase 2 of 2022 bins its sequences by length (bin_size_64 in run_pretraining.sh), not told",
    "dgx-1": "contradicts the throughput table of the same README by half",
    "steps": "neither steps nor batch are given",
}

FITTED = {  # what benchmarks/fit.py reads; of vtrain's rows those whose hash is even; all other rows are held back
    "dgx2": (
        *("dle-thr-0034", "dle-thr-0035", "dle-thr-0042", "dle-thr-0043", "dle-thr-0100", "dle-thr-0101"),
        *("dle-thr-0108", "dle-thr-0109", "meg20-0001", "meg20-0019"),
    ),
    "dgx-1": ("dle-thr-0019", "dle-thr-0020", "dle-thr-0025", "dle-thr-0026"),
    "dgx2h-superpod": ("dle-thr-0054", "dle-thr-0059", "megv1-0001", "megv1-0007"),
    "dgx2h-2019": ("meg19-0009", "meg19d-0001", "meg19-0017"),
    "h100-eos": ("mcore-h100-0001",),
}


@cache
def rows() -> tuple[Row, ...]:
    """Return all rows of the published tables."""
    text = files("phalanx").joinpath("assets/published.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def source(row: Row) -> str:
    """Return the source's short name: the row's number without its count, and of one README in three years which."""
    name = row["id"].rsplit("-", 1)[0]
    years = {"6fe463fe": "dle-2019", "f8b3a63f": "dle-2020", "a07d20a1": "dle-2022"}
    year = next((year for commit, year in years.items() if commit in row["source"]), name)
    return year + "h" * (year == "dle-2019" and "DGX-2H" in row["gpu"])


def system(row: Row) -> System:
    """Return how the program of a row's source worked."""
    return next(s for prefix, s in SYSTEMS.items() if row["id"].startswith(prefix) or source(row).startswith(prefix))


def cluster(row: Row) -> Cluster:
    """Return the cluster that a row was measured on."""
    known = system(row).clusters
    return load(next(name for gpu, name in known.items() if row["gpu"].startswith(gpu)))


def unused(row: Row) -> str:
    """Return why a row is not used, or ""."""
    if row["id"].startswith("lamb"):
        return UNUSED["lamb"]
    if row["metric"] == "time_to_train" and row["unit"] == "days":
        return UNUSED["steps"]
    if row["metric"] == "time_to_train" and row["gpu"].startswith("DGX-1"):
        return UNUSED["dgx-1"]
    if source(row) == "dle-2019" and row["micro_batch"] == "10":
        return UNUSED["10"]
    if source(row) == "dle-2022" and row["seq"] == "512":
        return UNUSED["binned"]
    return next((why for metric, why in UNUSED.items() if row["metric"].startswith(metric)), "")


def role(row: Row) -> str:
    """Return a row's role: fitted, held back, or not used."""
    if unused(row):
        return "not used"
    even = row["id"].startswith("vtrain") and sha256(row["id"].encode()).digest()[0] % 2 == 0
    fitted = row["id"].startswith("nccl") or even or any(row["id"] in ids for ids in FITTED.values())
    return "fitted" if fitted else "held back"


def work(row: Row) -> Workload:
    """Return the step that a row measured."""

    def number(key: str, otherwise: int) -> int:
        return int(row[key]) if row[key].isdigit() else otherwise

    settings = dict(system(row).settings)
    micro = number("micro_batch", settings.pop("micro_batch", 1))
    vocab = number("vocab", settings.pop("vocab", 0))
    tp, pp, dp = number("tp", 1), number("pp", 1), number("dp", 1)
    sequence_parallel = (settings.pop("sequence_parallel", False) and tp > 1) or row["seq_parallel"] == "yes"
    chunks = number("chunks", 1) if pp > 1 else 1
    precision = {"fp16-amp": "fp16", "": "fp16"}.get(row["precision"], row["precision"])

    wide = precision in ("fp32", "tf32")
    if wide:
        settings["gradient_bytes"] = 4
    recipe = next(batch for length, _, batch, _ in PHASES if length == int(row["seq"])) if system(row).recipe else 0
    accumulated = recipe or number("accumulation", 1) * micro * dp
    model = configured(
        family="bert" if "BERT" in row["model"] else "gpt2",
        layers=int(row["layers"]),
        hidden=int(row["hidden"]),
        heads=int(row["heads"]),
        ffn=int(row["ffn"]),
        vocab=vocab,
        positions=int(row["seq"]),
    )
    return Workload(
        spec=spec_of(model),
        sequence=int(row["seq"]),
        batch=number("global_batch", accumulated),
        micro_batch=micro,
        tp=tp,
        sequence_parallel=sequence_parallel,
        pp=pp,
        schedule="interleaved" if chunks > 1 else "1f1b",
        chunks=chunks,
        dp=dp,
        recompute={"full": "block", "selective": "attention"}.get(row["recompute"], "none"),
        precision=precision,
        stream_bytes=4 if wide else 2,
        **settings,
    )

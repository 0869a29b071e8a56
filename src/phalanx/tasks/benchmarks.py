"""The tasks that people publish: which files they come in, what their columns are called, what they are judged by.

GLUE (arXiv 1804.07461), SQuAD 1.1 and 2.0, RACE, SWAG. Learning rates and epochs are what BERT's paper searched among
(arXiv 1810.04805, appendix A.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phalanx.data.examples import Columns, head
from phalanx.errors import InputError


@dataclass(frozen=True)
class Benchmark:
    """A task on labelled files. `columns` are tried in turn: its files come with a head and without."""

    task: str
    metric: str
    columns: tuple[Columns, ...] = (Columns("text", "label"),)
    form: str = "table"
    train: tuple[str, ...] = ("train.*",)
    valid: tuple[str, ...] = ("dev.*", "valid.*", "validation.*")
    sequence: int = 128
    batch: int = 32  # sequences: four for each question with four candidates
    epochs: float = 3.0
    lr: float = 5e-5


def _pair(a: str, b: str, label: str = "label") -> tuple[Columns, ...]:
    return (Columns(a, label, b),)


BENCHMARKS = {
    "sst2": Benchmark("classes", "accuracy", (Columns("sentence", "label"),)),
    "cola": Benchmark(
        "classes", "matthews", (Columns("3", "1"),), train=("train.tsv", "in_domain_train.tsv"),
        valid=("dev.tsv", "*_domain_dev.tsv"),
    ),
    "mrpc": Benchmark(
        "classes", "f1", _pair("#1 String", "#2 String", "Quality"), train=("train.tsv", "msr_paraphrase_train.txt"),
        valid=("dev.tsv", "msr_paraphrase_test.txt"),
    ),
    "stsb": Benchmark(
        "value", "spearman", (*_pair("sentence1", "sentence2", "score"), Columns("0", "2", "1")),
        train=("train.tsv", "*train.csv"), valid=("dev.tsv", "*dev.csv"),
    ),
    "qqp": Benchmark("classes", "f1", _pair("question1", "question2", "is_duplicate")),
    "mnli": Benchmark("classes", "accuracy", _pair("sentence1", "sentence2", "gold_label"), valid=("*dev_matched.*",)),
    "qnli": Benchmark("classes", "accuracy", _pair("question", "sentence")),
    "rte": Benchmark("classes", "accuracy", _pair("sentence1", "sentence2"), train=("train.tsv",), valid=("dev.tsv",)),
    "wnli": Benchmark("classes", "accuracy", _pair("sentence1", "sentence2")),
    "squad": Benchmark(
        "span", "f1", form="squad", train=("train-v1.1.json", "train*.json"), valid=("dev-v1.1.json", "dev*.json"),
        sequence=384, batch=32, epochs=2, lr=5e-5,
    ),
    "squad2": Benchmark(
        "span", "f1", form="squad2", train=("train-v2.0.json", "train*.json"), valid=("dev-v2.0.json", "dev*.json"),
        sequence=384, batch=48, epochs=2, lr=3e-5,
    ),
    "race": Benchmark("choice", "accuracy", form="race", train=("*train.jsonl",), valid=("*dev.jsonl",), sequence=512,
        batch=64),
    "swag": Benchmark("choice", "accuracy", form="swag", train=("train.csv",), valid=("val.csv", "dev.csv"), batch=64),
}  # fmt: skip
GLUE = ("sst2", "cola", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")


def files(folder: Path, patterns: Sequence[str]) -> list[str]:
    """Return the files of a benchmark's part in a folder: those of the first pattern that matches any, or none.

    A file is its own only match. InputError where there is nothing at the path.
    """
    if folder.is_file():
        return [str(folder)]
    if not folder.is_dir():
        raise InputError(f"{folder} is neither a file nor a folder; name the task's data")
    for pattern in patterns:
        if matches := sorted(folder.glob(pattern)):
            return [str(file) for file in matches]
    return []


def columns(benchmark: Benchmark, file: str) -> Columns:
    """Return the columns of a benchmark that a file has; the first where it has none, for the reader to complain of."""
    names = head(Path(file))
    fitting = (each for each in benchmark.columns if {each.text, each.label, each.pair} - {""} <= set(names))
    return next(fitting, benchmark.columns[0])

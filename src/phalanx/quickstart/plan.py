"""The quickstart's plan: on what, and how much. Prompts and sentences were chosen before any model was trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

NOVELS = Path(__file__).parent.parent / "assets" / "novels"

TEMPERATURE, TOP_P = 0.7, 0.9
PROMPTS = ("The old house", "She opened the door and", '"I do not know," said')
MASKED = (
    "She looked at [MASK] with a smile.",
    "He opened the [MASK] and went into the room.",
    "I do not [MASK] what you mean.",
)


@dataclass(frozen=True)
class Plan:
    """How much is done: the words over the recipes gpt-tiny and bert-tiny, and what is measured."""

    novels: tuple[str, ...]
    held_out: str
    vocab: int
    gpt: tuple[str, ...]
    bert: tuple[str, ...]
    interrupted: tuple[str, ...]  # laid over `gpt`
    cut: int  # step after which that run is told to stop
    evaluate: int  # held-out sequences of the figures before and after
    write: int  # tokens of a sample


FULL = Plan(
    novels=(
        "Barclay_Ladies_1917", "Barclay_Postern_1911", "Barclay_Rosary_1909", "Burnett_Garden_1911",
        "Burnett_Lord_1886", "Chesterton_Innocence_1911", "Doyle_Lost_1912", "Gissing_Unclassed_1884",
        "Gissing_Warburton_1903", "Stevenson_Treasure_1883", "Woolf_Night_1919",
    ),
    held_out="Burnett_Princess_1905",
    vocab=4096,
    gpt=(
        "model.layers=2", "model.hidden=192", "model.positions=64", "model.dropout=0.0", "model.init_std=0.06",
        "data.sequence=64", "train.batch=8", "train.steps=1100", "train.eval_every=200", "train.eval_sequences=128",
        "train.compile=off", "optim.lr=4e-3", "save.every=300", "log.print_every=200",
    ),
    bert=(
        "model.layers=2", "model.hidden=128", "model.positions=16", "model.dropout=0.0", "model.init_std=0.12",
        "data.sequence=16", "data.pairs=none", "data.short_fraction=0.0", "data.mask_fraction=0.3",
        "train.batch=32", "train.steps=2100", "train.eval_every=200", "train.eval_sequences=256",
        "train.compile=off", "optim.lr=2e-3", "optim.beta2=0.98", "save.every=500", "log.print_every=200",
    ),
    interrupted=(
        "model.dropout=0.1", "train.steps=40", "train.eval_every=0", "save.every=20", "log.print_every=10",
    ),
    cut=15,
    evaluate=512,
    write=70,
)  # fmt: skip


class Workspace(NamedTuple):
    """The folder where a stage works, how much it is to do, and the results of the stages before it."""

    folder: Path
    plan: Plan
    results: dict[str, dict[str, Any]]

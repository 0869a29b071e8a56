"""The stages of a curation, each a pipeline of datatrove over so many tasks."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datatrove.pipeline.dedup import (
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
from datatrove.pipeline.dedup.minhash import MinhashConfig

from phalanx import durable
from phalanx.corpus import overlap
from phalanx.corpus.report import Report
from phalanx.corpus.settings import ROWS, Places, Settings
from phalanx.corpus.steps import Counted, Language, Length, Overlap, Read, Shard, Words, content

RULES = {
    "unreadable": "records that could not be read",
    "short": "too few tokens",
    "language": "not of the language",
    "overlap": "13 words in a row of an evaluation set",
    "duplicate": "equal to another, apart from white space",
    "near-duplicate": "almost equal to another",
}


class Stage(NamedTuple):
    """A pipeline and how many tasks share it."""

    name: str
    pipeline: list[Any]
    tasks: int


def stages(settings: Settings, places: Places) -> list[Stage]:
    """Return all stages, in order."""

    def removed(rule: str) -> Counted:
        return Counted(places.removed(rule), places.tally(rule))

    against = places.work("overlap.npy")
    exact = ExactDedupConfig(content_getter=content)
    near = MinhashConfig(num_buckets=settings.bands, hashes_per_bucket=ROWS)
    clean, unique, marks = places.work("clean"), places.work("unique"), places.work("marks")

    def at(name: str) -> str:
        return str(marks / name)

    return [
        Stage("clean", [
            Read(settings, places.tally("in"), removed("unreadable")),
            Length(settings.tokenizer, settings.least, removed("short")),
            Language(settings.language, settings.certainty, removed("language")),
            Overlap(against, removed("overlap")),
            Counted(clean, places.tally("clean")),
        ], settings.tasks),
        Stage("exact-1", [Shard(clean), ExactDedupSignature(at("exact"), exact)], settings.tasks),
        Stage("exact-2", [ExactFindDedups(at("exact"), at("equal"), exact)], 1),
        Stage("exact-3", [
            Shard(clean), ExactDedupFilter(at("equal"), exact, removed("duplicate")),
            Counted(unique, places.tally("unique")),
        ], settings.tasks),
        Stage("near-1", [Shard(unique), MinhashDedupSignature(at("near"), near, Words())], settings.tasks),
        Stage("near-2", [MinhashDedupBuckets(at("near"), at("pairs"), config=near)], settings.bands),
        Stage("near-3", [MinhashDedupCluster(at("pairs"), at("clusters"), near)], 1),
        Stage("near-4", [
            Shard(unique), MinhashDedupFilter(at("clusters"), removed("near-duplicate")),
            Counted(places.text, places.tally("out")),
        ], settings.tasks),
        Stage("report", [Report(places, RULES)], 1),
    ]  # fmt: skip


def write_known(settings: Settings, places: Places) -> None:
    """Write, for all tasks to read, the hashes of the runs of words that documents must not share."""
    file = places.work("overlap.npy")
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    known = np.unique(np.concatenate([overlap.built_in(), *(overlap.of_file(Path(name)) for name in settings.against)]))
    packed = io.BytesIO()
    np.save(packed, overlap.pack(known), allow_pickle=False)
    durable.write(file, packed.getvalue())

"""The report of a curation: documents and bytes in, out, and removed by which rule, with samples."""

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datatrove.pipeline.base import PipelineStep

from phalanx import durable
from phalanx.corpus.settings import Places
from phalanx.units import aligned

SAMPLES, SHOWN = 3, 200  # of each rule; characters of each


class Count(NamedTuple):
    """Documents and bytes."""

    documents: int
    bytes: int


class Report(PipelineStep):  # type: ignore[misc]
    """The last stage: adds up what all tasks counted, into report.json and report.md."""

    name = "report"
    type = "report"

    def __init__(self, places: Places, rules: Mapping[str, str]) -> None:
        super().__init__()
        self.places, self.rules = places, dict(rules)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Write the report, in one task alone."""
        counts = {name: _sum(self.places.tally(name)) for name in ("in", *self.rules, "out")}
        samples = {rule: _samples(self.places.removed(rule)) for rule in self.rules}
        fields = {name: count._asdict() for name, count in counts.items()}
        durable.write(
            self.places.out / "report.json", json.dumps({"counts": fields, "samples": samples}, indent=1).encode()
        )

        text = [*table(counts, self.rules), ""]
        for rule, removed in samples.items():
            if removed:
                text += [f"## {rule}: {self.rules[rule]}", "", *(f"- {_line(sample)}" for sample in removed), ""]

        durable.write(self.places.out / "report.md", "\n".join(text).encode())
        return iter(())


def read(places: Places) -> dict[str, Count]:
    """Return the counts of a report, by the rules' names, in and out."""
    counts = json.loads((places.out / "report.json").read_text())["counts"]
    return {name: Count(**count) for name, count in counts.items()}


def table(counts: Mapping[str, Count], rules: Mapping[str, str]) -> list[str]:
    """Return the lines of a table, for a terminal, and as it is for Markdown's eyes."""
    whole = counts["in"]
    rows = [["", "documents", "", "MB", "", ""]]
    for name, count in counts.items():
        share = f"{count.documents / max(1, whole.documents):.1%}", f"{count.bytes / max(1, whole.bytes):.1%}"
        rows.append(
            [name, f"{count.documents:,}", share[0], f"{count.bytes / 1e6:,.2f}", share[1], rules.get(name, "")]
        )
    return aligned(rows, left=(0, 5), space="  ")


def _sum(folder: Path) -> Count:
    tallies = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    return Count(sum(tally["documents"] for tally in tallies), sum(tally["bytes"] for tally in tallies))


def _samples(folder: Path) -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = []
    for file in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                if len(samples) == SAMPLES:
                    return samples
                document = json.loads(line)
                samples.append({"id": document["id"], "text": document["text"][:SHOWN], **document.get("metadata", {})})
    return samples


def _line(sample: Mapping[str, Any]) -> str:
    text = " ".join(str(sample["text"]).split())
    shared = f" (shares “{sample['shared']}”)" if "shared" in sample else ""
    return f"`{sample['id']}`{shared}: {text}…"

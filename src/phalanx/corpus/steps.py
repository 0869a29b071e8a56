"""Steps of datatrove's pipelines: documents in, rules that remove, counts."""

import json
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.word_tokenizers import WordTokenizer
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from phalanx import durable
from phalanx.corpus import overlap
from phalanx.corpus.settings import Settings
from phalanx.data.documents import Bookmark, DocumentReader, Reading
from phalanx.data.tokenize import load_tokenizer

SUFFIX = ".jsonl.gz"
LOOK = 4096  # characters whose language is looked at, and whose tokens are counted first


class Counted(JsonlWriter):  # type: ignore[misc]
    """Writes documents, and beside them how many there were and how large."""

    def __init__(self, folder: Path, tally: Path) -> None:
        super().__init__(str(folder), output_filename="${rank}" + SUFFIX, compression="gzip")
        self.tally = Tally(tally)

    def write(self, document: Document, rank: int = 0, **kwargs: Any) -> None:
        """Write a document."""
        self.tally.add(rank, document.text)
        super().write(document, rank, **kwargs)

    def close(self) -> None:
        """Close the files, then write the count."""
        super().close()
        self.tally.write()


class Tally:
    """Documents and bytes that a task has seen."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rank, self.documents, self.bytes = str(folder), 0, 0, 0

    def add(self, rank: int, text: str) -> None:
        """Count one more document."""
        self.rank, self.documents, self.bytes = rank, self.documents + 1, self.bytes + len(text.encode())

    def write(self) -> None:
        """Write a file for the task, if it has seen any documents."""
        if self.documents:
            folder = Path(self.folder)
            folder.mkdir(parents=True, exist_ok=True)
            counts = json.dumps({"documents": self.documents, "bytes": self.bytes})
            durable.write(folder / f"{self.rank:05d}.json", counts.encode())


class Read(PipelineStep):  # type: ignore[misc]
    """The documents of a task's share of the input files, their characters mended; records that cannot be read are
    written to `faults`.
    """

    name = "documents"
    type = "reader"

    def __init__(self, settings: Settings, tally: Path, faults: Counted) -> None:
        super().__init__()
        self.settings, self.tally, self.faults = settings, Tally(tally), faults

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents of the files rank, rank + tasks, …"""
        reading = Reading(self.settings.document, self.settings.key, 1 << 40, False)
        with self.faults as faults:
            for file in self.settings.files[rank::world_size]:
                parts: list[str] = []
                for number, record in enumerate(DocumentReader(Path(file), reading).records(Bookmark())):
                    name = f"{file}/{number}"
                    if record.fault:
                        self.tally.add(rank, record.fault)
                        faults.write(Document(record.fault, name), rank)
                        continue
                    if record.blank:
                        continue

                    parts.append(record.text)
                    if record.ends:
                        text, parts = "".join(parts), []
                        self.tally.add(rank, text)
                        yield Document(ftfy.fix_text(text), name, metadata={"file": file})

        self.tally.write()


class Shard(PipelineStep):  # type: ignore[misc]
    """The documents that a task wrote in an earlier stage."""

    name = "shard"
    type = "reader"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = str(folder)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents that the task wrote; none where it wrote no file."""
        import gzip

        file = Path(self.folder) / f"{rank:05d}{SUFFIX}"
        if file.exists():
            with gzip.open(file, "rt", encoding="utf-8") as lines:
                for line in lines:
                    fields = json.loads(line)
                    yield Document(fields["text"], fields["id"], metadata=fields.get("metadata", {}))


class Language(BaseFilter):  # type: ignore[misc]
    """Keeps documents of one language, by py3langid's model, which comes with that package."""

    name = "language"

    def __init__(self, language: str, certainty: float, removed: Counted) -> None:
        super().__init__(removed)
        self.language, self.certainty = language, certainty

    def filter(self, doc: Document) -> bool:
        """Keep a document by the language of its middle: its beginning may be a title page."""
        start = max(0, (len(doc.text) - LOOK) // 2)
        language, chance = identifier().classify(doc.text[start : start + LOOK])
        doc.metadata |= {"language": language, "language_probability": round(float(chance), 4)}
        return bool(language == self.language and chance >= self.certainty)


@cache
def identifier() -> Any:
    """Return the language identifier, made once in each process: the model takes a second."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class Length(BaseFilter):  # type: ignore[misc]
    """Removes documents of few tokens."""

    name = "length"

    def __init__(self, tokenizer: str, least: int, removed: Counted) -> None:
        super().__init__(removed)
        self.tokenizer, self.least = tokenizer, least

    @cached_property
    def encode(self) -> Any:
        """The tokenizer's, made in the process that uses it."""
        return load_tokenizer(self.tokenizer).encode

    def filter(self, doc: Document) -> bool:
        """Keep a document of enough tokens. Its first part decides, if it is long enough."""
        count = len(self.encode(doc.text[:LOOK]))
        if count < self.least and len(doc.text) > LOOK:
            count = len(self.encode(doc.text))
        return bool(count >= self.least)


class Overlap(BaseFilter):  # type: ignore[misc]
    """Removes documents that share 13 words in a row with an evaluation set."""

    name = "overlap"

    def __init__(self, against: Path, removed: Counted) -> None:
        super().__init__(removed)
        self.against = str(against)

    @cached_property
    def known(self) -> overlap.Hashes:
        """The hashes of the evaluation sets' runs of words, read once."""
        return overlap.unpack(np.load(self.against, allow_pickle=False))

    def filter(self, doc: Document) -> bool:
        """Keep a document unless it shares a run of words with an evaluation set; note the run in its metadata."""
        if shared := overlap.first_shared(doc.text, self.known):
            doc.metadata["shared"] = shared
        return not shared


class Words(WordTokenizer):  # type: ignore[misc]
    """Words between white space, for MinHash's shingles: datatrove has simplified the text before."""

    def word_tokenize(self, text: str) -> list[str]:
        """Return the words of a text, in order."""
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        """Raise NotImplementedError: MinHash asks for no sentences."""
        raise NotImplementedError

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Raise NotImplementedError: no filter here asks for spans."""
        raise NotImplementedError


def content(doc: Document) -> bytes:
    """Return the text by which two documents are compared: the words alone."""
    return " ".join(doc.text.split()).encode()

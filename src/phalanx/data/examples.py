"""Labelled examples from files: tables with named columns, SQuAD's questions, RACE's and SWAG's choices.

A row that is not what its file promises is refused with the file, the line and what would do; nothing is skipped.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phalanx.errors import InputError
from phalanx.strict_json import parse_json


@dataclass(frozen=True)
class Row:
    """A text or a pair of texts, and its label as it is written on a line."""

    text: str
    pair: str | None
    label: str
    line: int


@dataclass(frozen=True)
class Question:
    """A question about a context; each answer with where it begins there. No answers: it has none."""

    id: str
    question: str
    context: str
    answers: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Tagged:
    """The words of a sentence and the tag of each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Choice:
    """A text, how it may go on or what answers a question about it, and which of the candidates is right."""

    id: str
    text: str
    candidates: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; numbers from 0 on where it has no head."""

    text: str
    label: str
    pair: str = ""


def table(file: Path, columns: Columns) -> list[Row]:
    """Return the rows of a .tsv (no quoting, as GLUE's), .csv or .jsonl file. InputError where it has none, or lacks a
    column.
    """
    rows = []
    for number, record in _records(file, head=not columns.text.isdigit()):
        missing = [name for name in (columns.text, columns.label, columns.pair) if name and record.get(name) is None]
        if missing:
            raise InputError(
                f"{file}, line {number}: no column {missing[0]!r}; it has {', '.join(map(repr, record)) or 'none'}"
            )
        pair = str(record[columns.pair]) if columns.pair else None
        rows.append(Row(str(record[columns.text]), pair, str(record[columns.label]), number))
    if not rows:
        raise InputError(f"{file} has no rows")
    return rows


def head(file: Path) -> list[str]:
    """Return the cells of a table's first row, and the numbers of its columns; nothing for an empty table."""
    for _, record in _records(file, head=False):
        first = list(record) if file.suffix in (".jsonl", ".json") else [str(cell) for cell in record.values()]
        return [*first, *map(str, range(len(record)))]
    return []


def _records(file: Path, head: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers and rows by column, whose names are in the first row or are numbers from 0 on."""
    text = _read(file)
    if file.suffix in (".jsonl", ".json"):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield number, _object(file, number, line)
        return

    if file.suffix not in (".tsv", ".csv", ".txt"):
        raise InputError(f"{file}: tables are .tsv, .csv or .jsonl")

    tabs = file.suffix != ".csv"
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
    )

    names: list[str] = []
    for cells in _cells(file, reader):
        if not any(cells):
            continue
        if not names:
            names = [cell.strip().lstrip("\ufeff") if head else str(n) for n, cell in enumerate(cells)]
            if head:
                continue
        if len(cells) != len(names):
            raise InputError(f"{file}, line {reader.line_num}: {len(cells)} cells, the first row has {len(names)}")
        yield reader.line_num, dict(zip(names, cells, strict=True))


def _cells(file: Path, reader: Any) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: {error}") from None


def squad(file: Path) -> list[Question]:
    """Return the questions of a SQuAD 1.1 or 2.0 file."""
    content = _object(file, 0, _read(file))
    questions = []
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                context = str(paragraph["context"])
                for question in paragraph["qas"]:
                    questions.append(_question(file, context, question))
    except (KeyError, TypeError) as error:
        raise InputError(f"{file} is not of SQuAD's form: {error} is missing") from None
    if not questions:
        raise InputError(f"{file} has no questions")
    return questions


def _question(file: Path, context: str, entry: dict[str, Any]) -> Question:
    answers = []
    if not entry.get("is_impossible", False):
        for answer in entry["answers"]:
            start, text = int(answer["answer_start"]), str(answer["text"])
            if context[start : start + len(text)] != text:
                raise InputError(
                    f"{file}, question {entry['id']}: the answer {text[:40]!r} is not at {start} of its context; there "
                    f"is {context[start : start + len(text)][:40]!r}"
                )
            answers.append((start, text))
    return Question(str(entry["id"]), str(entry["question"]), context, tuple(answers))


def race(file: Path) -> list[Choice]:
    """Return the questions of a RACE file: one JSON object a line with article, question, options and answer A to D."""
    choices = []
    for number, line in enumerate(_read(file).split("\n"), 1):
        if not line.strip():
            continue
        question = _object(file, number, line)
        try:
            options = tuple(_with_option(str(question["question"]), str(option)) for option in question["options"])
            right = "ABCDEFGH".index(str(question["answer"]))
            choices.append(Choice(str(question.get("example_id", number)), str(question["article"]), options, right))
        except (KeyError, ValueError) as error:
            raise InputError(f"{file}, line {number}: not of RACE's form ({error})") from None
        if right >= len(options):
            raise InputError(f"{file}, line {number}: the answer {question['answer']} of {len(options)} options")
    return _alike(file, choices)


def _with_option(question: str, option: str) -> str:
    """Return a question with an option for its answer: in its gap, or after it."""
    return question.replace("_", option, 1) if "_" in question else f"{question} {option}"


def swag(file: Path) -> list[Choice]:
    """Return the rows of a SWAG table: sent1, how sent2 begins, four endings, the number of the right one."""
    endings = [f"ending{number}" for number in range(4)]
    choices = []
    for number, record in _records(file, head=True):
        missing = [name for name in ("sent1", "sent2", *endings, "label") if record.get(name) is None]
        if missing:
            raise InputError(f"{file}, line {number}: no column {missing[0]!r}; SWAG's tables have it")
        if str(record["label"]) not in ("0", "1", "2", "3"):
            raise InputError(f"{file}, line {number}: label {record['label']!r} is not 0 to 3")
        candidates = tuple(f"{record['sent2']} {record[name]}" for name in endings)
        choices.append(Choice(str(number), str(record["sent1"]), candidates, int(record["label"])))
    return _alike(file, choices)


def _alike(file: Path, choices: list[Choice]) -> list[Choice]:
    if not choices:
        raise InputError(f"{file} has no questions")
    for number, choice in enumerate(choices, 1):
        if len(choice.candidates) != len(choices[0].candidates):
            raise InputError(
                f"{file}, question {number}: {len(choice.candidates)} candidates, the first has "
                f"{len(choices[0].candidates)}; all must have as many"
            )
    return choices


def tags(file: Path, columns: Columns) -> list[Tagged]:
    """Return sentences of words and tags: .jsonl with a list in each of two columns, or lines "word … tag" as CoNLL's,
    with blank ones between sentences.
    """
    sentences = list(_tagged_records(file, columns) if file.suffix in (".jsonl", ".json") else _tagged_lines(file))
    if not sentences:
        raise InputError(f"{file} has no sentences")
    return sentences


def _tagged_records(file: Path, columns: Columns) -> Iterator[Tagged]:
    for number, record in _records(file, head=True):
        words, tags = record.get(columns.text), record.get(columns.label)
        if not isinstance(words, list) or not isinstance(tags, list) or len(words) != len(tags) or not words:
            raise InputError(
                f"{file}, line {number}: {columns.text!r} and {columns.label!r} must be lists, a tag for each word"
            )
        yield Tagged(tuple(map(str, words)), tuple(map(str, tags)), number)


def _tagged_lines(file: Path) -> Iterator[Tagged]:
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*_read(file).split("\n"), ""], 1):
        cells = line.split()
        if cells and cells[0] != "-DOCSTART-":
            if len(cells) < 2:
                raise InputError(f"{file}, line {number}: {line!r} has a word but no tag")
            words.append(cells[0])
            tags.append(cells[-1])
        elif words:
            yield Tagged(tuple(words), tuple(tags), number - len(words))
            words, tags = [], []


def _object(file: Path, number: int, text: str) -> dict[str, Any]:
    where = f"{file}, line {number}" if number else str(file)
    try:
        record = parse_json(text)
    except ValueError as error:
        raise InputError(f"{where} is not JSON ({error}); was it cut off?") from None
    if not isinstance(record, dict):
        raise InputError(f"{where} is no JSON object")
    return record


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; name a file of labelled examples") from None


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Return each class once, in the order of their names, numbers by size."""
    return tuple(
        sorted(set(labels), key=lambda label: (0, int(label), "") if label.lstrip("-").isdigit() else (1, 0, label))
    )

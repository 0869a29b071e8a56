"""Curation of bundled novels with planted duplicates, near-duplicates and pieces of evaluation sets."""

import gzip
import json
import multiprocessing
import os
import random
import re
import signal
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from typer.testing import CliRunner

from phalanx.cli.app import app
from phalanx.corpus import engines, overlap
from phalanx.corpus.report import Count, read
from phalanx.corpus.settings import Places
from phalanx.data.streams import unpacked
from phalanx.errors import InputError
from tests.corpus.children import killed_in_the_third_task
from tests.train.processes import start

SIZE = 1800  # characters of a document, about
PLANTED = 25  # duplicates, near-duplicates, and pieces of evaluation sets
WIKITEXT = "Robert Boulter is an English film , television and theatre actor . He had a guest @-@ starring role on the"
GERMAN = "Der Zug hielt auf freier Strecke, und niemand wusste, warum. Die Reisenden sahen aus den Fenstern. "
SECRET = "the seventh lantern over the harbour gate burned green that night and nobody would say who had lit it"


class Planted(NamedTuple):
    """A folder of documents, and which of them are to go, by rule."""

    folder: Path
    against: Path
    rules: dict[str, list[str]]
    rest: list[str]


def novels() -> list[str]:
    """Bundled English in documents of about one size."""
    documents: list[str] = []
    for file in sorted(Path(str(files("phalanx") / "assets" / "novels")).iterdir()):
        with unpacked(file) as (stream, _):
            text = stream.read().decode()
        held = ""
        for paragraph in text.split("\n\n"):
            held += paragraph + "\n\n"
            if len(held) > SIZE:
                documents.append(held)
                held = ""
    return documents


def changed(text: str, dice: random.Random) -> str:
    """With one word in a hundred another."""
    words = text.split(" ")
    for _ in range(max(1, len(words) // 100)):
        words[dice.randrange(len(words))] = "altered"
    return " ".join(words)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    folder, dice = tmp_path_factory.mktemp("raw"), random.Random(1)
    whole = novels()
    rest = dice.sample(whole, min(160, len(whole) * 2 // 3))
    left = [text for text in whole if text not in rest]
    middle = [text.find(" ", len(text) // 2) for text in left]
    told = [WIKITEXT, SECRET]
    rules = {
        "duplicate": [dice.choice((text, text.replace("\n\n", "\n\n\n"))) for text in dice.sample(rest, PLANTED)],
        "near-duplicate": [changed(text, dice) for text in dice.sample(rest, PLANTED)],
        "overlap": [
            f"{a[:m]} {told[n % 2]} {a[m:]}" for n, (a, m) in enumerate([*zip(left, middle, strict=True)][:PLANTED])
        ],
        "short": [text[:300] for text in left[:20]],
        "language": [GERMAN * 12 + str(n) for n in range(3)],
    }
    documents = [*rest, *(text for texts in rules.values() for text in texts)]
    dice.shuffle(documents)
    for number in range(6):
        lines = [json.dumps({"text": text}) + "\n" for text in documents[number::6]]
        (folder / f"{number}.jsonl").write_text("".join(lines))
    with (folder / "0.jsonl").open("a") as file:
        file.write('{"text": "cut o')
    against = tmp_path_factory.mktemp("sets") / "mine.txt"
    against.write_text(f"Another line.\nIt is said that {SECRET}.\n")
    return Planted(folder, against, rules, rest)


def run(*words: object) -> str:
    told = CliRunner().invoke(app, ["curate", *map(str, words)])
    if isinstance(told.exception, InputError):
        raise told.exception
    assert told.exit_code == 0, (told.exception, told.output)
    return told.output


def texts(folder: Path) -> list[str]:
    """Of all documents of a folder, without white space."""
    found = []
    for file in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            found += [bare(json.loads(line)["text"]) for line in lines]
    return found


def bare(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def curated(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> tuple[Places, str]:
    out = tmp_path_factory.mktemp("out") / "curated"
    said = run(planted.folder, "--out", out, "--against", planted.against, "--workers", 2)
    return Places(out), said


def test_what_was_planted_is_found_and_the_rest_is_left(planted: Planted, curated: tuple[Places, str]) -> None:
    places, _ = curated
    kept = texts(places.text)
    clean = {bare(text) for text in planted.rest}
    lost = clean - set(kept)
    # of an original and its altered copy either may stay
    swapped = {bare(text) for text in planted.rules["near-duplicate"]} & set(kept)
    assert len(lost) - len(swapped) <= 0.01 * len(clean)
    assert len(kept) == len(set(kept)) and len(kept) <= len(clean) + 1
    for rule in ("duplicate", "overlap", "short", "language"):
        removed = set(texts(places.removed(rule)))
        wanted = {bare(text) for text in planted.rules[rule]}
        assert len(wanted & removed) >= 0.98 * len(wanted), rule
        assert len(removed - wanted) <= 0.01 * len(clean), rule
    pairs = len(texts(places.removed("near-duplicate")))
    assert 0.98 * PLANTED <= pairs <= PLANTED + 0.01 * len(clean)


def test_the_report_adds_up(planted: Planted, curated: tuple[Places, str]) -> None:
    places, said = curated
    counts = read(places)
    whole = counts.pop("in")
    assert whole == Count(sum(c.documents for c in counts.values()), whole.bytes)
    assert counts["unreadable"].documents == 1 and counts["out"].documents == len(texts(places.text))
    assert abs(whole.bytes - sum(count.bytes for count in counts.values())) < 0.001 * whole.bytes
    page = (places.out / "report.md").read_text()
    assert "the seventh lantern over the harbour gate" in page and "robert boulter is an english film" in page
    assert f"{whole.documents:,}" in said and "samples of what was removed" in said


def test_what_is_kept_is_prepared(curated: tuple[Places, str], tmp_path: Path) -> None:
    words = ["prepare", str(curated[0].text), "--out", str(tmp_path / "set"), "--tokenizer", "gpt2", "--workers", "1"]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    manifest = json.loads((tmp_path / "set.manifest.json").read_text())
    assert manifest["documents"] == read(curated[0])["out"].documents


def test_a_kill_costs_what_was_under_way(planted: Planted, curated: tuple[Places, str], tmp_path: Path) -> None:
    out = tmp_path / "curated"
    words = [planted.folder, "--out", out, "--against", planted.against, "--workers", 1]
    alive, held = multiprocessing.Pipe(duplex=False)
    process = start(killed_in_the_third_task, held, out, *map(str, words))
    held.close()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert alive.poll(60), "a process that it started is still there"
    done = out / "work" / "logs" / "clean" / "completions"
    before = {file: file.stat().st_mtime_ns for file in done.iterdir()}
    assert len(before) == 2 and not (out / "report.json").exists()
    run(*words)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert sorted(texts(out / "text")) == sorted(texts(curated[0].text))
    assert read(Places(out)) == read(curated[0])
    assert run(*words) == run(*words)  # nothing is left to do
    with pytest.raises(InputError, match="was begun with another least"):
        run(*words, "--min-tokens", 5)


def test_slurm(planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage is submitted, each after the one before it; sbatch itself is played."""
    (tmp_path / "bin").mkdir()
    log = tmp_path / "log"
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(
        f"#!/bin/sh\nn=$(cat {log}.n 2>/dev/null || echo 0); n=$((n+1)); echo $n > {log}.n\n"
        f'echo "$@" >> {log}; for a; do f=$a; done; cat "$f" >> {log}\necho "Submitted batch job $n"\n'
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    words = [planted.folder, "--out", tmp_path / "out", "--engine", "slurm"]
    with pytest.raises(InputError, match="needs --option time="):
        run(*words)
    said = run(*words, "--option", "time=01:00:00", "--option", "partition=cpu", "--option", "account=me")
    assert "submitted" in said
    told = log.read_text()
    names = re.findall(r"#SBATCH --job-name=curate-(\S+)", told)
    assert names[::2] == names[1::2] and len(names) == 18  # datatrove submits a stage, then the sum of its counts
    assert "account=me" in told and "partition=cpu" in told
    assert all(f"RUN_OFFSET=0 --dependency=afterok:{job}" in told for job in range(1, 17, 2))


def test_ray(planted: Planted, curated: tuple[Places, str], tmp_path: Path) -> None:
    """A real cluster of this machine's."""
    ray: Any = pytest.importorskip("ray", reason="ray is not installed; install phalanx[ray]")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        words = ["--against", planted.against, "--engine", "ray", "--workers", 2, "--option", "mem_per_cpu_gb=0.5"]
        run(planted.folder, "--out", tmp_path / "out", *words)
    finally:
        ray.shutdown()
    assert sorted(texts(tmp_path / "out" / "text")) == sorted(texts(curated[0].text))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--language", "xx"], "--language xx is not known"),
        (["--engine", "spark"], "use one of local, slurm, ray"),
        (["--against", "nowhere.txt"], r"nowhere\.txt: No such file"),
        (["--tokenizer", "nothing"], "no tokenizer 'nothing'"),
        (["--engine", "ray", "--option", "colour=red"], "--option colour=red is not known"),
    ],
)
def test_bad_words(planted: Planted, tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        run(planted.folder, "--out", tmp_path / "out", *words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "ray"], r"needs the package ray; install phalanx\[ray\]"),
        (["--engine", "slurm", "--option", "time=1:00", "--option", "partition=cpu"], "no sbatch here"),
    ],
)
def test_an_engine_that_is_not_here(
    planted: Planted, tmp_path: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    monkeypatch.setattr(engines.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=said):
        run(planted.folder, "--out", tmp_path / "out", *words)


def test_a_folder_of_something_else(planted: Planted, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else; give another --out"):
        run(planted.folder, "--out", tmp_path)


def test_runs_of_words() -> None:
    """Case, punctuation and white space do not count; twelve words are too few."""
    words = "one two three four five six seven eight nine ten eleven twelve thirteen"
    known = overlap.of_texts([f"x {words} y"])
    assert len(known) == 3
    assert (
        overlap.first_shared("ONE, two; three four\nfive six - seven eight nine ten eleven: twelve thirteen!", known)
        == words
    )
    assert overlap.first_shared(words.rsplit(" ", 1)[0], known) == ""
    both = np.union1d(known, overlap.built_in())
    assert len(both) > 400_000
    assert (overlap.unpack(overlap.pack(both)) == both).all()


def test_the_built_in_sets(data_dir: Path) -> None:
    """The file that comes with the program is what `of_file` finds in the two sets, and their texts are known by it."""
    known = overlap.built_in()
    lambada = data_dir / "eval" / "lambada" / "lambada_test.jsonl"
    wikitext = data_dir / "corpora" / "wikitext2" / "wiki.test.raw"
    assert np.array_equal(known, np.union1d(overlap.of_file(lambada), overlap.of_file(wikitext)))
    texts = [json.loads(line)["text"] for line in lambada.read_text(encoding="utf-8").splitlines()]
    assert all(overlap.first_shared(text, known) for text in texts)
    long = [line for line in wikitext.read_text(encoding="utf-8").split("\n") if len(line.split()) > 40]
    assert sum(bool(overlap.first_shared(line, known)) for line in long) > 0.99 * len(long)

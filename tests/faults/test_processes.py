"""Bad input to several processes: one clear line within 30 seconds, and exit code 2 from all."""

import re
import shutil
import socket
from pathlib import Path

import pytest

from phalanx.runtime import rendezvous
from tests.faults.ranks import Ranks
from tests.train.runs import QUIETLY, Corpus

PROMISED = 30  # seconds
PATIENCE = 3.0  # of processes that all are there when the first begins to wait
GRACE = 90  # seconds, against a test that would hang


@pytest.fixture
def command(corpus: Corpus, tmp_path: Path) -> list[object]:
    """A tiny run."""
    return ["train", "gpt-tiny", *corpus.words("gpt"), *QUIETLY, "train.steps=4", "--out", tmp_path / "run"]


def _one_line(ranks: Ranks, seconds: float) -> str:
    codes = ranks.codes(seconds)
    assert set(codes) == {2}, ranks.lines()
    (line,) = ranks.lines()
    assert line.startswith("phalanx: ")
    return line


@pytest.mark.parametrize(
    ("world", "words", "expected"),
    [
        (3, ["layout.tp=2"], "layout.tp=2 × cp=1 × pp=1 = 2 does not fit 3 processes; start 2, or change"),
        (2, ["layout.dp=4"], "layout.tp=1 × cp=1 × pp=1 × dp=4 = 4 does not fit 2 processes"),
        (2, ["layout.tp=2", "model.heads=1"], "layout.tp=2 does not divide model.heads=1"),
        (
            4,
            ["layout.tp=2", "layout.cp=2", "data.sequence=30"],
            "data.sequence=30 is no multiple of 8 (2 × layout.cp=2",
        ),
        (4, ["layout.pp=4", "layout.micro_batch=2"], "layout.pp=4 makes 4 stages, but model.layers=2"),
    ],
)
def test_layouts_that_do_not_fit(
    ranks: Ranks, command: list[object], tmp_path: Path, world: int, words: list[str], expected: str
) -> None:
    for rank in range(world):
        ranks.start(rank, world, *command, *words)
    assert expected in _one_line(ranks, GRACE)
    assert not (tmp_path / "run").exists()


def test_the_run_of_another_model(ranks: Ranks, command: list[object], tmp_path: Path) -> None:
    ranks.start(0, 1, *command)
    assert ranks.codes(GRACE) == [0]
    ranks.all.clear()
    for rank in range(2):
        ranks.start(rank, 2, *command, "model.hidden=64")
    assert f"{tmp_path / 'run'} holds a run with model.hidden=32, not 64" in _one_line(ranks, GRACE)


def test_processes_that_disagree(ranks: Ranks, command: list[object]) -> None:
    for rank in range(3):
        ranks.start(rank, 3, *command, "train.batch=9", f"train.seed={2 if rank == 1 else 1}")
    expected = "train.seed is 1 on rank 0 but 2 on rank 1; start every process with the same command and installation"
    assert expected in _one_line(ranks, GRACE)


def test_processes_of_different_versions(ranks: Ranks, command: list[object], tmp_path: Path) -> None:
    other = tmp_path / "phalanx-9.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: phalanx\nVersion: 9.9\n")
    for rank in range(3):
        ranks.start(rank, 3, *command, "train.batch=9", **({"PYTHONPATH": str(tmp_path)} if rank else {}))
    assert "on rank 0 but 9.9 on ranks 1, 2; start every process" in _one_line(ranks, GRACE)


def test_data_that_differ_on_another_machine(
    ranks: Ranks, command: list[object], corpus: Corpus, tmp_path: Path
) -> None:
    """Each of two machines has a copy of its own under one path; here that is its working directory."""
    files = [corpus.folder / f"gpt{suffix}" for suffix in (".bin", ".idx")]
    tokens = files[0].read_bytes()
    for rank in range(2):
        (tmp_path / f"machine{rank}").mkdir()

    def train(name: str, tokens_of_1: bytes) -> None:
        ranks.all.clear()
        ranks.folder = tmp_path / name
        ranks.folder.mkdir()
        for rank in range(2):
            there = tmp_path / f"machine{rank}"
            for file in files:
                shutil.copy(file, there)
            if rank:
                (there / "gpt.bin").write_bytes(tokens_of_1)
            words = [*command, "data.train=/proc/self/cwd/gpt"]
            ranks.start(rank, 2, *words, together=2, LOCAL_RANK="0", PWD=str(there))

    differs = (
        "/proc/self/cwd/gpt on .*, the machine of rank 1, is another set than on that of rank 0; copy it from there"
    )
    train("begins", tokens[2:] + tokens[:2])
    assert re.search(differs, _one_line(ranks, GRACE)) and not (tmp_path / "run").exists()
    train("trains", tokens)
    assert ranks.codes(GRACE) == [0, 0], ranks.lines()
    train("resumes", tokens[2:] + tokens[:2])
    assert re.search(differs, _one_line(ranks, GRACE))


def test_an_error_of_one_process(ranks: Ranks, command: list[object]) -> None:
    for rank in range(3):
        ranks.start(rank, 3, *command, "train.batch=9", *(["model.presett=x"] if rank == 2 else []))
    assert "model.presett" in _one_line(ranks, GRACE)


@pytest.mark.parametrize("answers", [False, True])
def test_a_port_in_use(ranks: Ranks, command: list[object], answers: bool) -> None:
    """By a server that is silent, and by one that hangs up."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", int(ranks.address["MASTER_PORT"])))
        listener.listen()
        for rank in range(2):
            ranks.start(rank, 2, *command, patience=PATIENCE, together=2)
        if answers:
            listener.settimeout(GRACE)
            listener.accept()[0].close()
        line = _one_line(ranks, GRACE)
    assert f"rank 0 cannot listen at 127.0.0.1:{ranks.address['MASTER_PORT']}: address already in use" in line
    assert "set MASTER_PORT to a port that is free" in line


@pytest.mark.parametrize(("missing", "expected"), [
    ({0}, "rank 1 of 2 finds no store at"), ({0, 1}, "finds no store at"), ({1, 3}, "ranks 1, 3 of 4 did not come"),
    ({1}, "rank 1 of 2 did not come in time; start every process"),
])  # fmt: skip
def test_processes_that_never_come(ranks: Ranks, command: list[object], missing: set[int], expected: str) -> None:
    assert rendezvous.PATIENCE < PROMISED - 4, "which is left to start Python in"
    world = 2 * len(missing)
    there = set(range(world)) - missing
    for rank in there:
        ranks.start(rank, world, *command, patience=PATIENCE, together=len(there), LOCAL_RANK=str(rank % 2))
    assert expected in _one_line(ranks, GRACE)


def test_two_of_one_rank(ranks: Ranks, command: list[object]) -> None:
    for rank in (0, 1, 1):
        ranks.start(rank, 3, *command)
    assert "two processes say that they are rank 1" in _one_line(ranks, GRACE)


def test_no_address(ranks: Ranks, command: list[object]) -> None:
    ranks.start(0, 2, *command, MASTER_PORT="")
    assert "MASTER_PORT is not set" in _one_line(ranks, GRACE)

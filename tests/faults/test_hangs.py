"""A run that hangs ends by itself and says where, who came, who did not, and what those are doing."""

from pathlib import Path

import pytest

from phalanx.runtime.watchdog import EXIT_CODE
from tests.faults.ranks import Ranks
from tests.train.runs import QUIETLY, Corpus

PATIENT = 20  # seconds of the watchdog until the fault
GRACE = 90  # seconds, against a test that would hang

CASES = {
    "asleep": (
        ["optim.name=tests.faults.late:Asleep"],
        ["hangs at all_reduce of", "among ranks 0, 1", ": rank 0 arrived", "rank 1 (process", "sleeping"],
    ),
    "reading": (
        ["task=tests.faults.late:Reading", "optim.name=tests.faults.late:Punctual"],
        ["hangs at all_reduce of", "rank 1 did not", "rank 1 (process", "loader.py", "loader_0:", "sleeping"],
    ),
    "elsewhere": (
        ["optim.name=tests.faults.late:Elsewhere"],
        ["different collectives: rank 0 at all_reduce of", "rank 1 at all_gather of float [7]", "_elsewhere"],
    ),
    "stopped": (
        ["optim.name=tests.faults.late:Stopped"],
        ["hangs at all_reduce of", "rank 1 did not", "rank 1 (process", "does not answer: it was stopped"],
    ),
    "locked": (
        ["optim.name=tests.faults.late:Locked"],
        ["Timeout (0:00:01)!", "in _hold_all", "hangs at all_reduce of", "rank 1 (process", "does not answer"],
    ),
    "keeper": (
        ["optim.name=tests.faults.late:KeeperStopped"],
        ["rank 1 has not moved for", "and rank 0 (process", "which keeps the store, does not answer", "all_reduce"],
    ),
    "pipeline": (
        ["optim.name=tests.faults.late:Asleep", "layout.pp=2"],
        ["hangs at a message of another stage, or", ": rank 0 waited for it", "rank 1 (process", "sleeping"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_hang_explains_itself(ranks: Ranks, corpus: Corpus, tmp_path: Path, case: str) -> None:
    words, expected = CASES[case]
    long = ["layout.micro_batch=4", "train.steps=100000", f"layout.timeout={PATIENT}"]
    command = ["train", "gpt-tiny", *corpus.words("gpt"), *QUIETLY, *long]
    for rank in range(2):
        ranks.start(rank, 2, *command, *words, "--out", tmp_path / "run")
    codes = [ranks.all[rank].end(GRACE) for rank in ([0] if case == "locked" else [0, 1])]
    assert set(codes) == {EXIT_CODE}, ranks.lines()
    said = "\n".join(ranks.lines())
    assert said.count("phalanx: ") == 1 and said.count(f"the run ends with exit code {EXIT_CODE}") == 1
    places = [said.find(part) for part in expected]
    assert -1 not in places, said
    assert case in ("elsewhere", "keeper") or "rank 0 (process" not in said, "who waits is not to blame"


def test_a_long_wait_is_no_hang(ranks: Ranks, corpus: Corpus, tmp_path: Path) -> None:
    """All of them are slow, and the alarm is raised in vain."""
    command = ["train", "gpt-tiny", *corpus.words("gpt"), *QUIETLY, f"layout.timeout={PATIENT}", "train.steps=4"]
    words = ["optim.name=tests.faults.late:Slow", "--out", tmp_path / "run"]
    for rank in range(2):
        ranks.start(rank, 2, *command, *words)
    assert ranks.codes(GRACE) == [0, 0]
    assert ranks.lines() == []

"""The quickstart end to end, very small: what it writes, what it reuses, how it goes on, what it refuses."""

import json
import lzma
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from phalanx.data.prepare import prepare
from phalanx.errors import InputError
from phalanx.quickstart import learn, resume, text
from phalanx.quickstart.ledger import FILE, Ledger
from phalanx.quickstart.plan import FULL, MASKED, NOVELS, PROMPTS, Workspace
from phalanx.quickstart.stages import Stage, run
from phalanx.quickstart.steps import quickstart, stages
from tests.train import processes

SMALL = (
    "model.layers=1", "model.hidden=32", "model.heads=2", "model.init_std=0.02", "train.batch=8", "train.steps=30",
    "train.eval_every=15", "train.eval_sequences=8", "log.print_every=15",
)  # fmt: skip
PLAN = replace(
    FULL,
    novels=("Burnett_Lord_1886",),
    vocab=600,
    gpt=(*FULL.gpt, *SMALL),
    bert=(*FULL.bert, *SMALL),
    interrupted=("model.dropout=0.1", "train.steps=40", "train.eval_every=0", "save.every=10"),
    cut=6,
    evaluate=16,
    write=10,
)


class Forked:
    """`phalanx WORDS` in a process that has imported everything, with what `Popen` offers of it."""

    def __init__(self, *words: str) -> None:
        self.process = processes.start(processes.command, Path.cwd(), *words)

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """The beginnings of novels, encoded in this process, and runs in processes that start at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_packed", lambda name: lzma.compress(beginning(name), preset=0))
        patch.setattr(text, "prepare", lambda inputs, out, options: prepare(inputs, out, replace(options, workers=1)))
        patch.setattr(resume, "start", Forked)
        patch.setattr("phalanx.train.monitor.peak_flops", lambda *_: 1e9)
        yield


def beginning(name: str) -> bytes:
    return lzma.decompress((NOVELS / f"{name}.txt.xz").read_bytes())[:100_000].rpartition(b"\n\n")[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole quickstart."""
    folder = tmp_path_factory.mktemp("quickstart") / "qs"
    quickstart(folder, PLAN)
    return folder


def results(folder: Path) -> dict[str, dict]:
    return {name: entry["result"] for name, entry in json.loads((folder / FILE).read_text()).items()}


def test_both_models_learn(finished):
    found = results(finished)
    for model in ("gpt", "bert"):
        before, after = found[model]["before"], found[model]["after"]
        assert before["perplexity"] == pytest.approx(600, rel=0.1)  # knows nothing: all pieces alike
        assert after["perplexity"] < 0.9 * before["perplexity"]


def test_interrupted_run_equals_the_one_left_alone(finished):
    found = results(finished)["resume"]
    assert found["equal"] == found["steps"] == 40
    assert PLAN.cut <= found["stopped_after"] < 40
    kinds = [
        json.loads(line)["kind"] for line in (finished / "runs/interrupted/metrics.jsonl").read_text().splitlines()
    ]
    assert kinds.count("start") == 2  # it was two processes


def test_report_holds_pictures_samples_and_masks(finished):
    html = (finished / "report.html").read_text()
    assert html.count("data:image/png;base64,") >= 5
    for shown in (*PROMPTS[:2], *MASKED, "all 40 steps", "phalanx train gpt-tiny"):
        assert shown in html
    assert not re.search(r'(src|href)="https?:', html)


def test_second_run_reuses_everything(finished, capsys):
    before = (finished / "runs/gpt/metrics.jsonl").stat().st_mtime_ns
    quickstart(finished, PLAN)
    out = capsys.readouterr().out
    assert out.count("reused") == len(stages(PLAN))
    assert (finished / "runs/gpt/metrics.jsonl").stat().st_mtime_ns == before


def test_other_inputs_redo_what_depends_on_them_alone(finished, tmp_path, capsys):
    folder = tmp_path / "qs"
    shutil.copytree(finished, folder)
    other = replace(PLAN, write=5)
    quickstart(folder, other)
    redone = re.findall(r"\d/9  (.+)\n(?:.+\n)*?Took", capsys.readouterr().out)
    assert redone == ["Let it write", "Write the report"]


def test_stopped_training_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(learn, "train", lambda *_: 15)
    folder = tmp_path / "qs"
    with pytest.raises(SystemExit) as ended:
        quickstart(folder, PLAN)
    assert ended.value.code == 128 + 15
    assert "goes on from here" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        quickstart(folder, PLAN)
    out = capsys.readouterr().out
    assert out.count("reused") == 3
    assert "interrupted before" in out


def test_begun_work_is_kept_for_equal_inputs_only(tmp_path):
    ledger = Ledger(tmp_path / "qs")
    assert not ledger.begin("gpt", "a", ("run",))
    left = tmp_path / "qs" / "run"
    left.mkdir()
    again = Ledger(tmp_path / "qs")
    assert again.begin("gpt", "a", ("run",)) and left.exists()
    assert again.done("gpt", "a", ("run",)) is None
    again.end("gpt", 2.0, {"x": 1})
    assert again.done("gpt", "a", ("run",)) == {"inputs": "a", "seconds": 2.0, "result": {"x": 1}}
    assert again.done("gpt", "b", ("run",)) is None
    assert not again.begin("gpt", "b", ("run",)) and not left.exists()


def test_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        quickstart(tmp_path, PLAN)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(InputError, match="cannot be used"):
        quickstart(tmp_path, PLAN)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(("seconds", "share", "told"), [(60, 0.6, True), (60, 0.1, False), (1, 0.6, False)])
def test_others_who_use_the_cores_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seconds: float, share: float,
    told: bool,
) -> None:  # fmt: skip
    waiting = SimpleNamespace(seconds=seconds, share=lambda: share)
    monkeypatch.setattr("phalanx.quickstart.stages.CoreWait", lambda: waiting)
    stage = Stage("one", "One", "Why.", lambda _: {}, lambda _: iter(()), "")
    run([stage], Workspace(tmp_path / "qs", PLAN, {}), Console())
    assert ("it waited for one 60% of that time" in capsys.readouterr().out) == told


def test_unequal_curves_are_told():
    result = {"steps": 9, "equal": 8, "stopped_after": 4, "at": "r", "other": "s"}
    assert any("Only 8 of 9" in line for line in resume.describe_resumed(result))


def test_bundled_novels_are_small_and_their_origin_is_told():
    files = sorted(NOVELS.glob("*.txt.xz"))
    assert {path.name.removesuffix(".txt.xz") for path in files} == {*FULL.novels, FULL.held_out}
    assert FULL.held_out not in FULL.novels
    assert sum(path.stat().st_size for path in files) <= 2.5e6
    told = (NOVELS / "SOURCES.md").read_text()
    assert "public domain" in told and all(path.name in told for path in files)

"""Metrics: one curve whatever happens, and rates that are right."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from phalanx.config import Config, LogConfig
from phalanx.errors import InputError
from phalanx.run.records import FILE, read
from phalanx.train import peak
from phalanx.train.metrics import Throughput
from phalanx.train.trackers import JsonLines, TensorBoard

WRITE = """
import sys, time
from pathlib import Path
from phalanx.config import Config
from phalanx.train.trackers import JsonLines
metrics = JsonLines(Config(), Path(sys.argv[1]), 0)
for step in range(1, 6):
    metrics.train(step, {"loss": 1 / step})
print("written", flush=True)
time.sleep(60)
"""


def losses(folder: Path, kind: str = "train") -> dict[int, float | None]:
    return {record["step"]: record["loss"] for record in read(folder / FILE) if record["kind"] == kind}


def run(folder: Path, first: int, last: int, offset: float = 0.0) -> None:
    for kind in (JsonLines, TensorBoard):
        with closing(kind(Config(), folder, first - 1)) as tracker:
            for step in range(first, last + 1):
                tracker.train(step, {"loss": offset + step / 3, "tokens": 10 * step})


def test_records_are_exact_and_every_nth_step_is_kept(tmp_path: Path) -> None:
    with closing(JsonLines(Config(log=LogConfig(every=2)), tmp_path, 0)) as metrics:
        metrics.start({"parameters": 7})
        for step in range(1, 5):
            metrics.train(step, {"loss": step / 3, "tokens": 10 * step})
        metrics.valid(3, {"loss": 0.1})
    assert read(tmp_path / FILE) == [
        {"step": 0, "kind": "start", "parameters": 7},
        {"step": 2, "kind": "train", "loss": 2 / 3, "tokens": 20},
        {"step": 4, "kind": "train", "loss": 4 / 3, "tokens": 40},
        {"step": 3, "kind": "valid", "loss": 0.1},
    ]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with closing(JsonLines(Config(), tmp_path, 0)) as metrics:
        metrics.train(1, {"loss": math.nan, "grad_norm": math.inf, "lr": 1e-3})
    line = (tmp_path / FILE).read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "step": 1, "kind": "train", "loss": None, "grad_norm": None, "lr": 1e-3,
    }  # fmt: skip


def test_resume_leaves_one_curve(tmp_path: Path) -> None:
    run(tmp_path, 1, 7)
    run(tmp_path, 5, 9, offset=100)
    assert losses(tmp_path) == {step: step / 3 + (100 if step > 4 else 0) for step in range(1, 10)}
    assert [record["step"] for record in read(tmp_path / FILE)] == list(range(1, 10))
    assert not list(tmp_path.glob("*.partial"))
    with closing(JsonLines(Config(), tmp_path, 6)) as metrics:
        assert metrics.last["tokens"] == 60
    with closing(JsonLines(Config(), tmp_path, 0)) as metrics:
        assert metrics.last == {}


def test_tensorboard_shows_the_same_curve(tmp_path: Path) -> None:
    run(tmp_path, 1, 7)
    time.sleep(1)  # its files are in order by the second
    run(tmp_path, 5, 9, offset=100)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    shown = board.Scalars("train/loss")
    assert [event.step for event in shown] == list(range(1, 10))
    assert {event.step: event.value for event in shown} == pytest.approx(losses(tmp_path))


@pytest.mark.parametrize(
    "torn", [b'{"step": 4, "kind": "tr', b'{"step": 4, "kind": "train", "loss": 1}', b"\0\0\0", b"7"]
)
def test_a_torn_last_line_is_repaired(tmp_path: Path, torn: bytes) -> None:
    run(tmp_path, 1, 3)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + torn)
    assert list(losses(tmp_path)) == [1, 2, 3]
    run(tmp_path, 4, 5)
    assert (tmp_path / FILE).read_bytes().startswith(whole)
    assert losses(tmp_path) == {step: step / 3 for step in range(1, 6)}


def test_a_bad_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"step": 1, "kind": "train"}\n{"kind": "train"}\n{"step": 2, "kind": "train"}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: not a metrics record"):
        read(tmp_path / FILE)


def test_a_kill_costs_no_record(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        os.kill(process.pid, signal.SIGKILL)
    assert losses(tmp_path) == {step: 1 / step for step in range(1, 6)}


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / FILE).symlink_to("/dev/full")
    monkeypatch.setattr("phalanx.train.trackers.cut", lambda path, step: [])
    metrics = JsonLines(Config(), tmp_path, 0)
    with pytest.raises(InputError, match=r"metrics\.jsonl: No space left on device; make room"):
        metrics.train(1, {"loss": 1.0})
    with pytest.raises(InputError, match="No space left"):
        metrics.close()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_throughput() -> None:
    clock = Clock()
    rate = Throughput(seconds=1000.0, window=2, clock=clock)
    assert rate.tokens_per_s == 0
    assert rate.eta(5) == math.inf
    for seconds in (10.0, 2.0, 2.0):
        clock.now += seconds
        rate.step(100)
    assert rate.tokens_per_s == 50  # the slow first step has left the window
    assert rate.eta(5) == 10
    with rate.paused():
        clock.now += 7
    assert (rate.seconds, rate.tokens_per_s) == (1021, 50)
    assert rate.eta(4) == pytest.approx(8 * 1.5)  # 7 s of pauses on 14 s of steps
    clock.now += 3
    rate.step(100)
    assert rate.tokens_per_s == 40


def test_memory_counts_what_was_held_and_let_go() -> None:
    program = """
import torch
from phalanx.train.metrics import memory_gib
before = memory_gib(torch.device("cpu"))
torch.ones(2**29 // 4)
print(memory_gib(torch.device("cpu")) - before)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(result.stdout) == pytest.approx(0.5, abs=0.05)


def test_peak_is_measured_and_the_highest_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(peak, "SECONDS", 0.02)
    cpu = torch.device("cpu")
    measured = peak.peak_flops.__wrapped__(cpu, torch.float32)
    assert 1e8 < measured < 1e14
    kept = tmp_path / "phalanx" / "peak.json"
    (key,) = json.loads(kept.read_text())
    kept.write_text(json.dumps({key: 1e15}))
    assert peak.peak_flops.__wrapped__(cpu, torch.float32) == 1e15
    kept.write_text("torn")
    assert peak.peak_flops.__wrapped__(cpu, torch.float32) < 1e14
    assert list(json.loads(kept.read_text())) == [key]


@pytest.mark.parametrize("cap", ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"])
def test_a_peak_under_a_cap_on_instructions_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cap: str
) -> None:
    """What the processor does without the cap would make a run under it look slow, and the other way round."""
    cpu, rates = torch.device("cpu"), iter([2e12, 1e12])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(cap, raising=False)
    monkeypatch.setattr(peak, "measured", lambda *_: next(rates))
    assert peak.peak_flops.__wrapped__(cpu, torch.float32) == 2e12
    monkeypatch.setenv(cap, "AVX")
    if cap == "ATEN_CPU_CAPABILITY":  # which torch reads once, as it is imported
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "capped")
    assert peak.peak_flops.__wrapped__(cpu, torch.float32) == 1e12


def test_peak_does_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(peak, "SECONDS", 0.02)
    assert peak.peak_flops.__wrapped__(torch.device("cpu"), torch.float32) > 1e8

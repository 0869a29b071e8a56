"""phalanx calibrate: a file that loads, of numbers that can be."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.cli.app import app
from phalanx.errors import InputError
from phalanx.measure import calibrate
from phalanx.measure.clusterfile import text
from phalanx.models.family import configured, spec_of
from phalanx.plan import cluster
from phalanx.plan.predict import predict
from phalanx.plan.workload import Workload

pytestmark = pytest.mark.processes

MODEL = configured(layers=4, hidden=256, heads=4, vocab=8192, positions=128)
GPT = Workload(spec_of(MODEL), 128, batch=8, micro_batch=4, precision="fp32", stream_bytes=4)


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a core for each of two processes")
def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a step that is a sixtieth of the one that is measured in earnest."""
    monkeypatch.setitem(calibrate.SIZES, "cpu", ("layers=2", "hidden=128", "heads=2", "vocab=1024"))
    monkeypatch.setitem(calibrate.LENGTHS, "cpu", ("data.sequence=64", "train.batch=4"))
    file = tmp_path / "here.toml"
    told = CliRunner().invoke(app, ["calibrate", "--out", str(file), "--procs", "1,2", "--rounds", "1"])
    assert told.exit_code == 0, told.exception
    assert (tmp_path / "here.png").read_bytes().startswith(b"\x89PNG")
    here = cluster.load(str(file))
    assert here.measured
    assert 1e9 < here.gpu.peak["fp32"] < 1e13 and 1e9 < here.gpu.bandwidth < 1e12
    assert 1e6 < here.inside.bandwidth < 1e12 and 0 < here.inside.latency < 0.1
    assert all(slow.products >= 1 and slow.others >= 1 for slow in here.measured.busy.values())
    assert set(here.measured.families) == {"gpt2", "bert"}
    assert 0 < predict(GPT, here).mfu < 1
    again = CliRunner().invoke(app, ["calibrate", "--out", str(file)])
    assert isinstance(again.exception, InputError) and "--overwrite" in str(again.exception)


@pytest.mark.parametrize("name", cluster.names())
def test_a_file_written_says_what_was_read(name: str) -> None:
    known = cluster.load(name)
    written = cluster.parse(text(known, "a test"), name)
    assert (written.title, written.node, written.gpu.name) == (known.title, known.node, known.gpu.name)
    assert predict(GPT, written).seconds == pytest.approx(predict(GPT, known).seconds, rel=1e-3)


@pytest.mark.parametrize("words", [["--procs", "1,4096"], ["--out", "here.txt"], ["--procs", "x"]])
def test_refused(words: list[str]) -> None:
    assert isinstance(CliRunner().invoke(app, ["calibrate", *words]).exception, InputError)

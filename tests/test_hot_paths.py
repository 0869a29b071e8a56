"""The Python that runs for every sample, step and token, counted in bytecodes: no clock, so the same on any machine."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import phalanx
from phalanx.infer.sample import Options
from phalanx.train.loader import Loader
from tests.infer.runs import scripted
from tests.layouts.curves import made
from tests.train.runs import make_corpus

HOME = str(Path(phalanx.__file__).parent)


def bytecodes(work: Callable[[], object]) -> int:
    """Those that Phalanx's own frames execute while `work` runs."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(HOME):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(("family", "most"), [("gpt", 1500), ("bert", 3500)])
def test_a_batch(tmp_path: Path, family: str, most: int) -> None:
    """Of eight samples, after a first that opens what they need."""
    trainer, _ = made(make_corpus(tmp_path).folder, family, "train.batch=8")
    loader: Loader = trainer.loader
    loader.make(0)
    found = bytecodes(lambda: loader.make(1))
    loader.close()
    assert most / 3 < found / 8 <= most, found / 8


@pytest.mark.numerics
@pytest.mark.parametrize(("family", "rest"), [("gpt", 3600), ("bert", 5000)])
def test_a_step(tmp_path: Path, family: str, rest: int) -> None:
    """Of the trainer, forward, backward and optimizer: what a block costs, and all that is not of a block."""
    corpus, found = make_corpus(tmp_path), []
    for layers in (2, 4):
        trainer, _ = made(corpus.folder, family, "layout.micro_batch=8", f"model.layers={layers}")
        trainer.step(0)
        found.append(bytecodes(lambda trainer=trainer: trainer.step(1)))
        trainer.loader.close()
    block = (found[1] - found[0]) / 2
    assert 1000 < block <= 2600, block
    assert rest / 3 < found[0] - 2 * block <= rest, found[0] - 2 * block


def test_a_token() -> None:
    """Of eight texts under way, greedy, nothing looked up."""
    engine = scripted(lambda _: 262)[0].engine
    requests = [engine.submit([5, 6], Options(max_tokens=6, temperature=0)) for _ in range(8)]
    for _ in range(2):
        engine.step()
    found = bytecodes(lambda: engine.step())
    assert [request.generated for request in requests] == [3] * 8
    assert 80 < found / 8 <= 320, found / 8

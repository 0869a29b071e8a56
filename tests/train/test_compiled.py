"""What compiling must not come to: blocks in pieces, or compiled again while a run goes on."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from tests.layouts.curves import made
from tests.train.runs import make_corpus


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One text as sets of tokens."""
    return make_corpus(tmp_path_factory.mktemp("corpus")).folder


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_blocks_compile_whole_and_once(text: Path, family: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks share a graph, the loss has one, and after the second step there are no new ones."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    trainer, _ = made(text, family, "train.compile=on", f"precision.dtype={dtype}", "train.batch=16")
    graphs = []
    try:
        for step in range(6):
            trainer._step(step)
            graphs.append(counters["stats"]["unique_graphs"])
    finally:
        trainer.loader.close()
    assert not counters["graph_break"]
    assert torch.compiler.config.cache_key_tag == torch.backends.cpu.get_cpu_capability(), "kept for such processors"
    assert graphs[1] == graphs[-1] and 2 <= graphs[-1] <= 4

"""Compiling changes no loss, and does not come to blocks in pieces, or to compiling again while a run goes on."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from tests.layouts.curves import made
from tests.train.runs import QUIETLY, Corpus, fit


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
def test_compiled_is_close(corpus: Corpus, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # others would each import torch first
    torch._dynamo.reset()
    words = [*QUIETLY, "model.dropout=0.2", "layout.micro_batch=8", "train.steps=3", "model.layers=1"]
    plain, compiled = (fit(run / kind, corpus.config("gpt", *words, f"train.compile={kind}")) for kind in ("off", "on"))
    assert compiled.losses == pytest.approx(plain.losses, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_blocks_compile_whole_and_once(
    corpus: Corpus, family: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks share a graph, the loss has one, and after the second step there are no new ones."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    trainer, _ = made(corpus.folder, family, "train.compile=on", f"precision.dtype={dtype}", "train.batch=16")
    graphs = []
    try:
        for step in range(6):
            trainer.step(step)
            graphs.append(counters["stats"]["unique_graphs"])
    finally:
        trainer.loader.close()
    assert not counters["graph_break"]
    assert torch.compiler.config.cache_key_tag == torch.backends.cpu.get_cpu_capability(), "kept for such processors"
    assert graphs[1] == graphs[-1] and 2 <= graphs[-1] <= 4


@pytest.mark.slow
def test_blocks_of_four_kinds_are_all_compiled(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without a window, with and without positions: each kind's graphs, in training and in evaluation too."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    kinds = ["model.window=5", "model.window_layers=1100", "model.rope_layers=10", "model.layers=4"]
    trainer, record = made(corpus.folder, "llama", "train.compile=on", "train.steps=2", "optim.warmup=0", *kinds)
    trainer.fit()
    assert record.valids and not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1 + 4 * 2 * 2  # of the loss; of kinds, two shapes, and both modes

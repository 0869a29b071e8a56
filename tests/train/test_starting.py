"""What a first step may import, and what a save may not overtake: guards of speed that count instead of timing."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from tests.train.runs import Corpus, fit, trainer

# torch's compiler and what imports it take as long as torch itself; the others are for other verbs.
NEEDLESS = (
    "torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.distributed.fsdp",
    "torch.distributed.checkpoint", "torch.distributed.pipelining", "torch.fx.experimental.symbolic_shapes", "sympy",
    "matplotlib", "transformers", "pandas", "scipy", "onnxruntime", "openvino", "fastapi", "datatrove",
)  # fmt: skip
PROGRAM = """
import sys
from contextlib import suppress
from phalanx.cli import main
for words in {runs}:
    sys.argv = ["phalanx", "train", *words]
    with suppress(SystemExit):
        main()
print([name for name in {names} if name in sys.modules])
"""


def test_training_saving_and_resuming_import_no_compiler(corpus: Corpus, tmp_path: Path) -> None:
    recipe, run = tmp_path / "recipe.toml", str(tmp_path / "run")
    recipe.touch()
    words = [*corpus.words("gpt"), "train.steps=2", "optim.warmup=0"]
    program = PROGRAM.format(runs=[[str(recipe), *words, "--out", run], [run]], names=NEEDLESS)
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "held-out" in told.stdout + told.stderr and "is finished at step 2" in told.stdout + told.stderr
    assert told.stdout.splitlines()[-1] == "[]"


def test_the_optimizer_waits_for_the_copy(corpus: Corpus, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that takes longer than forward and backward is of the state that was to be saved."""
    words = ["train.eval_every=0", "save.every=1", "save.keep=9"]
    config, copy = corpus.config("gpt", *words, "train.steps=3"), np.copyto

    def slow(*arguments: Any) -> None:
        time.sleep(0.005)
        copy(*arguments)

    monkeypatch.setattr(np, "copyto", slow)
    fit(run, config)
    monkeypatch.undo()
    for step in 1, 2:
        alone, _ = trainer(run.with_name(f"alone-{step}"), config)
        for number in range(step):
            alone.step(number)
        expected = {name: p.detach().clone() for name, p in alone.parameters.items()}
        found = {name: torch.zeros_like(p) for name, p in expected.items()}
        assert Checkpointer(RunFolder(run)).load_weights(found, step=step).step == step
        assert all(torch.equal(found[name], p) for name, p in expected.items())

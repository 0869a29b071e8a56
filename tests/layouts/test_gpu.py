"""The same loss on a GPU as on the CPU, compiled blocks and all."""

from pathlib import Path

import pytest
import torch

from tests.layouts.curves import curve, farthest
from tests.train.runs import make_corpus

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
TOLERANCES = {"fp32": 1e-4, "bf16": 3e-2}  # the GPU rounds products elsewhere than the CPU does
HEADS = ["model.hidden=64"]  # 16 wide: what fused attention takes


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One text as sets of tokens."""
    return make_corpus(tmp_path_factory.mktemp("corpus")).folder


@pytest.mark.parametrize("compiled", ["off", "on"])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_one_curve_on_gpu_and_cpu(text: Path, family: str, dtype: str, compiled: str) -> None:
    settings = [*HEADS, f"precision.dtype={dtype}"]
    here = curve(text, family, *settings)
    there = curve(text, family, *settings, "train.device=cuda", f"train.compile={compiled}")
    assert farthest(here, there) < TOLERANCES[dtype]

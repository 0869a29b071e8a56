"""Lower precision on layouts: rounding differs with the order of sums, decisions do not differ at all."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from phalanx.precision import gemm
from tests.layouts.conftest import Alone
from tests.layouts.curves import Curve, curve, farthest, made
from tests.layouts.pool import Pool
from tests.layouts.test_curves import AGAIN, LAYOUTS, TOLERANCE
from tests.train.runs import Corpus

# The largest difference of losses near 6 after six steps, or of gradient norms, relative, to one process of the same
# micro-batches. A layout whose products are those of one process differs by the order in which gradients are summed, in
# fp32, and by what is rounded otherwise in the next step for it; one that splits products rounds parts of their sums as
# well. A planted mistake makes 2e-2 at least (test_controls.py).
UNSPLIT = {"bf16": 1e-3, "fp16": 1e-4, "fp8": 2e-3}
SPLIT = {"bf16": 5e-3, "fp16": 1e-3, "fp8": 1e-2}
# Lower precision to fp32: 8 binary digits a product in bf16, 11 in fp16, 4 in fp8.
EXACT = {"bf16": 5e-3, "fp16": 1e-3, "fp8": 3e-2}

SAME, WHOLE = "layout.micro_batch=2", "layout.micro_batch=8"  # of eight sequences
SPLITTING = ["tp2", "cp2 ring", "zero3 tp2"]
NAMES = ["tp2", "cp2 ring", "zero2", "pp2", "zero3 tp2"]
CASES = [
    pytest.param(("gpt", "bert")[row % 2], name, dtype, marks=[pytest.mark.numerics] * (name in AGAIN))
    for row, name in enumerate(NAMES)
    for dtype in ("bf16", "fp8", *["fp16"][: row < 2])
]


@pytest.mark.parametrize(("family", "name", "dtype"), CASES)
def test_close_to_one_process(pool: Pool, alone: Alone, corpus: Corpus, family: str, name: str, dtype: str) -> None:
    processes, words = LAYOUTS[name]
    settings = f"precision.dtype={dtype}", SAME
    got = pool.run(processes, curve, corpus.folder, family, *words, *settings)[0]
    assert farthest(got, alone(family, *settings)) < (SPLIT if name in SPLITTING else UNSPLIT)[dtype]


def whole_batch(dtype: str) -> float:
    """How far one process may be from itself in micro-batches. The processor's own bf16 products round differently when
    there are more rows of them, emulated ones hardly; in fp8 each micro-batch has scales of its own.
    """
    native = gemm.native_bf16(torch.device("cpu"))
    return {"bf16": 1e-2 if native else 2e-3, "fp16": 5e-4, "fp8": 3e-2 if native else 1e-2}[dtype]


@pytest.mark.numerics
@pytest.mark.parametrize(("family", "dtype"), [("gpt", "bf16"), ("bert", "bf16"), ("gpt", "fp16"), ("gpt", "fp8")])
def test_micro_batches_are_close_to_the_whole_batch(alone: Alone, family: str, dtype: str) -> None:
    setting = f"precision.dtype={dtype}"
    assert farthest(alone(family, setting, SAME), alone(family, setting, WHOLE)) < whole_batch(dtype)


@pytest.mark.parametrize("dtype", EXACT)
def test_close_to_fp32(alone: Alone, dtype: str) -> None:
    gap = farthest(alone("gpt", f"precision.dtype={dtype}", WHOLE), alone("gpt"))
    assert EXACT[dtype] / 20 < gap < EXACT[dtype]


def scales(folder: Path, *words: str) -> list[tuple[float, float]]:
    """After each step, how many were skipped so far and the loss scale."""
    trainer, _ = made(folder, "gpt", "precision.dtype=fp16", "precision.loss_scale=1e9", *words)
    told = []
    for step in range(12):
        trainer.step(step)
        told.append((float(trainer.guard.skipped), trainer.scale.value))
    trainer.loader.close()
    return told


@pytest.mark.parametrize("name", ["tp2", "zero2", "pp2", "dp2 tp2"])
def test_an_overflow_is_one_for_all(pool: Pool, corpus: Corpus, name: str) -> None:
    """A scale that is far too large: every rank skips the same steps, as one process does."""
    processes, words = LAYOUTS[name]
    (one,) = pool.run(1, scales, corpus.folder)
    assert 0 < one[-1][0] < 12, "some steps overflow, and some do not"
    for told in pool.run(processes, scales, corpus.folder, *words):
        assert told == one


def in_graphs(folder: Path, family: str, *words: str) -> Curve:
    """The curve with blocks as torch's compiler captures and cuts them, messages and all, but run by torch's kernels.
    What C++ inductor then makes of such a graph is of one process (train/test_trainer.py), and takes minutes on four.
    Only the second replica compiles, whose groups are not those of the first: the gradients and losses are of both.
    """
    with pytest.MonkeyPatch.context() as patch:
        compiler = partial(torch.compile, backend="aot_eager")
        patch.setattr(torch, "compile", compiler if dist.get_rank() >= 2 else lambda function, **_: function)
        return curve(folder, family, "train.compile=on", *words)


@pytest.mark.parametrize("name", ["dp2 tp2"])
def test_compiled_blocks_have_the_same_curve(pool: Pool, alone: Alone, corpus: Corpus, name: str) -> None:
    processes, words = LAYOUTS[name]
    got = pool.run(processes, in_graphs, corpus.folder, "gpt", *words)[0]
    assert farthest(got, alone("gpt")) < TOLERANCE

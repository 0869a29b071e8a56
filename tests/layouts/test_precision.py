"""Lower precision on layouts: rounding differs with the order of sums, decisions do not differ at all."""

from pathlib import Path

import pytest

from tests.layouts.conftest import Alone
from tests.layouts.curves import curve, farthest, made
from tests.layouts.pool import Pool
from tests.layouts.test_curves import LAYOUTS, TOLERANCE
from tests.train.runs import Corpus

# Of losses near 6 after twelve steps, and of gradient norms; 8 binary digits a product in bf16, 11 in fp16, 4 in fp8.
CLOSE = {"bf16": 5e-3, "fp16": 1e-3, "fp8": 5e-2}
NAMES = ["tp2", "cp2 ring", "zero2", "pp2", "zero3 tp2"]
CASES = [
    (("gpt", "bert")[row % 2], name, dtype)
    for row, name in enumerate(NAMES)
    for dtype in ("bf16", "fp8", *["fp16"][: row < 2])
]


@pytest.mark.parametrize(("family", "name", "dtype"), CASES)
def test_close_to_one_process(pool: Pool, alone: Alone, corpus: Corpus, family: str, name: str, dtype: str) -> None:
    processes, words = LAYOUTS[name]
    got = pool.run(processes, curve, corpus.folder, family, f"precision.dtype={dtype}", *words)[0]
    assert farthest(got, alone(family, f"precision.dtype={dtype}")) < CLOSE[dtype]


@pytest.mark.parametrize("dtype", CLOSE)
def test_close_to_fp32(alone: Alone, dtype: str) -> None:
    gap = farthest(alone("gpt", f"precision.dtype={dtype}"), alone("gpt"))
    assert CLOSE[dtype] / 100 < gap < 3 * CLOSE[dtype]


def scales(folder: Path, *words: str) -> list[tuple[float, float]]:
    """After each step, how many were skipped so far and the loss scale."""
    trainer, _ = made(folder, "gpt", "precision.dtype=fp16", "precision.loss_scale=1e9", *words)
    told = []
    for step in range(12):
        trainer._step(step)
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


@pytest.mark.parametrize("name", ["dp2 tp2"])
def test_compiled_blocks_have_the_same_curve(pool: Pool, alone: Alone, corpus: Corpus, name: str) -> None:
    processes, words = LAYOUTS[name]
    got = pool.run(processes, curve, corpus.folder, "gpt", "train.compile=on", *words)[0]
    assert farthest(got, alone("gpt")) < TOLERANCE

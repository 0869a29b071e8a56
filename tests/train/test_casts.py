"""What rounding to bf16 must not come to: a weight cast more than once a micro-batch, or again in backward."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from phalanx.precision import gemm
from tests.layouts.curves import made
from tests.train.runs import Corpus


class Casts(TorchDispatchMode):
    """Counts by shape what becomes bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and found.dtype == torch.bfloat16:
            self.shapes[tuple(args[0].shape)] += 1
        return found


@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_a_weight_is_cast_once_a_micro_batch(corpus: Corpus, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on hardware that multiplies bf16, which not every machine of tests does."""
    monkeypatch.setattr(gemm, "native_bf16", lambda _: True)
    trainer, _ = made(corpus.folder, family, "precision.dtype=bf16", "train.batch=10", "layout.micro_batch=5")
    shapes = [
        tuple(p.shape) for name, p in trainer.model.named_parameters() if p.ndim == 2 and "embeddings" not in name
    ]
    vocabulary = (trainer.config.model.vocab, trainer.config.model.hidden)
    try:
        with Casts() as casts:
            trainer.step(0)
    finally:
        trainer.loader.close()
    expected = Counter(shapes)
    assert len(expected) >= 4
    for shape, count in expected.items():
        assert casts.shapes[shape] == 2 * count, shape
    assert casts.shapes[vocabulary] == 2

"""The test of one curve bites: three well-known mistakes, made on purpose, are far outside its tolerance."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from phalanx.nn import random
from phalanx.nn.batch import Batch
from phalanx.parallel.layout import Layout
from phalanx.parallel.pipeline import Objective, Sums
from phalanx.spec import partition
from tests.layouts.conftest import Alone
from tests.layouts.curves import Curve, curve, farthest
from tests.layouts.pool import Pool
from tests.layouts.test_curves import TOLERANCE
from tests.layouts.test_precision import SAME, SPLIT, UNSPLIT
from tests.train.runs import Corpus

Control = Callable[[pytest.MonkeyPatch], None]


def no_sum_for_norms(patch: pytest.MonkeyPatch) -> None:
    """Norms, biases and positions keep the gradients of this rank's part of the stream."""
    patch.setattr(partition, "partial", lambda *_: False)


def masks_of_the_rank(patch: pytest.MonkeyPatch) -> None:
    """Every rank draws its dropout from a key of its own, as from a generator of its own."""
    rows = random.rows
    rank = dist.get_rank()
    patch.setattr(random, "rows", lambda index, key, site: rows(index, key ^ rank, site))


def mean_of_means(patch: pytest.MonkeyPatch) -> None:
    """Every replica takes the gradient of its own mean, and these are averaged."""
    count, backward = Layout.global_counts, Layout.backward
    shares: dict[str, Tensor] = {}

    def counts(self: Layout, losses: Sequence[str], here: Mapping[str, Tensor]) -> dict[str, int]:
        whole = count(self, losses, here)
        shares.update({name: whole[name] / (self.mesh.data.size * here[name].clamp_min(1)) for name in whole})
        return whole

    def own(self: Layout, batches: Sequence[Batch], objective: Objective) -> list[Sums]:
        return backward(self, batches, lambda sums: objective({name: sums[name] * shares[name] for name in shares}))

    patch.setattr(Layout, "global_counts", counts)
    patch.setattr(Layout, "backward", own)


def broken(control: Control, folder: Path, family: str, *words: str) -> Curve:
    """This rank's curve with a mistake in the code, which goes when the curve is done: the processes stay."""
    with pytest.MonkeyPatch.context() as patch:
        control(patch)
        return curve(folder, family, *words)


@pytest.mark.parametrize(
    ("control", "family", "layout"),
    [
        (no_sum_for_norms, "gpt", "layout.tp=2"),
        (no_sum_for_norms, "bert", "layout.tp=2"),
        (masks_of_the_rank, "gpt", "layout.dp=2"),
        (masks_of_the_rank, "bert", "layout.tp=2"),
        (mean_of_means, "bert", "layout.dp=2"),
    ],
)
def test_a_mistake_is_seen(
    pool: Pool, alone: Alone, corpus: Corpus, control: Control, family: str, layout: str
) -> None:
    right, wrong = alone(family), pool.run(2, broken, control, corpus.folder, family, layout)[0]
    gap = torch.tensor([right.losses, wrong.losses]).diff(dim=0).abs().max().item()
    print(
        f"{control.__name__}, {family}, {layout}: losses differ by {gap:.1e}, with norms {farthest(right, wrong):.1e}"
    )
    assert gap > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("control", "family", "layout", "dtype", "tolerance"),
    [
        (no_sum_for_norms, "gpt", "layout.tp=2", "bf16", SPLIT),
        (masks_of_the_rank, "bert", "layout.tp=2", "fp8", SPLIT),
        (mean_of_means, "bert", "layout.dp=2", "bf16", UNSPLIT),
        (mean_of_means, "bert", "layout.dp=2", "fp8", UNSPLIT),
    ],
)
def test_a_mistake_is_seen_in_lower_precision(
    pool: Pool,
    alone: Alone,
    corpus: Corpus,
    control: Control,
    family: str,
    layout: str,
    dtype: str,
    tolerance: dict[str, float],
) -> None:
    # eight steps: in lower precision a mistake takes longer to stand out
    settings = f"precision.dtype={dtype}", SAME, "model.dropout=0.3", "train.steps=8", "train.eval_every=4"
    (wrong, _) = pool.run(2, broken, control, corpus.folder, family, *settings, layout)
    assert farthest(wrong, alone(family, *settings)) > 2 * tolerance[dtype]


def test_mean_of_means_is_right_where_counts_are_equal(pool: Pool, alone: Alone, corpus: Corpus) -> None:
    """So it is the counts that the control shows, not itself."""
    curves = pool.run(2, broken, mean_of_means, corpus.folder, "gpt", "layout.dp=2")
    assert farthest(curves[0], alone("gpt")) < TOLERANCE

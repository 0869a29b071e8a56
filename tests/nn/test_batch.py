"""A batch keeps its coordinates whatever part of it is taken, and is a pytree."""

import torch
from torch.utils import _pytree as pytree

from phalanx.nn.batch import Batch
from tests.batches import batch_of


def batch() -> Batch:
    tokens = torch.arange(12).view(3, 4)
    return batch_of(tokens, positions=8, key=5, labels=tokens + 1, related=torch.tensor([0, 1, -1]))


def test_rows_keep_their_coordinates() -> None:
    part = batch().rows(1, 3)
    assert part.tokens.tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert part.index.tolist() == [[8, 9, 10, 11], [16, 17, 18, 19]]
    assert part.key.tolist() == [5, 5]
    assert part.labels is not None and part.labels.tolist() == [[5, 6, 7, 8], [9, 10, 11, 12]]
    assert part.related is not None and part.related.tolist() == [1, -1]
    assert part.segment is None and part.document is None


def test_to_moves_every_tensor() -> None:
    moved = batch().to(torch.device("meta"))
    assert {leaf.device.type for leaf in pytree.tree_leaves(moved) if leaf is not None} == {"meta"}


def test_pytree_there_and_back() -> None:
    doubled = pytree.tree_map(lambda leaf: leaf if leaf is None else 2 * leaf, batch())
    assert isinstance(doubled, Batch)
    assert torch.equal(doubled.index, 2 * batch().index)
    assert doubled.segment is None

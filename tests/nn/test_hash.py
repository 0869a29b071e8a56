"""The hash on tensors is the hash on arrays: what data draws and what the model draws are of one kind."""

import numpy as np
import torch

from phalanx.data import hash as on_arrays
from phalanx.nn import random


def test_the_same_hash_as_on_arrays() -> None:
    words = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32)
    words[:4] = 0, 1, 1 << 31, (1 << 32) - 1
    mixed = random.mix(torch.from_numpy(words.view(np.int32))).numpy()
    np.testing.assert_array_equal(mixed, np.asarray(on_arrays.mix(words)).view(np.int32))

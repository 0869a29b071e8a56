"""Where keys and values are kept."""

from pathlib import Path

import pytest
import torch

from phalanx.infer.kv_cache import KVCache

STATUS = Path("/proc/self/status")


def held() -> int:
    """Bytes of this process that are in memory."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10


@pytest.mark.skipif(not STATUS.exists(), reason="no /proc to ask")
def test_room_for_tokens_that_never_come_takes_no_memory() -> None:
    before = held()
    cache = KVCache.within(1 << 30, 64, layers=2, heads=2, width=32, like=torch.empty(0))
    assert cache.keys[0].shape[1] > 1_000_000
    assert held() - before < 1 << 26

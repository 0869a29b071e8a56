"""Freed memory is there for the next step."""

import subprocess
import sys

import pytest

from phalanx.train import allocator

FAULTS = """
import resource, torch
from phalanx.train import allocator
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(3 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
usual = faults()
allocator.keep_freed()
faults()
print(usual, faults())
"""


def test_freed_memory_is_kept() -> None:
    if not allocator.glibc():
        pytest.skip("the C library is not glibc")
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    usual, kept = map(int, run.stdout.split())
    assert kept < usual / 5

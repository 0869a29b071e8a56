"""The tests of numerics once more under a cap on instructions, where the processor has more: `python -m tests.capped`.

A processor with AVX-512, VNNI or bf16 then computes as one with AVX2 alone: by torch, oneDNN and the native kernels.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from phalanx import processor

CAPS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
MORE = {"avx512f", "avx_vnni"}  # what the caps leave out, as Linux calls it
MARK = "pytest.mark.numerics"


def has_more(features: Iterable[str]) -> bool:
    """Whether a processor with these features would compute otherwise under the caps."""
    return "avx2" in features and not MORE.isdisjoint(features)


def marked(folder: Path) -> list[str]:
    """The files below a folder that have such tests, so that no others are collected."""
    return sorted(str(file) for file in folder.rglob("test_*.py") if MARK in file.read_text(encoding="utf-8"))


def main() -> None:
    """Become pytest, or say why not. Words are pytest's."""
    if not has_more(processor.features()):
        print("numerics: this processor has nothing that a cap on AVX2 would leave out")
        return
    words = [sys.executable, "-m", "pytest", "-m", "numerics", *sys.argv[1:], *marked(Path(__file__).parent)]
    os.execve(sys.executable, words, {**os.environ, **CAPS})


if __name__ == "__main__":
    main()

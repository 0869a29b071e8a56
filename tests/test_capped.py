"""Numerics are tested once more with fewer instructions, and only where the processor has more."""

import os
import sys

import pytest

from phalanx import processor
from tests import capped


@pytest.mark.parametrize(
    ("features", "more"),
    [
        ("sse2 avx avx2 fma", False),
        ("sse2 avx avx2 fma avx_vnni", True),
        ("sse2 avx avx2 fma avx512f avx512_vnni", True),
        ("asimd sve", False),
        ("", False),
    ],
)
def test_where_they_are_run(
    features: str, more: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(processor, "features", lambda: tuple(features.split()))
    monkeypatch.setattr(sys, "argv", ["capped", "-x"])
    monkeypatch.setattr(os, "execve", lambda *given: ran.append(given))
    capped.main()
    assert len(ran) == more and bool(capsys.readouterr().out) != more
    for program, words, environment in ran:
        assert words[:6] == [program, "-m", "pytest", "-m", "numerics", "-x"]
        assert environment["ATEN_CPU_CAPABILITY"] == "avx2" and environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"
        found = "\n".join(words)
        for part in (
            "precision/test_gemm",
            "infer/test_kernels",
            "parity/test_bert",
            "layouts/test_curves",
            "hot_paths",
        ):
            assert part in found

"""Planning for 512 GPUs stays a matter of a second: what would make it longer, counted."""

import subprocess
import sys
from collections import Counter
from types import FrameType

from phalanx.plan import cluster
from phalanx.plan.proposal import Question
from phalanx.plan.search import search

PROGRAM = """
import sys
from typer.testing import CliRunner
from phalanx.cli import app

told = CliRunner().invoke(app, ["plan", "gpt2-8.3b", "--gpus", "512"])
print(told.exit_code, [name for name in ("torch", "numpy") if name in sys.modules])
"""


def test_planning_imports_no_torch() -> None:
    """Which takes longer than all the rest."""
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "0 []"


def test_most_layouts_cost_next_to_nothing() -> None:
    """Calls of Python's functions in a search: few layouts are worked out, no kernel is timed twice."""
    where, calls = cluster.load("dgx2h-2019"), Counter[str]()
    config = Question("gpt2-8.3b", (), "dgx2h-2019", where, 512).config

    def note(frame: FrameType, event: str, _: object) -> None:
        calls[frame.f_code.co_qualname] += event == "call"

    sys.setprofile(note)
    try:
        found = search(config, where, 512, {})
    finally:
        sys.setprofile(None)
    assert found.layouts > 17_000 and found.worked_out < 650
    assert calls["layout_misfit"] < 2_000 and calls["Step.prediction"] < 500
    assert calls["Timer.busy"] < 1_200 < 25_000 < calls["Timer.__call__"]
    assert calls.total() < 64 * found.layouts

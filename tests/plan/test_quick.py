"""Planning for 512 GPUs stays a matter of a second: what would make it longer, counted."""

import subprocess
import sys

PROGRAM = """
import sys
from typer.testing import CliRunner
from phalanx.cli import app

told = CliRunner().invoke(app, ["plan", "gpt2-8.3b", "--gpus", "512"])
print(told.exit_code, "torch" in sys.modules)
"""


def test_planning_imports_no_torch() -> None:
    """Which takes longer than all the rest."""
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "0 False"

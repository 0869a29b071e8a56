"""Ctrl-C at any moment of a start ends the command."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from phalanx.cli.interrupts import end_during_imports

SWALLOWS = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt:
    pass  # as code in C may clear it
"""
PROGRAM = """
import sys
from phalanx.cli.interrupts import end_during_imports
end_during_imports()
sys.path.insert(0, sys.argv[1])
import swallows
print("it went on")
"""


def test_while_a_module_is_imported(tmp_path: Path) -> None:
    """Silently, though the module would hide it."""
    (tmp_path / "swallows.py").write_text(SWALLOWS)
    ended = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


def test_elsewhere_it_is_an_exception() -> None:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        end_during_imports()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)

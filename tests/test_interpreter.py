"""The stand-in for the interpreter does what Python does."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interpreter import python

WORDS = {
    "code": ["-c", "import sys, os; print(sys.argv, os.getcwd(), sys.stdin.read()); print('e', file=sys.stderr)", "a"],
    "exit code": ["-c", "raise SystemExit(75)"],
    "an exit with a text": ["-c", "raise SystemExit('no')"],
    "module": ["-m", "json.tool", "--compact"],
    "a signal": ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"],
    "interrupted": ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(60)"],
    "environment": ["-c", "import os; print(os.environ['SOME'], 'OTHER' in os.environ)"],
    "processes": [
        "-c",
        "import multiprocessing\np = multiprocessing.get_context('spawn').Process(target=print, args=(3,))\n"
        "p.start(); p.join(); print(p.exitcode)",
    ],
}


@pytest.mark.parametrize("what", WORDS)
def test_as_python(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME", "thing")
    told = [
        subprocess.run(
            [interpreter, *WORDS[what]], input="[1]", capture_output=True, text=True, cwd=tmp_path, check=False
        )
        for interpreter in (sys.executable, python())
    ]
    real, ours = ((one.returncode, one.stdout, one.stderr.splitlines()[-1:]) for one in told)
    assert ours == real


def test_signals_go_through_and_a_kill_leaves_nothing(tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    for number in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen([python(), "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            child = int(process.stdout.readline())
            watched = os.pidfd_open(child)
            process.send_signal(number)
            assert process.stdout.read() == ""  # the end: nobody holds the pipe any more
            assert process.wait() == -number
        assert select.select([watched], [], [], 60)[0], "the process that was forked has ended too"
        os.close(watched)

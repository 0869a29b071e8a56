"""Ctrl-C while modules are imported, which takes seconds of a start."""

import os
import signal
from types import FrameType


def end_during_imports() -> None:
    """Have SIGINT end the process at once while a module is imported, and raise KeyboardInterrupt elsewhere, as usual.

    Modules that are written in C may clear the exception: the program would go on as if nobody had asked it to stop, or
    with half a module. Nothing is lost: whatever a verb saves survives a kill.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        frame = frame.f_back
    raise KeyboardInterrupt

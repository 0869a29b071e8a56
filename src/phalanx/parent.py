"""Ties of a process to the one that started it, which it must not outlive."""

import os
import signal
import sys

LAUNCHER = "PHALANX_LAUNCHER"  # the process that started this rank, in the environment
PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with_launcher() -> None:
    """End this rank with the process that started it: phalanx's launcher, or torchrun's agent, which does not say who
    it is. (Both wait for their ranks in the thread that started them; of others, such as Slurm's, that is not known,
    and they see to their own.)
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with(int(os.environ.pop(LAUNCHER, "") or os.getppid()))


def end_with(parent: int) -> None:
    """Have the kernel kill this process, be it stopped or hung, when the process `parent` that started it is gone; on
    Linux, elsewhere nothing is done. (The kernel watches the thread that started it, which must live as long.)
    """
    if sys.platform != "linux":
        return
    import ctypes  # here, since every command imports this module

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was gone before the kernel was told

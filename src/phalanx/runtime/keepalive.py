"""Signs of life between machines: a process that dies, or whose machine is cut off, is missed by all others in seconds.

A dead process's connections break, and whoever talks to it gets an error. A cable that is cut breaks nothing: the
kernel would go on sending for a quarter of an hour, and for ever where it only waits. So it is told to ask now and then
whether the other side is there. It answers for a process that is busy, or stopped: only silence of its machine counts.
"""

import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch.distributed as dist

from phalanx.errors import InputError
from phalanx.runtime.rendezvous import first_here, lost_process, was_reported

SILENCE = 20  # seconds without a sign of another machine after which it is lost


@contextmanager
def fail_together() -> Iterator[None]:
    """Guard work that others take part in: a process that fails in the block ends at once, so that they learn of it and
    end too. To end in order would be to wait for what its threads still expect of a process that is gone.
    """
    if not dist.is_initialized():
        yield
        return

    _ask_for_signs()
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        if not (reason := lost_process(error)):
            traceback.print_exc()
        elif was_reported():
            time.sleep(SILENCE)  # who has told why ends all, with its own exit code
        elif first_here():  # one of each machine
            print(f"phalanx: {reason}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)


def _ask_for_signs() -> None:
    """Set the kernel's patience for every TCP connection that this process has by now."""
    for entry in Path("/proc/self/fd").glob("*"):
        if not entry.is_socket():
            continue
        with suppress(OSError), socket.socket(fileno=os.dup(int(entry.name))) as connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE // 4)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE // 4)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE * 1000)

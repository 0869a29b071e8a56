"""A stand-in for the Python interpreter: `python()` is the path of a program that takes `-m module …` or `-c code …` as
Python does, but the work is done in a process forked from one that has imported everything. A start takes a tenth of a
second of the processor instead of the two that importing torch takes. Tests of how a fresh interpreter starts, or of a
parent that is killed, need the real one: `sys.executable`.

The program hands over its arguments, environment, working directory, open files and namespaces, forwards signals, and
ends as the forked process ends. When it is killed, so is that process.
"""

import atexit
import ctypes
import json
import multiprocessing
import os
import runpy
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from functools import cache
from multiprocessing import forkserver, process, resource_tracker, util
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import torch

from phalanx.parent import LAUNCHER
from tests.train.processes import start

# It imports nothing large. Files beyond the first three are those that a parent means to pass on.
PROGRAM = """#!{python} -ISs
import json, os, signal, socket, sys
def inherited(file):
    try:
        return os.get_inheritable(file)
    except OSError:
        return False
files = [0, 1, 2, *(n for n in map(int, os.listdir("/proc/self/fd")) if n > 2 and inherited(n))]
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
text = json.dumps(dict(words=sys.argv[1:], env=dict(os.environ), cwd=os.getcwd(), files=files)).encode()
socket.send_fds(server, [len(text).to_bytes(8, "big")], files)
server.sendall(text)
answers = server.makefile()
process = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, _: os.kill(process, number))
code = int(answers.readline() or -9)
if code < 0:
    if code != -9:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@cache
def python() -> str:
    """The program's path. What serves it ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="python")
    address, program = str(Path(folder.name) / "server"), Path(folder.name) / "python"
    program.write_text(PROGRAM.format(python=sys.executable, address=address))
    program.chmod(0o700)
    lives, life = multiprocessing.Pipe(duplex=False)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        start(_serve, listener, lives, str(program))
    lives.close()
    atexit.register(folder.cleanup)
    atexit.register(life.close)  # before multiprocessing waits for its children
    return str(program)


def _serve(listener: socket.socket, lives: Connection, program: str) -> None:
    """Fork a keeper for every client; nobody waits for it. End with whoever asked for this, however they end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while lives not in select.select([listener, lives], [], [])[0]:
        client, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            try:
                _keep(client, program)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        client.close()


def _keep(client: socket.socket, program: str) -> None:
    """Fork what does the client's work, tell its number, and how it ended; end it when the client has gone."""
    size, files, _, _ = socket.recv_fds(client, 8, 64)
    asked = json.loads(client.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
    whose, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    child = os.fork()
    if child == 0:
        client.close()
        _enter(whose)
        _become(asked, files, program)
    for file in files:
        os.close(file)

    client.sendall(f"{child}\n".encode())
    ready, _, _ = select.select([os.pidfd_open(child), client], [], [])
    if client in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with suppress(BrokenPipeError):  # nobody is there to be told
        client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _enter(whose: int) -> None:
    """The namespaces of another process, where they are not this one's: tests make hosts of them."""
    if Path(f"/proc/{whose}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
        return
    library, spaces = ctypes.CDLL(None, use_errno=True), 0x40000000 | 0x04000000 | 0x00020000  # net, uts, mnt
    if library.setns(os.pidfd_open(whose), spaces):
        raise OSError(ctypes.get_errno(), "setns")


def _become(asked: dict[str, Any], files: list[int], program: str) -> NoReturn:
    """In the forked process: what a fresh interpreter would be with these words, until it ends."""
    _open(asked["files"], files)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    if LAUNCHER in os.environ:  # which a rank believes to be its parent
        os.environ[LAUNCHER] = str(os.getppid())
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    sys.executable = program
    multiprocessing.set_executable(program)
    me = process.current_process()
    me._identity, me._name, me._parent_pid = (), "MainProcess", None
    me._config = {"authkey": me.authkey, "semprefix": "/mp"}
    process._parent_process = None
    util._finalizer_registry.clear()
    forkserver._forkserver = forkserver.ForkServer()
    resource_tracker._resource_tracker.__init__()
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))

    code = _done(asked["words"])
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    os._exit(code)


def _open(numbers: list[int], files: list[int]) -> None:
    """Each file under the number that it had for the client."""
    apart = [os.dup2(file, 500 + place) for place, file in enumerate(files)]
    for file in files:
        os.close(file)
    for number, file in zip(numbers, apart, strict=True):
        os.dup2(file, number)
        os.close(file)
    unbuffered = "PYTHONUNBUFFERED" in os.environ
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout.reconfigure(write_through=unbuffered)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115


def _done(words: list[str]) -> int:
    """Run a module, some code or a file; the exit code."""
    while words[0] not in ("-m", "-c") and words[0].startswith("-"):
        words = words[1:]
    how, *rest = words
    try:
        if how == "-m":
            sys.path.insert(0, str(Path.cwd()))
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif how == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = words
            runpy.run_path(how, run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, int | None):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

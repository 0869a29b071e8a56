"""Hosts on one machine: network namespaces with addresses and names of their own, joined by a switch.

Each knows itself by 127.0.1.1, as Debian sets up its machines, and the others by their addresses. The file system is
everybody's. Needs root, and `ip` of iproute2.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

NAMES = ("alpha", "beta", "gamma", "delta")
_ENTER = 'mount --bind "$1" /etc/hosts && hostname "$2" && shift 2 && exec "$@"'


def refused() -> str:
    """Why there can be no hosts here; nothing where they can."""
    if missing := [name for name in ("ip", "unshare", "mount", "hostname") if not shutil.which(name)]:
        return f"{missing[0]} is not installed"
    if os.geteuid():
        return "network namespaces need root"
    try:
        with Hosts(1) as hosts:
            hosts.run("alpha", ["true"]).wait()
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed: {error.stderr.strip()}"
    return ""


class Hosts:
    """A context manager: alpha at 10.77.0.1, beta at 10.77.0.2 and so on. Leaving it kills what runs there."""

    def __init__(self, count: int) -> None:
        assert count <= len(NAMES)
        self.names = NAMES[:count]
        self.addresses = {name: f"10.77.0.{number}" for number, name in enumerate(self.names, 1)}
        self.started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            self._folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
            _sweep()
            undo.callback(self._remove)
            _ip("netns", "add", self._space("switch"))
            _ip("-n", self._space("switch"), "link", "add", "switch", "type", "bridge")
            _ip("-n", self._space("switch"), "link", "set", "switch", "up")
            for name in self.names:
                self._add(name)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def run(self, host: str, command: Sequence[str], output: IO[str] | None = None,
            environment: dict[str, str] | None = None) -> subprocess.Popen[str]:  # fmt: skip
        """Start a command on a host; both its streams go to `output`, or are ours."""
        inside = ["unshare", "--uts", "sh", "-c", _ENTER, "enter", str(self._folder / host), host]
        process = subprocess.Popen(
            ["ip", "netns", "exec", self._space(host), *inside, *command], stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, env={**os.environ, **(environment or {})}, start_new_session=True, text=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def kill(self, host: str) -> None:
        """As when the power fails: every process of the host is gone."""
        _kill(self._space(host))

    def cut(self, host: str) -> None:
        """Pull the host's cable: nothing comes or goes, and nobody is told."""
        _ip("-n", self._space("switch"), "link", "set", host, "down")

    def mend(self, host: str) -> None:
        """Put it back."""
        _ip("-n", self._space("switch"), "link", "set", host, "up")

    def _add(self, name: str) -> None:
        space = self._space(name)
        others = "".join(f"{address} {other}\n" for other, address in self.addresses.items() if other != name)
        (self._folder / name).write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n{others}")
        _ip("netns", "add", space)
        _ip("-n", space, "link", "add", "wire", "type", "veth", "peer", "name", name, "netns", self._space("switch"))
        _ip("-n", self._space("switch"), "link", "set", name, "master", "switch", "up")
        _ip("-n", space, "addr", "add", f"{self.addresses[name]}/24", "dev", "wire")
        for device in ("lo", "wire"):
            _ip("-n", space, "link", "set", device, "up")

    def _space(self, name: str) -> str:
        """The namespace's name, which says whose it is."""
        return f"phalanx-{os.getpid()}-{name}"

    def _remove(self) -> None:
        for space in _spaces():
            if space in map(self._space, ("switch", *self.names)):
                _delete(space)
        for process in self.started:
            process.wait()


def _spaces() -> list[str]:
    """The namespaces of this and other such processes."""
    names = [line.split()[0] for line in _ip("netns", "list").splitlines()]
    return [name for name in names if name.startswith("phalanx-")]


def _sweep() -> None:
    """Remove what processes left that were killed themselves."""
    for space in _spaces():
        if not Path("/proc", space.split("-")[1]).exists():
            _delete(space)


def _delete(space: str) -> None:
    _kill(space)
    _ip("netns", "del", space)


def _kill(space: str) -> None:
    while processes := _ip("netns", "pids", space).split():
        for number in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout

"""A Slurm cluster of two nodes on this machine, in one folder, by Debian's packages slurmctld, slurmd, slurm-client and
munge: `python -m tests.machines.slurm FOLDER` keeps one up until Ctrl-C.

Each node is a slurmd with an address of its own, 127.0.0.2 and 127.0.0.3. Jobs of the partition `high` preempt those of
`low`, the default, which have a grace time and are then queued again. A requeued job may start again after seconds,
which is what cred_expire shortens from two minutes.
"""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
NodeName=127.0.0.2 NodeHostname={host} Port={ports[1]} CPUs=1
NodeName=127.0.0.3 NodeHostname={host} Port={ports[2]} CPUs=1
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


class CannotRun(Exception):
    """Why there can be no cluster here."""


class Cluster:
    """The daemons, for as long as the context lasts; `SLURM_CONF` of this process's environment names them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        missing = [name for name in PROGRAMS if not _path(name)]
        if missing:
            raise CannotRun(f"no {', '.join(missing)} here; Debian has them in slurmctld, slurmd, slurm-client, munge")
        self._configure()
        try:
            own = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
            self._start("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *own)
            self._until("munged", (self.folder / "munge.socket").exists)
            self._start("slurmctld", "-D")
            for node in "127.0.0.2", "127.0.0.3":
                self._start("slurmd", "-D", "-N", node)
            self._until("slurmd", lambda: command("sinfo", "-h", "-p", "low", "-o", "%T %D").strip() == "idle 2")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        command("scancel", "--user", getpass.getuser())
        deadline = time.monotonic() + 40
        while command("squeue", "-h") and time.monotonic() < deadline:
            time.sleep(0.2)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            daemon.wait()

    def _configure(self) -> None:
        (self.folder / "state").mkdir(parents=True)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        conf = self.folder / "slurm.conf"
        conf.write_text(CONF.format(
            folder=self.folder, host=socket.gethostname().split(".")[0], user=getpass.getuser(), ports=_free_ports(3)
        ))  # fmt: skip
        os.environ["SLURM_CONF"] = str(conf)

    def _start(self, name: str, *arguments: str) -> None:
        program = _path(name)
        assert program
        with (self.folder / f"{name}-{len(self.daemons)}.log").open("wb") as log:
            self.daemons.append(subprocess.Popen([program, *arguments], stdout=log, stderr=log))

    def _until(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not ready():
            if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in self.daemons):
                said = [line for log in self.folder.glob("*.log") for line in log.read_text().splitlines()]
                errors = [line for line in said if "error" in line.lower() or "fatal" in line]
                raise CannotRun(f"{name} does not start: {(errors or said or ['it says nothing'])[-1]}")
            time.sleep(0.2)


def command(*words: str) -> str:
    """What a command of Slurm prints; nothing where it fails, or there is none."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


def _path(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    with Cluster(Path(sys.argv[1])) as cluster:
        print(f"export SLURM_CONF={cluster.folder}/slurm.conf", flush=True)
        try:
            time.sleep(1e9)
        except KeyboardInterrupt:
            print("down")

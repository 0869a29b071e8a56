"""The processor as the operating system describes it, and how much of it this process may use."""

import math
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

CAPS = "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"


def name() -> str:
    """Return the processor's model name, as its maker gives it."""
    return _facts().get("model name") or platform.processor() or platform.machine()


def vendor() -> str:
    """Return the processor's vendor string, such as GenuineIntel; nothing where the system does not give it."""
    return _facts().get("vendor_id", "")


def features() -> tuple[str, ...]:
    """Return the extensions of its instruction set: avx2, avx512f, asimd, …"""
    return tuple((_facts().get("flags") or _facts().get("Features") or "").split())


def caps() -> tuple[str, ...]:
    """Return the caps on instructions that the environment puts on oneDNN and MKL, as NAME=value. What torch's own
    kernels use torch says itself.
    """
    return tuple(f"{name}={value.lower()}" for name in CAPS if (value := os.environ.get(name)))


def waited() -> float:
    """Return the seconds in which the calling thread could have run and had no core since it began; 0 if that is
    unknown.
    """
    try:
        _, nanoseconds, _ = Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 0.0
    return int(nanoseconds) / 1e9


def schedule_as_batch() -> None:
    """Make this thread, and those that it starts from now on, one that no message wakes at the cost of another.

    A thread that has just sent something is otherwise interrupted by the one that receives it, with a lock in its hands
    for which gloo's other threads wait without sleeping: where ranks outnumber cores that takes half of all their time.
    Nothing happens where the system knows no such thing or does not allow it.
    """
    if hasattr(os, "sched_setscheduler"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@cache
def _facts() -> dict[str, str]:
    """Return the first processor's lines of /proc/cpuinfo, by name; none where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may use: its affinity, or the quota of its cgroups rounded up where that is
    less.

    A container is often given a share of all CPUs (`docker run --cpus 2`) rather than some of them: its affinity then
    names them all, and a thread for each would spend the quota in a part of every period and wait for the rest of it.
    `root` is where /proc and /sys are.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPUs' worth of time that this process's cgroups and those above them allow, version 1 or 2."""
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            bases, version = [mounts, mounts / "unified"], 2
        elif "cpu" in controllers.split(","):
            bases, version = [mounts / controllers, mounts / "cpu"], 1
        else:
            continue
        for base in bases:
            group = base / path.strip("/")
            for folder in (group, *group.parents):  # a container may not see its own group, but the mount is then it
                if folder.is_relative_to(base):
                    yield from _quota(folder, version)


def _quota(group: Path, version: int) -> Iterator[float]:
    """Yield the CPUs' worth of time of one cgroup; nothing where there is no bound."""
    if version == 2:
        words = _read(group / "cpu.max").split()
    else:
        words = [*_read(group / "cpu.cfs_quota_us").split(), *_read(group / "cpu.cfs_period_us").split()]
    if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):  # "max" and -1 are no bound
        yield int(words[0]) / int(words[1])


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

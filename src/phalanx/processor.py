"""What the operating system says of the processor."""

import platform
from functools import cache
from pathlib import Path


def name() -> str:
    """What its maker calls it."""
    return _facts().get("model name") or platform.processor() or platform.machine()


def vendor() -> str:
    """Its maker as the processor itself says it, such as GenuineIntel; nothing where that is not told."""
    return _facts().get("vendor_id", "")


def features() -> tuple[str, ...]:
    """Extensions of its instruction set: avx2, avx512f, asimd, …"""
    return tuple((_facts().get("flags") or _facts().get("Features") or "").split())


def waited() -> float:
    """Seconds in which the calling thread could have run and had no core, since it began; 0 where that is unknown."""
    try:
        _, nanoseconds, _ = Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 0.0
    return int(nanoseconds) / 1e9


@cache
def _facts() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo, by name; none where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}

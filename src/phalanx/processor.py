"""What the operating system says of the processor."""

import platform
from pathlib import Path


def facts() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo, by name: vendor_id, flags, …; none where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def name() -> str:
    """What its maker calls it."""
    return facts().get("model name") or platform.processor() or platform.machine()


def abilities() -> tuple[str, ...]:
    """The instructions it knows beyond the first ones, in the system's words: avx2, avx512f, asimd, …"""
    known = facts()
    return tuple((known.get("flags") or known.get("Features") or "").split())

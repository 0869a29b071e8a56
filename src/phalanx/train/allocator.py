"""Tune glibc's malloc to keep freed memory.

Every step frees what it took and takes it again. By default glibc hands large pieces back to the system, which clears
each page anew on its next use: some 25,000 faults in a step of a small GPT, a twentieth of its time.
"""

import ctypes

# mallopt(3): the names are numbers of malloc.h; 32 MiB is the largest threshold that glibc takes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def keep_freed() -> None:
    """Keep freed memory for this process's next use, where the C library is glibc; elsewhere nothing happens."""
    if library := glibc():
        library.mallopt(_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_TOP_PAD, 64 << 20)


def glibc() -> ctypes.CDLL | None:
    """Return the C library, if it is glibc."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None

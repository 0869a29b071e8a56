"""The folder of the cache: what may be deleted, and is made or downloaded again."""

import os
from pathlib import Path


def home() -> Path:
    """Return the folder, PHALANX_CACHE or by default ~/.cache/phalanx, whether it is there or not."""
    named = os.environ.get("PHALANX_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phalanx"

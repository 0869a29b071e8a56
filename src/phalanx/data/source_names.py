"""Which names of data are sources from outside, or URLs, told without numpy: a plan asks it."""

import re
from pathlib import Path


def names_source(name: str) -> bool:
    """Return whether a name of data, maybe with a weight behind @, is "module:Name" rather than a prepared
    set's path.
    """
    place = name.partition("@")[0]
    return re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", place) is not None and not Path(f"{place}.bin").exists()


def is_remote(name: str | Path) -> bool:
    """Return whether a name of data is a URL rather than a path on this machine."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(name)) is not None

"""Which names of data are sources from outside, told without numpy: a plan asks it."""

import re
from pathlib import Path


def names_source(name: str) -> bool:
    """Return whether a name of data, maybe with a weight behind @, is "module:Name" rather than a prepared
    set's path.
    """
    place = name.partition("@")[0]
    return re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", place) is not None and not Path(f"{place}.bin").exists()

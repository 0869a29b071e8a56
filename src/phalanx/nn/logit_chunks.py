"""The rows of logits that are computed at once, by type of device. No torch: the planner asks too."""

LIMITS = {"cpu": (1 << 24, 512), "cuda": (1 << 26, 1 << 20)}  # logits held at once, and rows of them


def rows(device: str, columns: int, part: int = 1) -> int:
    """Return the rows of a chunk for a vocabulary of `columns`, of whose logits one in `part` is held at a time."""
    logits, most = LIMITS.get(device, LIMITS["cuda"])
    return max(1, min(most, part * logits // columns))

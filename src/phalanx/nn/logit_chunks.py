"""How many rows of logits are made at once: what a cache likes, or what fills a GPU. No torch: the planner asks too."""

LIMITS = {"cpu": (1 << 24, 512), "cuda": (1 << 26, 1 << 20)}  # logits held at once, and rows of them


def rows(device: str, columns: int, part: int = 1) -> int:
    """Rows of a chunk on a type of device, for a vocabulary of `columns`, of whose logits one in `part` is held."""
    logits, most = LIMITS.get(device, LIMITS["cuda"])
    return max(1, min(most, part * logits // columns))

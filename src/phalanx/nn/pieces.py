"""In pieces of how many rows logits are made: what a cache likes, what fills a GPU. No torch: the planner asks too."""

LIMITS = {"cpu": (1 << 24, 512), "cuda": (1 << 26, 1 << 20)}  # logits held at once, and rows of them


def height(device: str, columns: int, part: int = 1) -> int:
    """Rows of a piece, where of its logits one in `part` is held."""
    logits, most = LIMITS.get(device, LIMITS["cuda"])
    return max(1, min(most, part * logits // columns))

"""The hash behind every random number, on plain integers: a 32-bit avalanche function and keys made with it.

`nn/random.py` is the same function on tensors, `data/hash.py` on numpy arrays.
"""

WORD = 0xFFFFFFFF
GOLDEN = 0x9E3779B9
FIRST, SECOND = 0x7FEB352D, 0x846CA68B


def mix(word: int) -> int:
    """Avalanche one 32-bit word: two multiplications and three shifts."""
    word = ((word ^ (word >> 16)) * FIRST) & WORD
    word = ((word ^ (word >> 15)) * SECOND) & WORD
    return word ^ (word >> 16)


def key(*parts: int) -> int:
    """Return a 32-bit key of natural numbers: seed, step, the checksum of a name. Above 32 bits one counts
    as several.
    """
    folded = GOLDEN
    for part in parts:
        assert part >= 0
        folded = mix(folded ^ (part & WORD))
        while part := part >> 32:
            folded = mix(folded ^ (part & WORD))
    return folded
